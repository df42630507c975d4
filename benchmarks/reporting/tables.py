"""Result lines as tables: the rows of one measurement for a terminal, all side by side for docs/benchmarks.md."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import registry

Line = dict[str, Any]
Key = tuple[str, str, str, str]  # op, shape, dtype, mode

RESULTS = Path(__file__).resolve().parents[1] / "results"
NOT_MEASURED = "not measured yet"
# the column that stands for every GPU until one has results
ANY_GPU = "NVIDIA GPU"


@dataclass(frozen=True)
class Table:
    """Everybody at one shape, dtype and mode, from one run.

    Attributes:
        lines: One a provider.
        ours: weft's line, of the backend that it chooses where several were measured.
        fastest: The fastest other one that does the work, None if weft was measured alone.
    """

    lines: tuple[Line, ...]
    ours: Line | None
    fastest: Line | None

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Table:
        every = tuple(lines)
        peers = (line for line in every if not line["ours"] and not line.get("yardstick"))
        others = sorted(peers, key=lambda line: line["median_ms"])
        ours = sorted((line for line in every if line["ours"]), key=lambda line: line["provider"] != "weft")
        return cls(every, ours[0] if ours else None, others[0] if others else None)

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
                f"  {line['provider']:<24}{milliseconds(line['median_ms']):>10} ms"
                f"  [{milliseconds(line['p20_ms'])}, {milliseconds(line['p80_ms'])}]"
                f"{line['median_ms'] / base:>8.2f}x{_share(line):>9}{_megabytes(line):>12}  {line['note']}".rstrip()
            )
        return "\n".join(rows)

    def cells(self) -> list[str]:
        """weft, the fastest baseline and the speed-up, for one device's part of a Markdown row."""
        assert self.ours is not None and self.fastest is not None
        name, note = self.fastest["provider"], self.fastest["note"]
        ours = [milliseconds(self.ours["median_ms"]), _megabytes(self.ours)]
        theirs = [milliseconds(self.fastest["median_ms"]), _megabytes(self.fastest)]
        return [
            ", ".join(filter(None, ours)),
            f"{name}{f' ({note})' if note else ''}: {', '.join(filter(None, theirs))}",
            f"**{self.ratio:.2f}x**",
        ]


def milliseconds(time_ms: float) -> str:
    """Three digits or more: a GPU's times are microseconds, a CPU's may be seconds."""
    return f"{time_ms:.2f}" if time_ms >= 1 else f"{time_ms:.4f}"


def _share(line: Line) -> str:
    """How much of the device's floor a time is, where the floor is known."""
    return f"{100 * line['floor_ms'] / line['median_ms']:.0f} %" if line.get("floor_ms") else ""


def _megabytes(line: Line) -> str:
    size = line["peak_extra_bytes"]
    return "" if size is None else f"{size / 1e6:.1f} MB"


def read(folder: Path) -> list[Line]:
    """Every result line of every file that is fit to publish: not from a quick look.

    Files of other kinds (what refused or failed on a GPU, what a method achieves) lie in the same folder.
    """
    found = [json.loads(text) for path in sorted(folder.glob("*.jsonl")) for text in path.read_text().splitlines()]
    return [line for line in found if "median_ms" in line and not line["quick"]]


def is_gpu(line: Line) -> bool:
    return bool(line.get("device_type") == "cuda")


def column(line: Line) -> str:
    """The device that a line belongs to; on a CPU its instruction set and threads are part of that."""
    return line["device"] if is_gpu(line) else f"{line['device']}, {line['simd']}, {line['threads']} threads"


def latest(lines: list[Line]) -> dict[str, dict[Key, Table]]:
    """By device, one table a shape, dtype and mode: of the last run with weft and a baseline there."""
    runs: dict[tuple[str, Key], dict[str, list[Line]]] = {}
    for line in lines:
        key = (line["op"], line["shape"], line["dtype"], line["mode"])
        runs.setdefault((column(line), key), {}).setdefault(line["run"], []).append(line)
    found: dict[str, dict[Key, Table]] = {}
    for (device, key), by_run in sorted(runs.items(), key=lambda item: item[0][0]):
        tables = [table for members in by_run.values() if (table := Table.of(members)).ratio is not None]
        if tables:
            # isoformat in UTC sorts as text
            found.setdefault(device, {})[key] = max(tables, key=lambda table: table.lines[0]["date"])
    return found


def place(key: Key) -> tuple[Any, ...]:
    """Rows are in the order of the registry."""
    op, *names = key
    benchmark = registry.load(op)
    orders = [x.name for x in benchmark.shapes], list(benchmark.dtypes), [x.name for x in benchmark.modes]
    ranks = [o.index(name) if name in o else len(o) for o, name in zip(orders, names, strict=True)]
    shape, dtype, mode = ranks
    return op, shape, mode, dtype


def markdown(lines: list[Line]) -> str:
    """The tables of docs/benchmarks.md: a row for each shape, dtype and mode, the devices side by side."""
    by_device = latest(lines)
    every = {key for tables in by_device.values() for key in tables}
    rows = []
    for op in sorted({key[0] for key in every}):
        keys = sorted((key for key in every if key[0] == op), key=place)
        # only devices that measured the op have a column in its table
        devices = [device for device, tables in by_device.items() if any(key in tables for key in keys)]
        rows += ["", f"## {op}", "", *_rows(keys, by_device, devices)]
    notes = [_circumstances(device, tables) for device, tables in by_device.items()]
    if not any(is_gpu(line) for line in lines):
        notes.append(f"{ANY_GPU}: {NOT_MEASURED}.")
    explained = (
        "Median time of one call, and memory beyond inputs and results. The baseline is the fastest of all that were "
        "measured in the same run; its name is followed by what it leaves out."
    )
    return "\n".join([explained, "", *(f"- {note}" for note in notes), *rows])


def _rows(keys: list[Key], by_device: dict[str, dict[Key, Table]], devices: list[str]) -> list[str]:
    """One op's table; a cell is empty where another device measured the row."""
    head = ["shape", "dtype", "mode"]
    for device in devices:
        head += [f"{device}: weft, ms", "fastest baseline, ms", "speed-up"]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for key in keys:
        cells = list(key[1:])
        for device in devices:
            table = by_device[device].get(key)
            cells += table.cells() if table else [""] * 3
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _circumstances(device: str, tables: dict[Key, Table]) -> str:
    """When, with which versions and at which commits a device's rows were measured; "+" for uncommitted changes."""
    used = [table.lines[0] for table in tables.values()]
    newest = max(used, key=lambda line: line["date"])
    commits = sorted({line["commit"] + ("+" if line["dirty"] else "") for line in used})
    driver = f", driver {newest['driver']}, CUDA {newest['cuda']}" if is_gpu(newest) else ""
    return f"{device}{driver}: torch {newest['torch']}, {newest['date'][:10]}, commit {', '.join(commits)}."
