"""Whether there are images enough for what is to be measured: asked before anything is drawn."""

from __future__ import annotations

from collections.abc import Collection

from weft.evaluation.distances import image_metrics

_FEWEST = 2  # images that a distance without bias takes of each side


def check_enough(measures: Collection[str], features: int, *, real: int, drawn: int, others: int = 0) -> None:
    """Refuse distances between so few images, and those of torchmetrics without it.

    Args:
        features: Of an image; fid takes more images than that.
        real, drawn: Images that are compared.
        others: Real images that measure the floor; 0 where there is none.

    Raises:
        ValueError: Too few for one of ``measures``.
        ImportError: torchmetrics is not installed.
    """
    fewest = min(real, drawn, others or real)
    needed = {"fid": features + 1, "kid": _FEWEST, "cmmd": _FEWEST}
    if lacking := {name: count for name, count in needed.items() if name in measures and fewest < count}:
        fewest_of = ", ".join(f"{name} at least {count}" for name, count in lacking.items())
        beside = f", and {others} other real" if others else ""
        raise ValueError(
            f"evaluate: of {features} features, on each side, images must be: {fewest_of}; there are {real} real and "
            f"{drawn} drawn{beside}; give more (--count, --against, --images), or leave {' and '.join(lacking)} out "
            "of --measures"
        )
    for name in ("fid", "kid"):
        if name in measures:
            image_metrics(name)
