"""weft: read, edit and localise what a text-to-image model does, at the speed of fused kernels.

Importing it touches no GPU, compiles nothing and loads neither diffusers nor triton: names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from weft._dispatch import backend
from weft._errors import BackendUnavailableError

if TYPE_CHECKING:
    from weft import ops
    from weft.attach import Attachment, attach
    from weft.methods.attention_maps import AttentionMaps

__version__ = "0.1.0.dev0"

# name -> module it comes from; a module standing for itself is a sub-package
_LAZY = {
    "attach": "weft.attach",
    "Attachment": "weft.attach",
    "AttentionMaps": "weft.methods.attention_maps",
    "ops": "weft.ops",
}

__all__ = ["Attachment", "AttentionMaps", "BackendUnavailableError", "attach", "backend", "ops"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'weft' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")
    module = importlib.import_module(_LAZY[name])
    value = module if _LAZY[name] == f"weft.{name}" and not hasattr(module, name) else getattr(module, name)
    # weft.attach is a function that lives in a package of the same name: importing the package has just bound the
    # package here, so the function is bound over it
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
