"""A processor's own code with the attention function that it calls replaced by another.

Nearly every attention processor of diffusers ends in one call, of ``dispatch_attention_fn`` or of
``F.scaled_dot_product_attention``, after its norms and rotary embeddings. A copy of its ``__call__`` with other
globals runs the same code around another attention, so nothing of a model's arithmetic is written a second time.

Relied on beyond the public interface: the two names, in the module that defines the processor.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import nn

DISPATCH, SDPA = "dispatch_attention_fn", "scaled_dot_product_attention"


@dataclass(frozen=True)
class AttentionCall:
    """How a processor calls attention.

    Attributes:
        run: The function that the processor itself would call now.
        heads_first: Its arguments are [B, H, N, D], as of SDPA; otherwise [B, N, H, D], as of the dispatcher.
    """

    run: Callable[..., Any]
    heads_first: bool


# (how the processor calls attention, its positional arguments, its keyword arguments) -> what attention returns
Replacement = Callable[[AttentionCall, tuple[Any, ...], dict[str, Any]], Any]


def refusal(processor: type) -> str | None:
    """Why the code of a processor class cannot be run with another attention; None where it can."""
    name = processor.__name__
    if issubclass(processor, nn.Module):
        return f"{name} is a module with weights of its own"
    call = _call_of(processor)
    if call is None:
        return f"{name} is not written in Python"
    if not _is_called(call, DISPATCH) and not _is_called(call, SDPA):
        return f"{name} calls neither {DISPATCH} nor F.{SDPA}"
    helpers = [helper for helper in _helpers(call) if _is_called(helper, DISPATCH) or _is_called(helper, SDPA)]
    if helpers:
        return f"{name} calls attention in a function of its own as well, {helpers[0].__name__}"
    return None


def rebind(processor: type, replacement: Replacement) -> Callable[..., Any]:
    """``processor.__call__`` with ``replacement`` in place of its attention; the first argument is a processor.

    ``processor`` must be one that ``refusal`` has nothing against.
    """
    call = _call_of(processor)
    assert call is not None
    names = call.__globals__
    # compilers guard globals by the name of their module, so that this has to be a module, and stay one
    home = _module(f"weft_rebound.{processor.__module__}.{processor.__qualname__}", names)
    if _is_called(call, DISPATCH):
        home.__dict__[DISPATCH] = _replaced(names, DISPATCH, False, replacement)
    if SDPA in names:  # imported by itself
        home.__dict__[SDPA] = _replaced(names, SDPA, True, replacement)
    if _is_called(call, SDPA):
        functional = _module(f"{home.__name__}.functional", vars(F))
        functional.__dict__[SDPA] = _replaced(vars(F), SDPA, True, replacement)
        for name in [name for name, value in names.items() if value is F]:
            home.__dict__[name] = functional
    return types.FunctionType(call.__code__, home.__dict__, call.__name__, call.__defaults__, call.__closure__)


def with_signature(call: Callable[..., Any], method: str) -> Callable[..., Any]:
    """A function with the signature of ``call`` that hands its arguments to ``self.<method>``.

    diffusers drops arguments that a processor's signature does not name. Compilers read the signature from the
    function itself, so ``__signature__`` would not do.
    """
    defaults: dict[str, Any] = {}
    declared: list[str] = []
    passed: list[str] = []
    kinds: Any = inspect.Parameter
    parameters = list(inspect.signature(call).parameters.values())[1:]  # without self
    for parameter in parameters:
        stars = {kinds.VAR_POSITIONAL: "*", kinds.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = ""
        if parameter.default is not kinds.empty:
            defaults[f"default_{parameter.name}"] = parameter.default
            default = f"=default_{parameter.name}"
        if parameter.kind is kinds.KEYWORD_ONLY and "*" not in "".join(part[:1] for part in declared):
            declared.append("*")
        declared.append(f"{stars}{parameter.name}{default}")
        is_named = parameter.kind is kinds.KEYWORD_ONLY
        passed.append(f"{parameter.name}={parameter.name}" if is_named else f"{stars}{parameter.name}")
    namespace: dict[str, Any] = dict(defaults)
    source = f"def __call__(self, {', '.join(declared)}):\n    return self.{method}({', '.join(passed)})\n"
    exec(source, namespace)  # names come from a signature, so they are identifiers
    made: Callable[..., Any] = namespace["__call__"]
    return made


def _call_of(processor: type) -> types.FunctionType | None:
    call = inspect.unwrap(processor.__call__)
    return call if isinstance(call, types.FunctionType) else None


def _helpers(call: types.FunctionType) -> Iterator[types.FunctionType]:
    """The functions of its module that a processor calls."""
    for name in call.__code__.co_names:
        helper = call.__globals__.get(name)
        if isinstance(helper, types.FunctionType) and helper.__globals__ is call.__globals__:
            yield helper


def _is_called(call: types.FunctionType, name: str) -> bool:
    if name not in call.__code__.co_names:
        return False
    names = call.__globals__
    return name in names or (name == SDPA and any(value is F for value in names.values()))


def _module(name: str, names: dict[str, Any]) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__.update({k: v for k, v in names.items() if k not in ("__name__", "__spec__", "__loader__")})
    sys.modules[name] = module
    return module


def _replaced(names: dict[str, Any], name: str, heads_first: bool, replacement: Replacement) -> Callable[..., Any]:
    def attend(*args: Any, **kwargs: Any) -> Any:
        # looked up at every call: other tools exchange these functions, too
        return replacement(AttentionCall(names[name], heads_first), args, kwargs)

    return attend
