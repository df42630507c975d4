"""The attention processor that stands in for one of diffusers': the same code around weft's attention.

Cheapest first: a layer that no control acts on runs its own processor, untouched. Otherwise the processor's own code
runs with its one call of attention replaced (``rebinding``), so norms, rotary embeddings and projections are the
model's, whatever the model.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.attach.processors.masks import key_padding, with_product
from weft.attach.processors.plan import Plan
from weft.attach.processors.rebinding import AttentionCall, rebind, with_signature
from weft.attach.records import LayerInfo, Ranges
from weft.ops import attention


class Seam:
    """Processor of one attention layer, in place of one of diffusers'.

    diffusers builds new processors by the class of those it finds (``set_default_attn_processor``, loading and
    unloading an IP-Adapter), and must then get its own class: ``__class__`` is that of the replaced processor,
    and a copy or a pickle of this object is one of that processor. What is set on it (the attention backend) is set
    on that processor.

    Attributes:
        original: The processor it stands in for.
        layer: The layer it serves.
        plan: What to do in the coming pass; None leaves the model to itself.
        ranges: Where text and image are in the coming pass; None in a separate attention.
        maps: The maps of the last pass, [B, Nq, M], until they are collected.
    """

    _rebound: ClassVar[Callable[..., Any]]  # the code that runs; its first argument is the original

    def __init__(self, original: Any, layer: LayerInfo, backend: str | None, *, number: int = 0) -> None:
        """``number``: which of the calls of attention that the processor makes is the layer's, from 0."""
        self.original = original
        self.layer = layer
        self.plan: Plan | None = None
        self.ranges: Ranges | None = None
        self.maps: Tensor | None = None
        self._backend = backend
        self._number = number
        self._calls = 0  # of attention so far, in the running call

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self.original)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return type(self.original)()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.original.__reduce_ex__(protocol)

    @property
    def _attention_backend(self) -> Any:
        return self.original._attention_backend

    @_attention_backend.setter
    def _attention_backend(self, value: Any) -> None:
        self.original._attention_backend = value

    @property
    def _parallel_config(self) -> Any:
        return self.original._parallel_config

    @_parallel_config.setter
    def _parallel_config(self, value: Any) -> None:
        self.original._parallel_config = value

    def run(self, attn: Any, *args: Any, **kwargs: Any) -> Any:
        """The processor's call."""
        if self.plan is None:
            return self.original(attn, *args, **kwargs)
        return self._run_rebound(attn, *args, **kwargs)

    def _run_rebound(self, attn: Any, *args: Any, **kwargs: Any) -> Any:
        running = _running()
        before, running.seam = running.seam, self
        self._calls = 0
        try:
            out = self._rebound(self.original, attn, *args, **kwargs)
        finally:
            running.seam = before
        if self._calls <= self._number:
            raise RuntimeError(
                f"attach: {type(self.original).__name__} of {self.layer.name} did not call attention by a name that "
                "weft replaces, so no control acted there; choose other layers"
            )
        return out

    def attend(self, call: AttentionCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the processor's call of attention returns."""
        number, self._calls = self._calls, self._calls + 1
        plan = self.plan
        if plan is None or number != self._number:
            return call.run(*args, **kwargs)
        return self._planned(plan, call, *args, **kwargs)

    def _planned(
        self,
        plan: Plan,
        call: AttentionCall,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        **others: Any,
    ) -> Any:
        if plan.tokens:
            if attn_mask is not None:
                attn_mask = F.pad(attn_mask, (0, plan.tokens), value=attn_mask.dtype == torch.bool)  # always seen
            axis = 2 if call.heads_first else 1
            if self.ranges is not None:  # fused projections make queries of added tokens, too
                query = query.narrow(axis, 0, self.ranges.total)
        if not plan.needs_attention:
            options = {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, **others}
            options |= {name: x for name, x in (("scale", scale), ("enable_gqa", enable_gqa)) if x}
            return call.run(query, key, value, **options)
        self._check(dropout_p, is_causal, others)
        if not call.heads_first:
            return self._attend(plan, query, key, value, attn_mask, scale)
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        return self._attend(plan, query, key, value, attn_mask, scale).transpose(1, 2)

    def _check(self, dropout_p: float, is_causal: bool, others: dict[str, Any]) -> None:
        found = {"dropout_p": dropout_p, "is_causal": is_causal, "parallel_config": others.get("parallel_config")}
        given = [f"{name}={value}" for name, value in found.items() if value]
        if given:
            raise ValueError(
                f"attach: {self.layer.name} calls attention with {', '.join(given)}, which a controlled layer cannot "
                "have; choose other layers, or leave it out"
            )

    def _attend(
        self, plan: Plan, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None
    ) -> Tensor:
        """weft's attention, [B, N, H, D] in and out; maps of the image's queries go where they are wanted."""
        arguments = self._arguments(plan, query, key)
        if mask is not None and self.ranges is not None and self.ranges.adds_mask:
            edit, query_labels, key_labels = with_product(
                arguments["edit"], arguments["query_labels"], arguments["key_labels"], mask, self.layer.name
            )
            arguments |= {"edit": edit, "query_labels": query_labels, "key_labels": key_labels}
            mask = None
        arguments["key_padding"] = key_padding(mask, key.shape[1], self.layer.name)
        arguments["scale"] = scale
        readout: Tensor | None = arguments.pop("readout")
        if readout is None:
            return attention(query, key, value, backend=self._backend, **arguments)
        out, maps = attention(query, key, value, readout=readout, backend=self._backend, **arguments)
        if self.ranges is not None:
            maps = maps[:, self.ranges.image]
        plan.sink(maps)
        if plan.is_read:
            self.maps = maps
        return out

    def _arguments(self, plan: Plan, query: Tensor, key: Tensor) -> dict[str, Any]:
        """Edit, labels and read-out, whose queries are pixels and keys text tokens, for the layer's whole sequence."""
        request, ranges = plan.request, self.ranges
        arguments: dict[str, Any] = {
            "edit": request.edit,
            "query_labels": request.query_labels,
            "key_labels": request.key_labels,
            "readout": request.readout,
        }
        if ranges is not None and query.shape[1] != ranges.total:
            raise ValueError(
                f"attach: expected {ranges.total} queries in {self.layer.name}, of image and text; got "
                f"{query.shape[1]}; something (token merging, for one) changed them: leave it out"
            )
        text = slice(0, key.shape[1] - plan.tokens) if ranges is None else ranges.text
        before, after = text.start, key.shape[1] - text.stop
        if ranges is not None and request.readout is not None:
            arguments["readout"] = F.pad(request.readout, (0, 0, before, after - plan.tokens))
        wider = plan.wider_edit
        if wider is not None:
            arguments["edit"] = wider.edit()
            arguments["key_labels"] = wider.key_labels(key.shape[1], None if ranges is None else ranges.image, text)
            if ranges is not None:
                arguments["query_labels"] = wider.query_labels(ranges.total, ranges.image, text)
        return arguments


class _Running:
    """The stand-in whose processor runs."""

    def __init__(self) -> None:
        self.seam: Seam | None = None


class _RunningHere(_Running, threading.local):
    """Of each thread its own."""


_TRACED, _HERE = _Running(), _RunningHere()


def _running() -> _Running:
    # compilers trace one thread at a time, and know nothing of thread-local state
    return _TRACED if torch.compiler.is_compiling() else _HERE


def _replacement(call: AttentionCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    seam = _running().seam
    assert seam is not None
    return seam.attend(call, args, kwargs)


@functools.cache
def bound(seam: type[Seam], processor: type, code_of: type | None = None) -> type[Seam]:
    """``seam`` for processors of the class ``processor``.

    Args:
        code_of: The processor whose code runs where a control acts; None for ``processor`` itself.
    """
    names = {
        "__call__": with_signature(processor.__call__, "run"),
        "_rebound": staticmethod(rebind(code_of or processor, _replacement)),
    }
    return type(f"{seam.__name__}Of{processor.__name__}", (seam,), names)
