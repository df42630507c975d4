"""Listening to attention at the two names by which diffusers' processors call it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from .calls import Call, Pass

DISPATCH, SDPA = "dispatch_attention_fn", "scaled_dot_product_attention"
# torch's function is built in, so that there is no signature to inspect
SDPA_SIGNATURE = inspect.signature(
    lambda query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False: None
)


class _Recorder:
    """The ``passes`` of one model.

    Attributes:
        layers: Names of the attention modules that are running now, the innermost last.
        backend: Whether a call of attention is running, whose own calls are a part of it.
    """

    def __init__(self) -> None:
        self.passes: list[Pass] = []
        self.layers: list[str] = []
        self.backend = False

    def listening(
        self, function: Callable[..., Tensor], signature: inspect.Signature, tokens: int
    ) -> Callable[..., Tensor]:
        """``function``, whose calls out of an attention module are recorded; ``tokens`` is their axis."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Tensor:
            if not self.layers or self.backend:
                return function(*args, **kwargs)
            self.backend = True
            try:
                output = function(*args, **kwargs)
            finally:
                self.backend = False
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            self.passes[-1].calls.append(_call(self.layers[-1], bound.arguments, output, tokens))
            return output

        return call


def _call(layer: str, arguments: dict[str, Any], output: Tensor, tokens: int) -> Call:
    def heads_second(x: Tensor) -> Tensor:
        return x.detach().transpose(tokens, 2).clone()

    query, key, value = (heads_second(arguments[name]) for name in ("query", "key", "value"))
    mask = arguments["attn_mask"]
    if mask is not None:
        mask = mask.detach().clone()
        # two axes are [B, Nk] to diffusers, and [Nq, Nk] to torch
        if tokens == 1 and mask.shape == (query.shape[0], key.shape[2]):
            mask = mask[:, None, None]
    if arguments["is_causal"]:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    scale = query.shape[-1] ** -0.5 if arguments["scale"] is None else arguments["scale"]
    return Call(layer, query, key, value, mask, scale, heads_second(output))


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Pass]]:
    """Record every forward pass of a stock ``model`` while the context is open.

    Modules with a ``processor`` are its attention; calls outside of them (of text encoders, of autoencoders) are not
    recorded. ``model`` must be stock: of an attached one, a layer that weft computes makes no call to be seen here.
    """
    recorder = _Recorder()
    signature = inspect.signature(type(model).forward)

    def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
        arguments = dict(signature.bind(module, *args, **kwargs).arguments)
        del arguments["self"]
        recorder.passes.append(Pass(arguments))

    with ExitStack() as stack:
        for module in [module for name, module in sys.modules.items() if name.startswith("diffusers.")]:
            if dispatch := vars(module).get(DISPATCH):
                listening = recorder.listening(dispatch, inspect.signature(dispatch), tokens=1)
                stack.enter_context(mock.patch.object(module, DISPATCH, listening))
        functional = torch.nn.functional
        listening = recorder.listening(getattr(functional, SDPA), SDPA_SIGNATURE, tokens=2)
        stack.enter_context(mock.patch.object(functional, SDPA, listening))
        stack.callback(model.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for name, layer in model.named_modules():
            if hasattr(layer, "processor"):
                _enclose(stack, recorder.layers, name, layer)
        yield recorder.passes


def _enclose(stack: ExitStack, layers: list[str], name: str, layer: nn.Module) -> None:
    """While ``layer`` runs, ``name`` is the last of ``layers``."""

    def enter(layer: nn.Module, args: Any) -> None:
        layers.append(name)

    def leave(layer: nn.Module, args: Any, output: Any) -> None:
        layers.pop()

    stack.callback(layer.register_forward_pre_hook(enter).remove)
    stack.callback(layer.register_forward_hook(leave, always_call=True).remove)
