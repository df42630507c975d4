"""The embedded default: a small world of coloured shapes, a reader of its images, and a real model of it.

Names are looked up on first use, so importing this room loads neither torch nor diffusers.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "vocabulary": ("COLOURS", "HELD_OUT_COMBINATIONS", "HELD_OUT_PAIRS", "IMAGE_SIZE", "RELATIONS", "SHAPES"),
    "world": ("Scene", "SceneObject", "is_held_out", "relation", "scene"),
    "rendering": ("coverage", "render"),
    "captions": ("Prompt", "caption", "phrase", "prompts"),
    "reader": ("Detection", "read"),
    "caption_reader": ("objects_of", "prompt_of"),
    "scoring": ("PromptScore", "score"),
    "captioned_scenes": ("CaptionedScenes",),
    "masked_scenes": ("MaskedScenes",),
    "measuring": ("Quality", "Rate", "generate", "quality"),
    "shipped": ("model_path",),
    "load": ("pipeline",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
