"""Where the objects of a picture are, against the boxes that were asked for, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.efficacy.boxes.cases import Box, Case
from benchmarks.efficacy.readings import Measures, Readings
from benchmarks.efficacy.record import day_and_commit
from weft.shapes.reader import Detection, read
from weft.shapes.scoring import MIN_CONFIDENCE, score
from weft.shapes.world import Pair

METHOD = "MaskDiffusion by boxes, in joint attention"
WITHOUT = "without boxes"
MEASURES = Measures(
    {
        "first": "first object in its box",
        "all": "all objects in their boxes",
        "alone": "and nothing else",
        "bound": "all objects anywhere",
    },
    {},
    WITHOUT,
)


def readings(images: Sequence[np.ndarray], cases: Sequence[Case]) -> Readings:
    """Every measure of every picture [h, w, 3] uint8."""
    found: Readings = {name: [] for name in MEASURES.shares}
    for image, case in zip(images, cases, strict=True):
        for name, value in measured(read(image), case).items():
            found[name].append(value)
    return found


def measured(seen: list[Detection], case: Case) -> dict[str, bool]:
    """Every measure of one picture."""
    placed = [_is_in(seen, pair, box) for pair, box in zip(case.prompt.objects, case.boxes, strict=True)]
    return {
        "first": placed[0],
        "all": all(placed),
        "alone": all(placed) and len(seen) == len(placed),
        "bound": all(score(case.prompt, seen).bound),
    }


def _is_in(seen: Sequence[Detection], pair: Pair, box: Box) -> bool:
    """Whether a well-formed object of this colour and shape has its centre in the box."""
    left, top, right, bottom = box
    return any(
        item.pair == pair and item.confidence >= MIN_CONFIDENCE and left <= item.x <= right and top <= item.y <= bottom
        for item in seen
    )


def table(record: dict[str, Any]) -> str:
    """Markdown: shares in percent, differences in points, both with 95 % intervals."""
    sampling, where = record["sampling"], record["circumstances"]
    lines = [
        "Boxes on the embedded MM-DiT: prompts with a pair or a combination that training never showed, "
        f"flow-matching Euler, {sampling['steps']} steps, guidance {sampling['guidance']:g}, the same noise for all "
        f"variants ({day_and_commit(where)}). Two objects have halves of the picture, three have two quarters and a "
        f"half. In percent of pictures; in parentheses what a variant differs from *{WITHOUT}* by, picture by "
        "picture; 95 % intervals in brackets.",
        "",
        "| variant | prompts | pictures | " + " | ".join(MEASURES.headings) + " |",
        "|" + "---|" * (3 + len(MEASURES.headings)),
    ]
    for variant, trials in record["results"].items():
        for trial, row in trials.items():
            lines.append("| " + " | ".join([variant, trial, str(row["pictures"]), *MEASURES.cells(row)]) + " |")
    return "\n".join(lines) + "\n"
