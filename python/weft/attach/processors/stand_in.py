"""What every attention processor of weft is, whatever the arithmetic of the one it stands in for."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from weft.attach.processors.plan import Plan
from weft.attach.records import LayerInfo
from weft.ops import attention


class StandIn:
    """Processor of one attention layer, in place of one of diffusers'.

    diffusers builds new processors by the class of those it finds (``set_default_attn_processor``, loading and
    unloading an IP-Adapter), and must then get its own class: ``__class__`` is that of the processor stood in for,
    and a copy or a pickle of this object is one of that processor.

    Attributes:
        original: The processor it stands in for.
        layer: The layer it serves.
        plan: What to do in the coming pass; None leaves the model to itself.
        maps: The maps of the last pass, [B, Nq, M], until they are collected.
    """

    def __init__(self, original: Any, layer: LayerInfo, backend: str | None) -> None:
        self.original = original
        self.layer = layer
        self.plan: Plan | None = None
        self.maps: Tensor | None = None
        self._backend = backend

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self.original)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return type(self.original)()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.original.__reduce_ex__(protocol)

    def _attend(
        self, plan: Plan, query: Tensor, key: Tensor, value: Tensor, *, pixels: int | None = None, **arguments: Any
    ) -> Tensor:
        """weft's attention, [B, N, H, D] in and out; maps of the first ``pixels`` queries go where they are wanted."""
        readout: Tensor | None = arguments.pop("readout")
        if readout is None:
            return attention(query, key, value, backend=self._backend, **arguments)
        out, maps = attention(query, key, value, readout=readout, backend=self._backend, **arguments)
        maps = maps[:, :pixels]
        plan.sink(maps)
        if plan.is_read:
            self.maps = maps
        return out


def attention_without_control(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention of a layer that nobody asks anything of, [B, N, H, D] in and out.

    The decision point: SDPA, called exactly as diffusers calls it, keeps every bit of the stock pipeline. Another
    kernel would go here, and only here.
    """
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=0.0, is_causal=False).transpose(
        1, 2
    )
