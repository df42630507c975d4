"""Everything that knows diffusers: ``weft.attach(pipe, *controls)`` takes a pipeline over and gives it back.

The package can be called, since ``weft.attach`` is both this package and the function: importing a part of it must
not hide the function behind the package.
"""

import sys
from typing import Any

from weft._names import public_names

__getattr__, __dir__, __all__ = public_names(__name__, __file__)


# the class that lazy_loader gave it keeps functions apart from files of their name
class _CallablePackage(type(sys.modules[__name__])):  # type: ignore[misc]
    def __call__(self, pipe_or_model: Any, *controls: Any, backend: str | None = None, family: Any = None) -> Any:
        return self.attach(pipe_or_model, *controls, backend=backend, family=family)


sys.modules[__name__].__class__ = _CallablePackage
