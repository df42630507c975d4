"""From result lines to tables: on the terminal after a run, and in the README between markers.

``python -m benchmarks.report`` prints the Markdown; ``--readme README.md`` writes it there, ``--check`` only compares.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks import registry

RESULTS = Path(__file__).with_name("results")
Line = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Everybody at one shape, dtype and mode, from one run.

    Attributes:
        lines: One a provider.
        ours: weft's line.
        fastest: The fastest other one, None if weft was measured alone.
    """

    lines: tuple[Line, ...]
    ours: Line | None
    fastest: Line | None

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Table:
        every = tuple(lines)
        others = sorted((line for line in every if not line["ours"]), key=lambda line: line["median_ms"])
        return cls(every, next((line for line in every if line["ours"]), None), others[0] if others else None)

    @property
    def ratio(self) -> float | None:
        """Time of the fastest baseline over weft's; above 1 weft is faster."""
        return self.fastest["median_ms"] / self.ours["median_ms"] if self.ours and self.fastest else None

    def text(self) -> str:
        """The rows for a terminal."""
        first = self.lines[0]
        sizes = ", ".join(f"{axis} {size}" for axis, size in first["sizes"].items())
        rows = [f"\n{first['op']} {first['shape']} ({sizes}) {first['dtype']} {first['mode']}"]
        base = self.ours["median_ms"] if self.ours else self.lines[0]["median_ms"]
        for line in sorted(self.lines, key=lambda line: line["median_ms"]):
            rows.append(
                f"  {line['provider']:<24}{line['median_ms']:>10.3f} ms  [{line['p20_ms']:.3f}, {line['p80_ms']:.3f}]"
                f"{line['median_ms'] / base:>8.2f}x{_megabytes(line):>12}  {line['note']}".rstrip()
            )
        return "\n".join(rows)

    def row(self) -> str:
        """One Markdown row: weft beside the fastest baseline."""
        assert self.ours is not None
        first = self.ours
        cells = [first["shape"], first["dtype"], first["mode"], f"{first['median_ms']:.2f}", _megabytes(first)]
        if self.fastest is None:
            cells += ["", "", "", ""]
        else:
            name, note = self.fastest["provider"], self.fastest["note"]
            cells += [f"{name}{f' ({note})' if note else ''}", f"{self.fastest['median_ms']:.2f}"]
            cells += [_megabytes(self.fastest), f"**{self.ratio:.2f}x**"]
        return "| " + " | ".join(cells) + " |"


def _megabytes(line: Line) -> str:
    size = line["peak_extra_bytes"]
    return "" if size is None else f"{size / 1e6:.1f} MB"


def read(folder: Path) -> list[Line]:
    """Every line of every file that is fit to publish: not from a quick look."""
    found = [json.loads(text) for path in sorted(folder.glob("*.jsonl")) for text in path.read_text().splitlines()]
    return [line for line in found if not line["quick"]]


def latest(lines: list[Line]) -> dict[str, list[Table]]:
    """By device and threads, one table a shape, dtype and mode: of the last run with weft and a baseline there."""
    runs: dict[tuple[str, ...], dict[str, list[Line]]] = {}
    for line in lines:
        device = f"{line['device']}, {line['simd']}, {line['threads']} threads"
        key = (device, line["op"], line["shape"], line["dtype"], line["mode"])
        runs.setdefault(key, {}).setdefault(line["run"], []).append(line)
    found: dict[str, list[Table]] = {}
    for key, by_run in sorted(runs.items(), key=_place):
        tables = [table for members in by_run.values() if (table := Table.of(members)).ratio is not None]
        if tables:
            # isoformat in UTC sorts as text
            found.setdefault(key[0], []).append(max(tables, key=lambda table: table.lines[0]["date"]))
    return found


def _place(item: tuple[tuple[str, ...], Any]) -> tuple[Any, ...]:
    """Rows stand in the order of the registry."""
    device, op, shape, dtype, mode = item[0]
    benchmark = registry.load(op)
    orders = [x.name for x in benchmark.shapes], [x.name for x in benchmark.modes], list(benchmark.dtypes)
    ranks = [o.index(name) if name in o else len(o) for o, name in zip(orders, (shape, mode, dtype), strict=True)]
    return (device, op, *ranks)


def markdown(lines: list[Line]) -> str:
    """The tables of the README, one a device and thread count."""
    parts = []
    for device, tables in latest(lines).items():
        first = max((table.lines[0] for table in tables), key=lambda line: line["date"])
        commits = sorted({table.lines[0]["commit"] + ("+" if table.lines[0]["dirty"] else "") for table in tables})
        parts.append(
            f"{device}, torch {first['torch']}, {first['date'][:10]}, "
            f"commit {', '.join(commits)}. Median time of one call; memory beyond inputs and results. The baseline is "
            "the fastest of all that were measured in the same run.\n\n"
            "| shape | dtype | mode | weft, ms | memory | fastest baseline | ms | memory | speed-up |\n"
            "|---|---|---|---|---|---|---|---|---|\n" + "\n".join(table.row() for table in tables)
        )
    return "\n\n".join(parts) or "Not measured yet."


def headline(lines: list[Line]) -> str:
    """One sentence: the range of what reading and editing costs beside the fastest way without weft."""
    sentences = []
    for device, tables in latest(lines).items():
        ratios = [table.ratio for table in tables if table.ours and "edit" in table.ours["mode"] and table.ratio]
        if ratios:
            sentences.append(
                f"Attention with an edit of four regions and eight maps, against the fastest of the eager and compiled"
                f" ways to do it in plain PyTorch: {min(ratios):.1f} to {max(ratios):.1f} times faster "
                f"({device}; [all numbers](#numbers))."
            )
    return "\n\n".join(sentences) or "Not measured yet."


def between_markers(text: str, parts: dict[str, str]) -> str:
    """``text`` with each part put between ``<!-- name: generated by benchmarks.report -->`` and ``<!-- /name -->``.

    Raises:
        ValueError: A marker is missing.
    """
    for name, part in parts.items():
        begin, end = f"<!-- {name}: generated by benchmarks.report -->", f"<!-- /{name} -->"
        text, count = re.subn(
            f"{re.escape(begin)}.*?{re.escape(end)}",
            lambda _, content=f"{begin}\n{part}\n{end}": content,
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise ValueError(f"benchmarks.report: needs `{begin}` and `{end}` once each; found {count} pairs")
    return text


@dataclass(frozen=True)
class Options:
    """Turn result lines into Markdown.

    Attributes:
        results: Folder of the .jsonl files.
        readme: File whose marked parts are written; none to print the tables.
        check: Write nothing; fail if the file is not up to date.
    """

    results: Path = RESULTS
    readme: Path | None = None
    check: bool = False


def main() -> None:
    options = tyro.cli(Options, description=Options.__doc__)
    lines = read(options.results)
    if options.readme is None:
        print(markdown(lines))
        return
    before = options.readme.read_text()
    try:
        after = between_markers(before, {"headline": headline(lines), "benchmarks": markdown(lines)})
    except ValueError as error:
        sys.exit(str(error))
    if after == before:
        return
    if options.check:
        sys.exit(
            f"benchmarks.report: {options.readme} is not up to date; "
            f"run `python -m benchmarks.report --readme {options.readme}`"
        )
    options.readme.write_text(after)


if __name__ == "__main__":
    main()
