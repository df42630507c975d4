"""What each task says to the text encoder, and how the known dialects of task prompts differ: all of it data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

PromptName = Literal["context", "shape", "object"]
Task = Literal["removal", "insert", "shape", "context", "outpaint"]
Placement = Literal["after", "before", "released"]

NAMES: tuple[PromptName, ...] = get_args(PromptName)
TASKS: tuple[Task, ...] = get_args(Task)
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)

COUNT = 10  # vectors of a published prompt
STEPS = 45  # of the published demo, where the caller names none
QUALITY_WORDS = "worst quality, low quality, normal quality, bad quality, blurry"
OVERLAP = 10  # pixels that an outpainted side reaches into the picture
FILL = (127, 127, 127)  # of the canvas around it


@dataclass(frozen=True)
class Recipe:
    """A task in terms of the three prompts. Every value can be given to the task's method instead.

    Both texts are encoded twice, once for each of a pair of prompts, and mixed after the text encoder:

        states = fit * first + (1 - fit) * second

    Attributes:
        prompts: (first, second) prompt with the user's text; None for the text alone.
        against: The same with the user's negative text, which goes into the unconditional rows.
        words: Before the user's text.
        words_lead: They do; otherwise they come after it.
        quality_words: After the user's negative text; None for what the dialect does.
        guidance_scale: Classifier-free guidance weight; its unconditional rows are the negative prompt.

    Raises:
        ValueError: Prompts that there are not, or a weight that is not finite.

    Source:
        Zhuang et al. 2024, arXiv:2312.03594; words, negatives and weights as in the released demo.
    """

    prompts: tuple[PromptName | None, PromptName | None]
    against: tuple[PromptName | None, PromptName | None]
    words: str = ""
    words_lead: bool = True
    quality_words: str | None = ""
    guidance_scale: float = 7.5

    def __post_init__(self) -> None:
        known = (*NAMES, None)
        for name in ("prompts", "against"):
            pair = getattr(self, name)
            if isinstance(pair, str) or len(pair) != 2 or any(one not in known for one in pair):
                raise ValueError(
                    f"Recipe: `{name}` must be two of {', '.join(map(repr, known))}, the first and what it is mixed "
                    f"with; got {pair!r}"
                )
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"Recipe: `guidance_scale` must be finite; got {self.guidance_scale}")


_REMOVAL = Recipe(("context",) * 2, ("object",) * 2, words="empty scene blur", guidance_scale=10.0)
RECIPES: Mapping[Task, Recipe] = {
    "removal": _REMOVAL,
    "outpaint": _REMOVAL,
    "insert": Recipe(("object",) * 2, ("object",) * 2, quality_words=None),
    "shape": Recipe(("shape", "context"), ("shape", "context"), quality_words=None),
    "context": Recipe(("context",) * 2, (None, None)),
}

# of a branch beside the UNet: the branch reads the prompts only, the UNet the text only
BRANCH_RECIPES: Mapping[Task, Recipe] = {
    task: dataclasses.replace(recipe, words_lead=False, quality_words="") for task, recipe in RECIPES.items()
} | {"outpaint": dataclasses.replace(_REMOVAL, words="empty scene", words_lead=False)}


@dataclass(frozen=True)
class Dialect:
    """How a family of files names, orders and places its task prompts.

    Attributes:
        what: For messages.
        order: Of the prompts in a table of embeddings that was made longer.
        first_token: Name of a prompt's first vector there; the others end in _1 to _9 in every dialect.
        placement: Where the vectors go.
        quality_words: Whether negative texts of insertion and shape end in quality words.
    """

    what: str
    order: tuple[PromptName, ...] = NAMES
    first_token: str = "{prompt}_0"
    placement: Placement = "after"
    quality_words: bool = False


# how published files call the prompts
PUBLISHED_NAMES: Mapping[PromptName, str] = {"context": "P_ctxt", "shape": "P_shape", "object": "P_obj"}
DIALECTS: Mapping[str, Dialect] = {
    "weft": Dialect("trained by weft"),
    "main-v1": Dialect("released PowerPaint v1", quality_words=True),
    "dev": Dialect(
        "the training scripts of PowerPaint",
        order=("object", "context", "shape"),
        first_token="{prompt}",
        placement="before",
    ),
}
# of the branch of PowerPaint v2; ``inpainting.inputs`` has the conventions of its input
BRANCH_DIALECTS: Mapping[str, Dialect] = {
    "main-v2": Dialect("released PowerPaint v2"),
    "dev": dataclasses.replace(DIALECTS["dev"], what="a branch of the training scripts of PowerPaint"),
}


def token_names(dialect: Dialect, name: PromptName) -> list[str]:
    """The tokens of a prompt in a tokenizer that was given some."""
    prompt = PUBLISHED_NAMES[name]
    return [dialect.first_token.format(prompt=prompt), *(f"{prompt}_{number}" for number in range(1, COUNT))]


def changed(recipe: Recipe, changes: Mapping[str, Any], *, who: str) -> Recipe:
    """``recipe`` with other values.

    Raises:
        TypeError: A value that a recipe does not have.
        ValueError: As ``Recipe``.
    """
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in changes:
        if name not in known:
            raise TypeError(f"{who}: has no option `{name}`; it has {', '.join(map(repr, known))}")
    return dataclasses.replace(recipe, **changes)
