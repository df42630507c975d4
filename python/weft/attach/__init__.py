"""Everything that knows diffusers: ``weft.attach(pipe, *controls)`` takes a pipeline over and gives it back.

The package can be called, since ``weft.attach`` is both this package and the function: importing a part of it must
not hide the function behind the package.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from weft.attach.attachment import Attachment, attach
from weft.attach.control import Control, Generation, LayerInfo, LayerRequest, Step
from weft.attach.text.prompt import Prompt

__all__ = ["Attachment", "Control", "Generation", "LayerInfo", "LayerRequest", "Prompt", "Step", "attach"]


class _CallablePackage(ModuleType):
    def __call__(self, pipe_or_model: Any, *controls: Control, backend: str | None = None) -> Attachment:
        return attach(pipe_or_model, *controls, backend=backend)


sys.modules[__name__].__class__ = _CallablePackage
