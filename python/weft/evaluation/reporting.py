"""A record of an evaluation as text for a terminal: every number with its interval or spread, and what it is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]


def table(measures: Mapping[str, Row]) -> str:
    """One line a number; what could not be found says why."""
    lines: list[tuple[str, str, str]] = []
    for name, row in measures.items():
        lines += [(name, "-", row["absent"])] if "absent" in row else _LINES[name](row)
    if not lines:
        return ""
    if any(row.get("extractor_taught") for row in measures.values()):
        lines.append(("flattered", "-", "the extractor has taught what drew these images: measure with another"))
    names, values = (max(len(line[i]) for line in lines) for i in (0, 1))
    return "\n".join(f"{name:<{names}}  {value:<{values}}  {what}".rstrip() for name, value, what in lines)


def _fid(row: Row) -> list[tuple[str, str, str]]:
    return [("FID", f"{row['value']:.2f}", f"{_sides(row)}{_floor(row, 1, 2)}, {_features(row)}")]


def _kid(row: Row) -> list[tuple[str, str, str]]:
    of = f"{row['subsets']} subsets of {row['subset_size']}"
    return [
        (
            "KID x 1000",
            f"{1000 * row['value']:.2f} ± {1000 * row['std']:.2f}",
            f"{_sides(row)}{_floor(row, 1000, 2)}, {of}",
        )
    ]


def _cmmd(row: Row) -> list[tuple[str, str, str]]:
    how = f"sigma {row['sigma']:g}, unbiased, x {row['scale']:g}"
    return [("CMMD", f"{row['value']:.3f}", f"{_sides(row)}{_floor(row, 1, 3)}, {how}")]


def _captions(row: Row) -> list[tuple[str, str, str]]:
    return [
        ("objects bound", _percent(row["bound"]), "every object of the caption in its colour"),
        ("caption correct", _percent(row["correct"]), "and every relation, and nothing else"),
    ]


def _retrieval(row: Row) -> list[tuple[str, str, str]]:
    what = f"own caption of {row['candidates']}, {row['folds']} folds; chance {100 * row['chance']:.1f} %"
    if "real" in row:
        what += f"; of the real images {100 * row['real']['mean']:.1f} ± {100 * row['real']['std']:.1f} %"
    what += f"; {_TRAINING[row.get('extractor_taught')]}"
    return [("R-precision", f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f} %", what)]


def _consistency(row: Row) -> list[tuple[str, str, str]]:
    what = f"distance between up to {row['most_wordings']} wordings of a scene, one noise; less is more consistent"
    lines = [("wordings apart", _interval(row), what)]
    if "same_objects" in row:
        lines.append(("same objects", _percent(row["same_objects"]), "scenes that all wordings show with the same"))
    return lines


def _diversity(row: Row) -> list[tuple[str, str, str]]:
    what = f"distance between {row['most_noises']} noises of a caption"
    if "unrelated" in row:
        what += f"; unrelated images: {row['unrelated']:.2f}"
    return [("noises apart", _interval(row), what)]


def _percent(row: Row) -> str:
    return "{:.1f} [{:.1f}, {:.1f}] %".format(*(100 * row[key] for key in ("value", "low", "high")))


def _interval(row: Row) -> str:
    return "{:.2f} [{:.2f}, {:.2f}]".format(*(row[key] for key in ("value", "low", "high")))


def _sides(row: Row) -> str:
    return f"{row['drawn']} drawn, {row['real']} real images"


def _floor(row: Row, factor: float, digits: int) -> str:
    """Between two sets of real images, where that is known."""
    return f", other real images {factor * row['floor']:.{digits}f}" if "floor" in row else ""


def _features(row: Row) -> str:
    return f"{row['features']} features of {row['extractor']!r}, resizing: {row['resize']}"


_TRAINING = {
    True: "its encoder took part in training, which flatters",
    False: "its encoder took no part in training",
    None: "whether its encoder took part in training is not known",
}

_LINES: dict[str, Callable[[Row], list[tuple[str, str, str]]]] = {
    "fid": _fid,
    "kid": _kid,
    "cmmd": _cmmd,
    "captions": _captions,
    "retrieval": _retrieval,
    "consistency": _consistency,
    "diversity": _diversity,
}
