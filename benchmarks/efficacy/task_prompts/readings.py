"""What is read in painted pictures, task by task, and the table of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from benchmarks.efficacy.readings import Measures, Readings
from benchmarks.efficacy.record import day_and_commit
from benchmarks.efficacy.task_prompts.cases import Case
from weft.methods.powerpaint import Task
from weft.shapes.reader import FOREGROUND_DISTANCE, Detection, as_pixels, background_of, read
from weft.shapes.rendering import coverage
from weft.shapes.scoring import MIN_CONFIDENCE
from weft.shapes.world import SceneObject

METHOD = "PowerPaint"
LEARNT = "learnt"
SAME_PLACE = 5.0  # pixels between the centres of an object that stayed, parts of which were repainted
RIM = 4  # pixels round the hole where old and new are mixed: one cell of the latent

_STAYS = {"kept": "other objects kept", "nothing_new": "nothing invented"}
_OUTSIDE = {"outside": "largest change outside, levels"}
_GROUND = {"colour": "colour error in the hole, levels", **_OUTSIDE}
MEASURES: Mapping[Task, Measures] = {
    "removal": Measures({"nothing_new": "nothing left in the hole", "kept": "other objects kept"}, _GROUND, LEARNT),
    "insert": Measures({"right": "right object in the hole", "alone": "and nothing else new"}, _OUTSIDE, LEARNT),
    "shape": Measures(
        {"right": "right object in the hole"}, {"overlap": "overlap with the hole (IoU), %", **_OUTSIDE}, LEARNT
    ),
    "context": Measures(_STAYS, _GROUND, LEARNT),
    "outpaint": Measures(_STAYS, _GROUND, LEARNT),
}


def readings(images: Sequence[np.ndarray], cases: Sequence[Case], task: Task) -> Readings:
    """Every measure of the task in every picture.

    Args:
        images: [h, w, 3] uint8, as large as the holes.
        cases: One a picture.
    """
    measures = MEASURES[task]
    found: Readings = {name: [] for name in (*measures.shares, *measures.levels)}
    for image, case in zip(images, cases, strict=True):
        seen = measured(image, case)
        for name, values in found.items():
            values.append(seen[name])
    return found


def measured(image: np.ndarray, case: Case) -> dict[str, Any]:
    """Every measure of one picture."""
    seen = read(image)
    staying = {id(partner) for item in case.staying if (partner := _partner(item, seen)) is not None}
    new = [item for item in seen if id(item) not in staying]
    inside = cv2.dilate(case.hole.astype(np.uint8), np.ones((2 * RIM + 1,) * 2, np.uint8)).astype(bool)
    right = [item for item in new if item.pair == case.asked and _well_formed(item) and _is_in(item, case.hole)]
    change = np.abs(image.astype(int) - case.truth)
    given = np.abs(image.astype(int) - as_large(case))[~inside]
    return {
        "kept": all(_partner(item, seen) is not None for item in case.staying),
        "nothing_new": not new,
        "right": bool(right),
        "alone": bool(right) and len(new) == 1,
        "colour": float(change[case.hole].mean()),
        "overlap": 100 * _overlap(image, case, inside),
        "outside": float(given.max()) if given.size else 0.0,
    }


def _partner(item: SceneObject, seen: Sequence[Detection]) -> Detection | None:
    """The detection that is this object still."""
    near = [
        other
        for other in seen
        if other.pair == item.pair
        and _well_formed(other)
        and np.hypot(other.x - item.x, other.y - item.y) <= SAME_PLACE
    ]
    return min(near, key=lambda other: np.hypot(other.x - item.x, other.y - item.y), default=None)


def _well_formed(item: Detection) -> bool:
    return item.confidence >= MIN_CONFIDENCE


def _is_in(item: Detection, hole: np.ndarray) -> bool:
    """Whether most of an object lies in the hole."""
    area = coverage(item.shape, item.x, item.y, item.size) > 0.5
    return bool((area & hole).sum() > 0.5 * area.sum())


def _overlap(image: np.ndarray, case: Case, inside: np.ndarray) -> float:
    """Intersection over union of the hole and what differs from the background in it and at its rim."""
    pixels = as_pixels(image)
    others = [coverage(item.shape, item.x, item.y, item.size) > 0 for item in case.staying]
    free = inside & ~np.any([*others, np.zeros_like(inside)], axis=0)
    painted = (np.linalg.norm(pixels - background_of(pixels), axis=-1) > FOREGROUND_DISTANCE) & free
    return float((painted & case.hole).sum() / (painted | (case.hole & free)).sum())


def as_large(case: Case) -> np.ndarray:
    """What was given, as large as what is made of it."""
    if not case.extension:
        return case.image.astype(int)
    rows, columns = case.truth.shape[:2]
    whole = np.zeros((rows, columns, 3), int)
    left, top = case.extension.get("left", 0), case.extension.get("top", 0)
    whole[top : top + case.image.shape[0], left : left + case.image.shape[1]] = case.image
    return whole


def table(record: dict[str, Any]) -> str:
    """Markdown, a table a task: shares in percent, levels from 0 to 255; 95 % intervals."""
    sampling, where = record["sampling"], record["circumstances"]
    lines = [
        f"{record['method']} on the embedded inpainting model: scenes that training never saw, DDIM, "
        f"{sampling['steps']} steps, guidance {sampling['guidance']:g}, the same noise for all variants of a task "
        f"({day_and_commit(where)}). In percent of pictures; in parentheses what a variant "
        f"differs from *{LEARNT}* by, picture by picture; 95 % intervals in brackets.",
    ]
    for task, results in record["tasks"].items():
        measures = MEASURES[task]
        lines += [
            "",
            f"**{task}**",
            "",
            "| prompts | pictures | " + " | ".join(measures.headings) + " |",
            "|" + "---|" * (2 + len(measures.headings)),
        ]
        for variant, trials in results.items():
            row = trials[task]
            lines.append("| " + " | ".join([variant, str(row["pictures"]), *measures.cells(row)]) + " |")
    return "\n".join(lines) + "\n"
