"""The few numbers of the README, taken from the result lines: calls of one op, and whole images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reporting.tables import Key, Line, column, latest, milliseconds, read


@dataclass(frozen=True)
class Call:
    """One op at one shape, against the fastest baseline of the same run."""

    what: str
    key: Key


@dataclass(frozen=True)
class Image:
    """A whole image with a method: its extra time over stock, beside that of another way to the same end.

    Attributes:
        op, shape: Of the result line that ``benchmarks.measuring.image_cost`` wrote.
        other: Name of the other way in that line, and how a reader knows it.
    """

    what: str
    op: str
    shape: str
    other: tuple[str, str]


# a loss is among them
HEADLINE: tuple[Call | Image, ...] = (
    Call("edited attention with 8 maps, SD 1.5, 64 x 64, bf16", ("attention", "sd15_64", "bf16", "edit_maps")),
    Call("a different adapter in each image, SD 1.5, bf16", ("lowrank_linear", "sd15_out_64", "bf16", "one_each")),
    Image(
        "an image with MaskDiffusion as released, SD 1.5, bf16",
        "maskdiffusion",
        "sd15_512",
        ("eager", "eager attention"),
    ),
    Image(
        "an image with a localized residual, SD 1.5, bf16",
        "localized_residuals",
        "sd15_512",
        ("twice", "two passes blended"),
    ),
    Call(
        "backward of edited attention with maps, 16 x 16, fp32", ("attention", "sd15_16", "fp32", "edit_maps_backward")
    ),
)


def markdown(folder: Path) -> str:
    """A table of those numbers that the results in ``folder`` hold; "Not measured yet." if none."""
    lines = read(folder)
    found = [row for one in HEADLINE for row in (_call(one, lines) if isinstance(one, Call) else _image(one, folder))]
    if not found:
        return "Not measured yet."
    head = "| what | weft | without weft | ratio | machine |"
    return "\n".join([head, "|---|---|---|---|---|", *found])


def _call(call: Call, lines: list[Line]) -> list[str]:
    """A row for each device that measured it."""
    rows = []
    for device, tables in latest(lines).items():
        table = tables.get(call.key)
        if table is None:
            continue
        assert table.ours is not None and table.fastest is not None
        ours, theirs = (milliseconds(line["median_ms"]) for line in (table.ours, table.fastest))
        note = f" ({table.fastest['note']})" if table.fastest["note"] else ""
        name = f"`{table.fastest['provider']}`{note}"
        rows.append(f"| {call.what} | {ours} ms | {theirs} ms, {name} | **{table.ratio:.2f}x** | {device} |")
    return rows


def _image(image: Image, folder: Path) -> list[str]:
    """A row of the last run at that shape."""
    every = [json.loads(text) for path in sorted(folder.glob("*_cost_*.jsonl")) for text in path.open()]
    mine = [line for line in every if (line["op"], line["shape"]) == (image.op, image.shape)]
    if not mine:
        return []
    line: dict[str, Any] = max(mine, key=lambda line: line["date"])
    name, readable = image.other
    stock_s, extra_s = line["stock_s"], line["extra_s"]
    ours, theirs = (stock_s + extra_s[who] for who in ("weft", name))
    seconds = f"{ours:.0f} s | {theirs:.0f} s, {readable}"
    return [f"| {image.what}, stock {stock_s:.0f} s | {seconds} | **{theirs / ours:.2f}x** | {column(line)} |"]
