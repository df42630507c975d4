"""Prompts that name a taught concept, and their pictures with and without what was taught, from the same noise.

Pictures are kept as they are drawn, and read again every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from diffusers import DiffusionPipeline
from torch import Tensor

import weft
from benchmarks.efficacy import pictures
from benchmarks.efficacy.residuals import adapters
from benchmarks.efficacy.residuals.preservation import Seen
from benchmarks.efficacy.trials import Sampling
from weft.shapes.captions import Prompt
from weft.shapes.captions import phrase as named
from weft.shapes.concepts import Concept
from weft.shapes.vocabulary import HELD_OUT_PAIRS
from weft.shapes.world import PAIRS

Box = tuple[int, int, int, int]
BOX_MARGIN = 3  # pixels that a user would leave around an object


@dataclass(frozen=True)
class Variant:
    """What is added to the model, and where it acts.

    Attributes:
        adapter: Nothing, the residual, or the LoRA beside it.
        localize: As ``weft.LocalizedResiduals`` takes it; "box" is the box around the object of the concept's class
            that the model draws from the same noise by itself, as a user would draw it; the whole picture where it
            draws none.
        threshold, cfg: As ``weft.LocalizedResiduals`` takes them.
    """

    adapter: Literal["none", "residual", "lora"]
    localize: Literal["none", "attention", "box"] = "none"
    threshold: str = "median"
    cfg: str = "conditional"


@dataclass(frozen=True)
class Trial:
    """Prompts of one kind.

    Attributes:
        name: How the results call it.
        others: Ordinary objects that a prompt names beside the concept, 0 or 1.
        images: How many pictures of each concept; every one has a prompt of its own where there are others.
    """

    name: str
    others: int
    images: int

    def prompts(self, concept: Concept, seed: int) -> list[Prompt]:
        """A prompt for every picture. What shares a colour or the shape with the concept is not named beside it."""
        subject, own = f"a {adapters.phrase(concept)}", {concept.finish.first, concept.finish.second}
        if not self.others:
            return [Prompt(subject, (concept.pair,))] * self.images
        strangers = [
            pair for pair in PAIRS if pair not in HELD_OUT_PAIRS and pair[0] not in own and pair[1] != concept.shape
        ]
        found = []
        for number in range(self.images):
            rng = np.random.default_rng([seed, number])
            other = strangers[rng.integers(len(strangers))]
            names = [subject, named(*other)]
            # the concept comes first in every other prompt
            text = " and ".join(names if number % 2 == 0 else reversed(names))
            found.append(Prompt(text, (concept.pair, other)))
        return found


@dataclass(frozen=True)
class Taught:
    """A concept and what was trained on its pictures."""

    concept: Concept
    residual: weft.Residual
    lora: dict[str, Tensor]


def draw(
    pipe: DiffusionPipeline,
    taught: Taught,
    variant: Variant,
    prompts: list[Prompt],
    boxes: list[Box] | None,
    sampling: Sampling,
    kept: Path,
    report: Callable[[int], object],
) -> np.ndarray:
    """Draw a picture of each prompt; those that lie in ``kept`` already are not drawn again.

    Args:
        pipe: The shapes model.
        taught: What a variant may add.
        variant: What is added here.
        prompts: One a picture.
        boxes: One a picture; read where the variant asks for boxes alone.
        sampling: How. The noise of picture i depends on the seed and i alone.
        kept: .npy file of the pictures so far, rewritten every 32 or so.
        report: Called with the number of pictures that were just finished.

    Returns:
        [pictures, h, w, 3] uint8.
    """
    # a region holds for all pictures of a call
    sampling = replace(sampling, batch=1) if variant.localize == "box" else sampling

    def added(first: int) -> AbstractContextManager[Any]:
        return _active(pipe, taught, variant, boxes[first] if boxes else None)

    return pictures.draw(pipe, prompts, added, sampling, kept, report)


@contextmanager
def _active(pipe: DiffusionPipeline, taught: Taught, variant: Variant, box: Box | None) -> Iterator[None]:
    """The model with what the variant adds."""
    added: AbstractContextManager[Any] = nullcontext()
    if variant.adapter == "lora":
        added = adapters.lora_attached(pipe, taught.lora)
    elif variant.adapter == "residual":
        where = box if variant.localize == "box" else variant.localize
        assert where is not None
        control = weft.LocalizedResiduals(taught.residual, where, threshold=variant.threshold, cfg=variant.cfg)
        added = weft.attach(pipe, control)
    with added:
        yield


def class_boxes(plain: list[Seen], concept: Concept) -> list[Box]:
    """Around the largest object of the concept's class in each picture of the model by itself; where none is, all."""
    boxes = []
    for seen in plain:
        height, width = seen.pixels.shape[:2]
        own = [item for item in seen.found if item.pair == concept.nearest]
        if not own:
            boxes.append((0, 0, width, height))
            continue
        item = max(own, key=lambda item: item.area)
        reach = 1.2 * item.size + BOX_MARGIN  # the farthest corner of any shape lies at 1.19 of the nominal radius
        left, top = max(int(item.x - reach), 0), max(int(item.y - reach), 0)
        boxes.append((left, top, min(int(item.x + reach) + 1, width), min(int(item.y + reach) + 1, height)))
    return boxes
