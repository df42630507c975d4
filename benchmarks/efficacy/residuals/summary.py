"""What is read in pictures with and without a taught concept, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.efficacy.rates import rate_cell
from benchmarks.efficacy.readings import Measures, Readings
from benchmarks.efficacy.record import day_and_commit
from benchmarks.efficacy.residuals.preservation import Seen, preserved
from weft.shapes.captions import Prompt
from weft.shapes.concepts import Concept
from weft.shapes.scoring import score

METHOD = "Personalized Residuals"
PLAIN = "base"
MEASURES = Measures(
    shares={
        "concept": "concept is there",
        "other": "other object is there",
        "correct": "and nothing else",
        "ground": "same background",
        "others": "other objects kept",
    },
    levels={"change": "change elsewhere, levels"},
    reference="everywhere",
    without={PLAIN: ("ground", "others", "change")},
    undiffering=(PLAIN,),
)


def readings(images: Sequence[np.ndarray], plain: Sequence[Seen], prompts: list[Prompt], concept: Concept) -> Readings:
    """Every measure of every picture.

    Args:
        images: [h, w, 3] uint8.
        plain: The pictures of the model by itself, from the same noise.
        prompts: What each was asked to show, the concept first.
        concept: The one that was taught.
    """
    found: Readings = {name: [] for name in (*MEASURES.shares, *MEASURES.levels)}
    for image, before, prompt in zip(images, plain, prompts, strict=True):
        seen = Seen.of(image, concept)
        verdict, kept = score(prompt, seen.found), preserved(before, seen, concept)
        found["concept"].append(verdict.bound[0])
        is_alone = len(prompt.objects) == 1
        found["other"].append(None if is_alone else verdict.bound[1])
        found["correct"].append(verdict.correct)
        found["ground"].append(kept.ground)
        found["others"].append(None if is_alone else kept.others)
        found["change"].append(kept.change)
    return found


def table(record: dict[str, Any]) -> str:
    """Markdown: shares in percent, differences in points, changes in levels; 95 % intervals."""
    sampling, where = record["sampling"], record["circumstances"]
    training, concepts = record["training"], record["concepts"]
    lines = [
        f"{record['method']} on the shapes model: {len(concepts)} concepts ({', '.join(concepts)}), each taught by "
        f"{training['pictures']} pictures, {training['steps']} steps of batch {training['batch_size']}; DDIM, "
        f"{sampling['steps']} steps, guidance {sampling['guidance']:g}, the same noise for all variants "
        f"({day_and_commit(where)}). In percent of pictures; in parentheses what a variant "
        f"differs from *{MEASURES.reference}* by, picture by picture, in points; 95 % intervals in brackets.",
        "",
        "| variant | prompts | pictures | " + " | ".join(MEASURES.headings) + " |",
        "|" + "---|" * (3 + len(MEASURES.headings)),
    ]
    for variant, trials in record["results"].items():
        for trial, row in trials.items():
            cells = [variant, trial, str(row["pictures"]), *MEASURES.cells(row)]
            lines.append("| " + " | ".join(cells) + " |")
    rates = [rate_cell(record["reader"][how]) for how in ("drawn", "decoded")]
    lines += [
        "",
        f"The reader finds a concept in {rates[0]} % of drawn references, and in {rates[1]} % after the autoencoder.",
    ]
    return "\n".join(lines) + "\n"
