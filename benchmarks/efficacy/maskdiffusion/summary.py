"""Shares of images with all objects, differences from the base image by image, and a table of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.efficacy.maskdiffusion.verdicts import Verdicts, diversity
from benchmarks.efficacy.rates import difference, difference_cell, rate_cell
from benchmarks.efficacy.record import day_and_commit
from weft.shapes.measuring import Rate


def summarise(found: dict[str, dict[str, Verdicts]], together: Sequence[str], seeds: int) -> dict[str, Any]:
    """Per variant and trial: shares of images with their intervals, and what they differ from the base by.

    Args:
        found: Verdicts by variant and trial.
        together: Trials that are also counted as one.
        seeds: Images of a prompt where diversity is measured.
    """
    results: dict[str, Any] = {}
    for name, trials in _with_all(found, together).items():
        for trial, verdicts in trials.items():
            row: dict[str, Any] = {
                "bound": asdict(Rate.of(verdicts.bound)),
                "correct": asdict(Rate.of(verdicts.correct)),
            }
            base = _base_of(found, trial, together, trials)
            if base is not None and name != "base":
                row["bound_difference"] = difference(verdicts.bound, base.bound)
                row["correct_difference"] = difference(verdicts.correct, base.correct)
            if verdicts.thumbnails:
                row["diversity"] = float(np.mean(diversity(verdicts, seeds)))
                if base is not None and name != "base":
                    row["diversity_difference"] = difference(diversity(verdicts, seeds), diversity(base, seeds))
            results.setdefault(name, {})[trial] = row
    return results


def _all(trials: dict[str, Verdicts], together: Sequence[str], most: dict[str, int]) -> Verdicts:
    """The first so many verdicts of each trial, one trial after the other."""
    every = Verdicts.none()
    for trial in together:
        every.bound += trials[trial].bound[: most[trial]]
        every.correct += trials[trial].correct[: most[trial]]
    return every


def _with_all(found: dict[str, dict[str, Verdicts]], together: Sequence[str]) -> dict[str, dict[str, Verdicts]]:
    """The same with the trials of ``together`` as one more, where a variant has them all."""
    result = {}
    for name, trials in found.items():
        result[name] = dict(trials)
        if all(trial in trials for trial in together):
            most = {trial: len(trials[trial].bound) for trial in together}
            result[name][" or ".join(together)] = _all(trials, together, most)
    return result


def _base_of(
    found: dict[str, dict[str, Verdicts]], trial: str, together: Sequence[str], ours: dict[str, Verdicts]
) -> Verdicts | None:
    """The base's verdicts of the same images, in the same order."""
    base = found.get("base", {})
    if trial in base:
        return base[trial]
    if trial == " or ".join(together) and all(each in base for each in together):
        return _all(base, together, {each: len(ours[each].bound) for each in together})
    return None


def table(record: dict[str, Any]) -> str:
    """Markdown: shares in percent, differences in points, both with 95 % intervals."""
    sampling, where = record["sampling"], record["circumstances"]
    lines = [
        f"{record['method']} on the shapes model: DDIM, {sampling['steps']} steps, guidance {sampling['guidance']:g}, "
        f"the same noise for all variants ({day_and_commit(where)}). In percent of images; "
        "differences from the base in points, image by image; 95 % intervals in brackets.",
        "",
        "| variant | prompts | images | all objects bound | difference | and nothing extra | difference | diversity |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, trials in record["results"].items():
        for trial, row in trials.items():
            cells = [name, trial, str(row["bound"]["total"])]
            for share in ("bound", "correct"):
                cells += [rate_cell(row[share]), difference_cell(row.get(f"{share}_difference"))]
            spread = f"{100 * row['diversity']:.1f}" if "diversity" in row else ""
            if "diversity_difference" in row:
                spread += f" ({difference_cell(row['diversity_difference'])})"
            lines.append("| " + " | ".join([*cells, spread]) + " |")
    return "\n".join(lines) + "\n"
