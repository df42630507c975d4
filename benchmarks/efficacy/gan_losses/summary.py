"""What evaluations of several seeds say together: means, spreads, differences seed by seed; and the table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.efficacy.record import day_and_commit
from weft.evaluation.words import SHAPES

METHOD = "fake-to-fake and fake-to-real"
LOSSES = ("none", "f2f", "f2r", "f2f,f2r")
REFERENCE = "none"


@dataclass(frozen=True)
class Column:
    """One number of an evaluation.

    Attributes:
        heading: Of the table.
        path: Of the number in the measures.
        factor: That it is shown with.
        digits: Behind the point.
    """

    heading: str
    path: tuple[str, ...]
    factor: float = 1.0
    digits: int = 1

    def of(self, measures: dict[str, Any]) -> float | None:
        """The number, or None where the evaluation has none."""
        found: Any = measures
        for key in self.path:
            found = found.get(key) if isinstance(found, dict) else None
        return None if found is None else self.factor * float(found)


COLUMNS = {
    "fid": Column("FID", ("fid", "value")),
    "kid": Column("KID x 1000", ("kid", "value"), 1000),
    "cmmd": Column("CMMD", ("cmmd", "value"), digits=2),
    "bound": Column("objects bound, %", ("captions", "bound", "value"), 100),
    "correct": Column("caption correct, %", ("captions", "correct", "value"), 100),
    "retrieval": Column("R-precision, %", ("retrieval", "mean"), 100),
    "consistency": Column("wordings apart", ("consistency", "value"), digits=2),
    "same_objects": Column("same objects, %", ("consistency", "same_objects", "value"), 100),
    "diversity": Column("noises apart", ("diversity", "value"), digits=2),
}


def summarise(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for every baseline, choice of losses and variant.

    Args:
        runs: With ``baseline``, ``losses``, ``seed``, ``measures`` and, where it is not the common one, ``variant``.

    Returns:
        With ``seeds``, and by column ``mean``, ``std`` over seeds (0 of a single one) and, where the baseline without
        losses was trained from the same seeds, the mean and std of the ``difference`` from it; from that of the same
        variant, if there is one.
    """
    kinds: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for run in runs:
        kind = run["baseline"], run["losses"], run.get("variant", "")
        if run["seed"] in kinds.setdefault(kind, {}):
            raise ValueError(f"efficacy: two runs of {' '.join(kind)} with seed {run['seed']}; name variants apart")
        kinds[kind][run["seed"]] = run["measures"]
    rows = []
    for (baseline, losses, variant), mine in kinds.items():
        plain = kinds.get((baseline, REFERENCE, variant)) or kinds.get((baseline, REFERENCE, ""), {})
        row: dict[str, Any] = {"baseline": baseline, "losses": losses, "variant": variant, "seeds": sorted(mine)}
        for name, column in COLUMNS.items():
            values = {seed: column.of(measures) for seed, measures in mine.items()}
            known = {seed: value for seed, value in values.items() if value is not None}
            if not known:
                continue
            row[name] = _spread(list(known.values()))
            bases = {seed: column.of(plain[seed]) for seed in known if seed in plain}
            steps = [known[seed] - base for seed, base in bases.items() if base is not None]
            if losses != REFERENCE and steps:
                row[name]["difference"] = _spread(steps)
        rows.append(row)
    return rows


def _spread(values: list[float]) -> dict[str, Any]:
    std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": std, "count": len(values)}


def table(record: dict[str, Any]) -> str:
    """Markdown: means over seeds with their standard deviation; what a loss adds, seed by seed, in parentheses."""
    where, plan, extractor = record["circumstances"], record["plan"], record["extractor"]
    unused = ", which no loss has used" if extractor["name"] == SHAPES else ""
    lines = [
        f"{record['method']} on GANs of the shapes world ({day_and_commit(where)}). "
        f"{plan['count']} scenes that were not trained on, each drawn once; {plan['groups']} of them also in up to "
        f"{plan['paraphrases']} wordings from one noise (*wordings apart*: less is more consistent) and from "
        f"{plan['noises']} noises (*noises apart*: more is more diverse); the same scenes and noise for all. "
        f"Distances and retrieval by the extractor `{extractor['name']}` (weights {extractor['weights']}, resizing: "
        f"{extractor['resize']}){unused}. Mean ± standard deviation over training seeds; in "
        "parentheses what the losses change, seed by seed.",
        "",
        _ruler(record["runs"][0]["measures"]),
        "",
        "| baseline | losses | seeds | " + " | ".join(column.heading for column in COLUMNS.values()) + " |",
        "|" + "---|" * (3 + len(COLUMNS)),
    ]
    for row in record["results"]:
        losses = f"{row['losses']} ({row['variant']})" if row["variant"] else row["losses"]
        cells = [row["baseline"], losses, str(len(row["seeds"]))]
        cells += [_cell(row[name], column.digits) if name in row else "" for name, column in COLUMNS.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _ruler(measures: dict[str, Any]) -> str:
    """What real scenes achieve, as far as it was measured."""
    floors = [
        f"{column.heading} {column.factor * measures[name]['floor']:.{column.digits}f}"
        for name, column in COLUMNS.items()
        if "floor" in measures.get(name, ())
    ]
    said = [f"Two sets of real scenes are this far apart: {', '.join(floors)}."] if floors else []
    if "unrelated" in (diversity := measures.get("diversity", {})):
        said.append(f"Two unrelated real scenes: {diversity['unrelated']:.2f}.")
    if "real" in (retrieval := measures.get("retrieval", {})):
        reached, chance = 100 * retrieval["real"]["mean"], 100 * retrieval["chance"]
        said.append(f"Real scenes have an R-precision of {reached:.1f} %, chance is {chance:.0f} %.")
    return " ".join(said)


def _cell(values: dict[str, Any], digits: int) -> str:
    def shown(part: dict[str, Any], sign: str) -> str:
        text = f"{part['mean']:{sign}.{digits}f}"
        return f"{text} ± {part['std']:.{digits}f}" if part["count"] > 1 else text

    text = shown(values, "")
    return f"{text} ({shown(values['difference'], '+')})" if "difference" in values else text
