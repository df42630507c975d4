"""One list of public names a package: its ``__init__.pyi``, read here when code runs and by type checkers before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lazy_loader


def public_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package that loads each name on first use.

    Args:
        package: ``__name__`` of the package.
        file: ``__file__`` of its ``__init__.py``; the list is in ``__init__.pyi`` of the same folder.
    """
    load, listed, names = lazy_loader.attach_stub(package, file)

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(names)}")
        return load(name)

    return get, listed, names
