"""Which images an evaluation asks for: one a scene, and of some scenes more wordings and more noises."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

_NOISES_OF_A_SCENE = 1000  # seeds of noise set apart for each scene
_SCENES_OF_A_SEED = 1_000_003


class Captioned(Protocol):
    """A real picture to evaluate on, such as ``weft.train.pictures.pairs.Pair``."""

    @property
    def captions(self) -> tuple[str, ...]: ...
    @property
    def group(self) -> int | None: ...
    def read(self) -> Image.Image: ...


@dataclass(frozen=True)
class Plan:
    """How many images, of what.

    Attributes:
        count: Scenes, each drawn once from its first caption: what distances, captions and retrieval are measured on.
        groups: Of these, the first so many are drawn from other wordings and other noises, too.
        paraphrases: Wordings of a scene, the first among them, from the same noise; a scene may have fewer.
        noises: Of the first caption of a scene, the first among them.
        seed: Of noise, subsets, folds and resamples.
    """

    count: int = 512
    groups: int = 64
    paraphrases: int = 6
    noises: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"count": 2, "groups": 0, "paraphrases": 1, "noises": 1, "seed": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"Plan: `{name}` must be at least {smallest}; got {getattr(self, name)}")
        if self.noises > _NOISES_OF_A_SCENE:
            raise ValueError(f"Plan: `noises` must be at most {_NOISES_OF_A_SCENE}; got {self.noises}")


@dataclass(frozen=True)
class Request:
    """One image.

    Attributes:
        scene: What it shows; images of the same scene say the same in other words or from other noise.
        caption: It is drawn from.
        noise: Equal numbers are the same noise.
    """

    scene: Hashable
    caption: str
    noise: int


def requests(pictures: Sequence[Captioned], plan: Plan) -> list[Request]:
    """Every image of ``plan``: first one of each scene, in their order, then those of the groups.

    Raises:
        ValueError: Fewer pictures than the plan counts.
    """
    if len(pictures) < plan.count:
        raise ValueError(
            f"evaluate: the plan wants {plan.count} pictures with captions; there are {len(pictures)}; lower the count"
        )
    first = [Request(number, pictures[number].captions[0], _noise(plan, number, 0)) for number in range(plan.count)]
    return first + [more for number in range(min(plan.groups, plan.count)) for more in _group(pictures, number, plan)]


def _group(pictures: Sequence[Captioned], number: int, plan: Plan) -> Iterator[Request]:
    """The further images of a scene."""
    first, *others = pictures[number].captions
    for caption in others[: plan.paraphrases - 1]:
        yield Request(number, caption, _noise(plan, number, 0))
    for noise in range(1, plan.noises):
        yield Request(number, first, _noise(plan, number, noise))


def _noise(plan: Plan, scene: int, noise: int) -> int:
    return (plan.seed * _SCENES_OF_A_SEED + scene) * _NOISES_OF_A_SCENE + noise


def first_of_scenes(requests: Sequence[Request]) -> list[int]:
    """The place of the first image of every scene."""
    found: dict[Hashable, int] = {}
    for place, request in enumerate(requests):
        found.setdefault(request.scene, place)
    return list(found.values())


def wordings(requests: Sequence[Request]) -> list[list[int]]:
    """Places of images that show one scene in different words from the same noise, by group of two or more."""
    groups: dict[Hashable, dict[str, int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault((request.scene, request.noise), {}).setdefault(request.caption, place)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def noises(requests: Sequence[Request]) -> list[list[int]]:
    """Places of images of one caption from different noises, by group of two or more."""
    groups: dict[Hashable, dict[int, int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault((request.scene, request.caption), {}).setdefault(request.noise, place)
    return [list(group.values()) for group in groups.values() if len(group) > 1]
