"""The figures that weft sets out to reach on an H100 or H200, as data, and whether the results reach them.

``python -m benchmarks.reporting.figures`` prints each as met or missed, by how much, and in both passes of the run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.reporting.tables import ANY_GPU, NOT_MEASURED, RESULTS, is_gpu, read

Line = dict[str, Any]

EAGER = ("eager",)
SDPA = ("sdpa_flash", "sdpa_cudnn", "sdpa_efficient")
MERGED = ("merged",)
BLEND = ("blend",)


@dataclass(frozen=True)
class Figure:
    """One ratio within one run.

    Attributes:
        name: What is claimed.
        shape, mode, dtype: Where weft's time or memory is taken.
        kind: A key of ``KINDS``.
        bound: The ratio to reach, or not to exceed.
        against: Providers of whom the fastest counts; () where a ceiling of the device is the measure.
        against_mode: Their mode.
    """

    name: str
    shape: str
    mode: str
    kind: str
    bound: float
    against: tuple[str, ...] = ()
    against_mode: str = ""
    dtype: str = "bf16"


@dataclass(frozen=True)
class Kind:
    """How a ratio is made and read.

    Attributes:
        reads: Its unit, after the number.
        at_least: Whether more is better.
        of: (weft's line, the fastest peer's or None, pass) to the ratio.
    """

    reads: str
    at_least: bool
    of: Callable[[Line, Line | None, int], float]


def _pass_ms(line: Line | None, number: int) -> float:
    assert line is not None
    return float(line["passes_ms"][number])


def _extra_memory(ours: Line, peer: Line | None, number: int) -> float:
    sizes = ours["sizes"]
    bytes_each = {"fp32": 4}.get(ours["dtype"], 2)
    tokens = 2 * (sizes["Nq"] + sizes["Nk"])
    return float(ours["peak_extra_bytes"] / (sizes["B"] * tokens * sizes["H"] * sizes["D"] * bytes_each))


KINDS = {
    "speed-up": Kind("as fast", True, lambda ours, peer, n: _pass_ms(peer, n) / _pass_ms(ours, n)),
    "slow-down": Kind("the time", False, lambda ours, peer, n: _pass_ms(ours, n) / _pass_ms(peer, n)),
    "share": Kind("of the floor", True, lambda ours, peer, n: ours["floor_ms"] / _pass_ms(ours, n)),
    "memory": Kind("the bytes of q, k, v and out", False, _extra_memory),
}

FIGURES = (
    *(
        Figure(
            "edit and 8 maps, against an eager processor with maps",
            shape,
            "edit_maps",
            "speed-up",
            5.0,
            EAGER,
            "edit_maps",
        )
        for shape in ("sd15_64", "sdxl_64")
    ),
    *(
        Figure("edit and 8 maps, against SDPA without either", shape, "edit_maps", "slow-down", 1.15, SDPA, "plain")
        for shape in ("sd15_64", "sdxl_64")
    ),
    # the floor is bytes over copy bandwidth wherever that is the larger; at 300 keys and more products take longer
    *(
        Figure("edit and 8 maps, share of the floor", shape, "edit_maps", "share", 0.6)
        for shape in ("sdxl_64", "stress_d40", "pixart_64", "stress_d64", "stress_d128")
    ),
    *(
        Figure("self-attention edit, against SDPA without", shape, "self_edit", "slow-down", 1.3, SDPA, "plain")
        for shape in ("sd15_self_64", "sdxl_self_64")
    ),
    *(
        Figure("self-attention edit, memory linear in tokens", shape, "self_edit", "memory", 1.0)
        for shape in ("sd15_self_64", "sdxl_self_64")
    ),
    *(
        Figure(
            "joint attention with 8 maps, against SDPA without", shape, "joint_maps", "slow-down", 1.1, SDPA, "plain"
        )
        for shape in ("sd3_joint", "flux_joint")
    ),
    Figure(
        "backward of edit and 8 maps, against SDPA's",
        "sdxl_64",
        "edit_maps_gradients",
        "slow-down",
        1.3,
        SDPA,
        "plain_gradients",
    ),
    Figure(
        "backward of 8 joint maps, against SDPA's",
        "flux_joint",
        "joint_maps_gradients",
        "slow-down",
        1.3,
        SDPA,
        "plain_gradients",
    ),
    *(
        Figure("4 localized concepts, against merged", shape, "localized", "slow-down", 1.15, MERGED, "localized")
        for shape in ("sdxl_out_64", "sdxl_out_32", "flux_out")
    ),
    *(
        Figure("4 localized concepts, against blending", shape, "localized", "speed-up", 3.0, BLEND, "localized")
        for shape in ("sdxl_out_64", "sdxl_out_32", "flux_out")
    ),
)


@dataclass(frozen=True)
class Verdict:
    """A figure on one device.

    Attributes:
        values: The ratio in each pass of the run; () if it was not measured.
        against: The peer that counted, or the ceiling; "" if it was not measured.
    """

    figure: Figure
    values: tuple[float, ...] = ()
    against: str = ""

    @property
    def status(self) -> str:
        """ "met" or "missed" if every pass says so, "unsettled" if they disagree, else ``NOT_MEASURED``."""
        if not self.values:
            return NOT_MEASURED
        at_least = KINDS[self.figure.kind].at_least
        found = {value >= self.figure.bound if at_least else value <= self.figure.bound for value in self.values}
        return "unsettled" if len(found) == 2 else "met" if found == {True} else "missed"

    def text(self) -> str:
        """The ratio, what it was against, and by how much it is on which side of the bound."""
        if not self.values:
            return NOT_MEASURED
        value = statistics.median(self.values)
        distance = abs(value / self.figure.bound - 1)
        passes = " and ".join(_ratio(self.figure, v) for v in self.values)
        against = f" of {self.against}" if self.against else ""
        if self.status == "unsettled":
            return f"{passes}{against}: unsettled, the passes disagree"
        return f"{_ratio(self.figure, value)}{against}: {self.status} by {distance:.0%} (passes {passes})"


def _ratio(figure: Figure, value: float) -> str:
    return f"{value:.0%}" if figure.kind == "share" else f"{value:.2f}x"


def evaluate(lines: list[Line], figures: tuple[Figure, ...] = FIGURES) -> list[Verdict]:
    """Every figure by the lines of one device, from the last run that has all it takes."""
    return [
        max(_verdicts(lines, figure), key=lambda pair: pair[0], default=("", Verdict(figure)))[1] for figure in figures
    ]


def _verdicts(lines: list[Line], figure: Figure) -> list[tuple[str, Verdict]]:
    """(date, verdict) of each run that has the lines of ``figure``."""
    found = []
    for ours in lines:
        if _is_at(ours, figure.shape, figure.dtype, figure.mode) and ours["provider"] == "weft":
            peers = [
                line
                for line in lines
                if _is_at(line, figure.shape, figure.dtype, figure.against_mode)
                and line["provider"] in figure.against
                and line["run"] == ours["run"]
            ]
            peer = min(peers, key=lambda line: line["median_ms"], default=None)
            has_memory = figure.kind != "memory" or ours["peak_extra_bytes"] is not None
            if (peer is None) == bool(figure.against) or not has_memory:
                continue
            kind = KINDS[figure.kind]
            # memory is measured once
            passes = range(1 if figure.kind == "memory" else len(ours["passes_ms"]))
            values = tuple(kind.of(ours, peer, number) for number in passes)
            against = peer["provider"] if peer else ours["floor"] if figure.kind == "share" else ""
            found.append((ours["date"], Verdict(figure, values, against)))
    return found


def _is_at(line: Line, shape: str, dtype: str, mode: str) -> bool:
    return (line["shape"], line["dtype"], line["mode"]) == (shape, dtype, mode)


def by_device(lines: list[Line]) -> dict[str, list[Verdict]]:
    """The verdicts of each GPU that has results; of ``ANY_GPU`` if none has."""
    on_gpu = [line for line in lines if is_gpu(line)]
    devices = sorted({line["device"] for line in on_gpu}) or [ANY_GPU]
    return {device: evaluate([line for line in on_gpu if line["device"] == device]) for device in devices}


def markdown(lines: list[Line]) -> str:
    """A row a figure, a column a device that has results; a line instead of a column where no device has any."""
    verdicts = by_device(lines)
    measured = {device: found for device, found in verdicts.items() if any(verdict.values for verdict in found)}
    rows = ["| " + " | ".join(["figure", "shape", "bound", *measured]) + " |", "|" + "---|" * (3 + len(measured))]
    for i, figure in enumerate(FIGURES):
        cells = [figure.name, figure.shape, bound(figure), *(found[i].text() for found in measured.values())]
        rows.append("| " + " | ".join(cells) + " |")
    missing = [f"{device}: {NOT_MEASURED}." for device in verdicts if device not in measured]
    return "\n".join([*rows, *([""] if missing else []), *missing])


def text(lines: list[Line]) -> str:
    """The same for a terminal, with a count of each status."""
    parts = []
    for device, verdicts in by_device(lines).items():
        parts.append(f"figures on {device}:")
        parts += [f"  {v.figure.name}, {v.figure.shape}, {bound(v.figure)}: {v.text()}" for v in verdicts]
        statuses = [verdict.status for verdict in verdicts]
        counts = [f"{statuses.count(s)} {s}" for s in ("met", "missed", "unsettled", NOT_MEASURED) if s in statuses]
        parts.append(f"  {', '.join(counts)}")
    return "\n".join(parts)


def bound(figure: Figure) -> str:
    """The bound as it is read."""
    kind = KINDS[figure.kind]
    return f"{'at least' if kind.at_least else 'at most'} {_ratio(figure, figure.bound)} {kind.reads}"


@dataclass(frozen=True)
class Options:
    """Say which figures the results reach.

    Attributes:
        results: Folder of the .jsonl files.
    """

    results: Path = RESULTS


if __name__ == "__main__":
    print(text(read(tyro.cli(Options, description=Options.__doc__).results)))
