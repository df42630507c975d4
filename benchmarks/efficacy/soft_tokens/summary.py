"""What is read in pictures with and without soft tokens, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.efficacy.readings import Measures, Readings
from benchmarks.efficacy.record import day_and_commit
from weft.shapes.captions import Prompt
from weft.shapes.reader import read
from weft.shapes.scoring import MIN_CONFIDENCE, score

METHOD = "SoftREPA"
BASE = "base"
MEASURES = Measures(
    shares={
        "bound": "all objects bound",
        "correct": "and nothing extra",
        "counted": "as many objects",
        "retrieved": "own caption of 8 found",
    },
    levels={"diversity": "diversity"},
    reference=BASE,
)
_SIDE = 8  # of the small copies in which pictures of one prompt are compared


def readings(images: Sequence[np.ndarray], prompts: Sequence[Prompt], seeds: int) -> Readings:
    """Every measure of every picture, and of every prompt its diversity.

    Args:
        images: [h, w, 3] uint8; ``seeds`` of a prompt are adjacent.
        prompts: One a picture.
        seeds: Pictures a prompt; diversity needs two.
    """
    found: Readings = {name: [] for name in ("bound", "correct", "counted")}
    for image, prompt in zip(images, prompts, strict=True):
        seen = read(image)
        verdict = score(prompt, seen)
        found["bound"].append(all(verdict.bound))
        found["correct"].append(verdict.correct)
        found["counted"].append(sum(item.confidence >= MIN_CONFIDENCE for item in seen) == len(prompt.objects))
    if seeds > 1:
        found["diversity"] = diversity(np.stack(images), seeds)
    return found


def diversity(images: np.ndarray, seeds: int) -> list[float]:
    """Per prompt the mean distance between two of its pictures: root mean square over small copies, in percent.

    Args:
        images: [prompts * seeds, h, w, 3] uint8.
    """
    count, height, width, _ = images.shape
    small = images.reshape(count, _SIDE, height // _SIDE, _SIDE, width // _SIDE, 3).mean((2, 4)) / 255
    groups = small.reshape(count // seeds, seeds, -1)
    distances = np.sqrt(((groups[:, :, None] - groups[:, None]) ** 2).mean(-1))  # [prompts, seeds, seeds]
    return (100 * distances.sum((1, 2)) / (seeds * (seeds - 1))).tolist()


def table(record: dict[str, Any]) -> str:
    """Markdown: shares and differences from the base in percent and points, with 95 % intervals."""
    where = record["circumstances"]
    lines = [
        f"{record['method']} on both shapes models: prompts that name what training never showed; the same noise for "
        f"all variants of a model ({day_and_commit(where)}). In percent of pictures; in "
        f"parentheses what a variant differs from *{BASE}* by, picture by picture, in points; 95 % intervals in "
        "brackets.",
    ]
    for model, part in record["models"].items():
        sampling = part["sampling"]
        lines += [
            "",
            f"`{model}`, {sampling['steps']} steps, guidance {sampling['guidance']:g}; "
            + ", ".join(f"{name} took {seconds:.0f} s of one core" for name, seconds in part["seconds"].items()),
            "",
            "| variant | prompts | pictures | " + " | ".join(MEASURES.headings) + " |",
            "|" + "---|" * (3 + len(MEASURES.headings)),
        ]
        for variant, trials in part["results"].items():
            for trial, row in trials.items():
                lines.append("| " + " | ".join([variant, trial, str(row["pictures"]), *MEASURES.cells(row)]) + " |")
    return "\n".join(lines) + "\n"
