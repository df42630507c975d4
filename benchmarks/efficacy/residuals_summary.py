"""What was read in the pictures of every variant, as shares and means with their uncertainty, and a table of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.efficacy.preservation import Seen, preserved
from benchmarks.efficacy.summary import Z, difference, difference_cell, rate_cell
from weft.shapes.captions import Prompt
from weft.shapes.concepts import Concept
from weft.shapes.measuring import Rate
from weft.shapes.scoring import score

# measure -> heading of its column
SHARES = {
    "concept": "concept is there",
    "other": "other object is there",
    "correct": "and nothing else",
    "ground": "same background",
    "others": "other objects kept",
}
LEVELS = {"change": "change elsewhere, levels"}
METHOD = "Personalized Residuals"
PLAIN = "base"
REFERENCE = "everywhere"  # what differences are taken from

Readings = dict[str, list[Any]]  # measure -> one value a picture; None where it does not apply


def readings(images: Sequence[np.ndarray], plain: Sequence[Seen], prompts: list[Prompt], concept: Concept) -> Readings:
    """Every measure of every picture.

    Args:
        images: [h, w, 3] uint8.
        plain: The pictures of the model by itself, from the same noise.
        prompts: What each was asked to show, the concept first.
        concept: The one that was taught.
    """
    found: Readings = {name: [] for name in (*SHARES, *LEVELS)}
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


def summarise(found: dict[str, dict[str, Readings]]) -> dict[str, Any]:
    """Per variant and trial every measure, and what it differs from the reference variant by, picture by picture."""
    results: dict[str, Any] = {}
    for variant, trials in found.items():
        for trial, measures in trials.items():
            row: dict[str, Any] = {"pictures": len(measures["concept"])}
            for name, values in measures.items():
                known = [value for value in values if value is not None]
                if not known or (variant == PLAIN and name in ("ground", "others", "change")):
                    continue
                row[name] = asdict(Rate.of(known)) if name in SHARES else _mean(known)
                if variant not in (PLAIN, REFERENCE) and REFERENCE in found:
                    row[f"{name}_difference"] = _paired(values, found[REFERENCE][trial][name])
            results.setdefault(variant, {})[trial] = row
    return results


def _mean(values: list[float]) -> dict[str, float]:
    """Mean and its 95 % interval."""
    half = Z * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    mean = float(np.mean(values))
    return {"value": mean, "low": mean - half, "high": mean + half}


def _paired(ours: list[Any], reference: list[Any]) -> dict[str, float]:
    pairs = [(a, b) for a, b in zip(ours, reference, strict=False) if a is not None and b is not None]
    return difference([a for a, _ in pairs], [b for _, b in pairs])


def table(record: dict[str, Any]) -> str:
    """Markdown: shares in percent, differences in points, changes in levels; 95 % intervals."""
    sampling, where = record["sampling"], record["circumstances"]
    commit = where.get("commit", "?") + ("+" if where.get("dirty") else "")
    training, concepts = record["training"], record["concepts"]
    lines = [
        f"{record['method']} on the shapes model: {len(concepts)} concepts ({', '.join(concepts)}), each taught by "
        f"{training['pictures']} pictures, {training['steps']} steps of batch {training['batch_size']}; DDIM, "
        f"{sampling['steps']} steps, guidance {sampling['guidance']:g}, the same noise for all variants "
        f"({where.get('date', '')[:10]}, commit {commit}). In percent of pictures; in parentheses what a variant "
        f"differs from *{REFERENCE}* by, picture by picture, in points; 95 % intervals in brackets.",
        "",
        "| variant | prompts | pictures | " + " | ".join((SHARES | LEVELS).values()) + " |",
        "|" + "---|" * (3 + len(SHARES) + len(LEVELS)),
    ]
    for variant, trials in record["results"].items():
        for trial, row in trials.items():
            cells = [_cell(row, name, 100) for name in SHARES] + [_cell(row, name, 1) for name in LEVELS]
            lines.append("| " + " | ".join([variant, trial, str(row["pictures"]), *cells]) + " |")
    rates = [rate_cell(record["reader"][how]) for how in ("drawn", "decoded")]
    lines += [
        "",
        f"The reader finds a concept in {rates[0]} % of drawn references, and in {rates[1]} % after the autoencoder.",
    ]
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any], name: str, factor: float) -> str:
    if name not in row:
        return ""
    text = rate_cell(row[name], factor)
    return f"{text} ({difference_cell(row[f'{name}_difference'], factor)})" if f"{name}_difference" in row else text
