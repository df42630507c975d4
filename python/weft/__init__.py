"""weft: read, edit and localise what a text-to-image model does, at the speed of fused kernels.

Importing it touches no GPU, compiles nothing and loads neither torch, diffusers nor triton: names are loaded on first
use. They are listed in ``__init__.pyi``.
"""

from importlib import import_module
from typing import Any

from weft._names import public_names

__version__ = "0.1.0"

_load, __dir__, __all__ = public_names(__name__, __file__)


def __getattr__(name: str) -> Any:
    # `weft.attach` is a package that can be called, so that importing it never hides the function of its name
    return import_module("weft.attach") if name == "attach" else _load(name)
