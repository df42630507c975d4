"""How good drawn images are: distances between sets, retrieval, captions read back, consistency and diversity.

Names are looked up on first use. Nothing here downloads anything, and torchmetrics is imported when it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "distances": ("cmmd", "fid", "kid", "mmd"),
    "evaluating": ("evaluate_drawings", "evaluate_sampler"),
    "drawings": ("Drawing", "read_drawings", "write_drawings"),
    "extractors": ("Extractor", "folder_extractor", "judge_extractor", "module_extractor", "open_extractor"),
    "intervals": ("Interval", "interval"),
    "judge.judge": ("Judge",),
    "measuring": ("measure",),
    "observing": ("Observed", "observe"),
    "planning": ("Captioned", "Plan", "Request", "requests"),
    "retrieval": ("RPrecision", "r_precision"),
    "samplers": ("Sampler", "draw", "generator_sampler", "pipeline_sampler"),
    "scenes": ("Square", "Squares", "folder_pictures", "shapes_pictures"),
    "spreading": ("spread",),
    "teachers": ("Teachers",),
    "reporting": ("table",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
