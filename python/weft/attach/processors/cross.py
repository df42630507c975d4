"""The stand-in of a separate attention, of pixels alone or of pixels to the text, as in a UNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weft.attach.processors.plan import Plan
from weft.attach.processors.seam import Seam
from weft.attach.processors.text_cache import TextCache
from weft.attach.processors.views import CrossView, projecting
from weft.attach.records import LayerInfo


@dataclass(frozen=True)
class CrossRule:
    """How a processor computes a separate attention.

    Attributes:
        fused: It reads ``to_qkv`` and ``to_kv``. The processor decides this, not ``attn.fused_projections``, which
            stays set after ``unfuse_qkv_projections``.
        uses_layer_scale: Its softmax scale is ``attn.scale``; the others let SDPA take 1 / sqrt(D).
        keeps_text: Its keys and values may come from the text cache, with the attention itself by SDPA.
    """

    fused: bool = False
    uses_layer_scale: bool = False
    keeps_text: bool = True


class CrossSeam(Seam):
    """Keys and values of the text are computed once per conditioning, and further tokens may follow the text."""

    def __init__(
        self, original: Any, layer: LayerInfo, backend: str | None, *, cache: TextCache, rule: CrossRule
    ) -> None:
        super().__init__(original, layer, backend)
        self._cache = cache
        self._rule = rule
        self._scale: float | None = None

    def run(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *rest: Any, **named: Any
    ) -> Any:
        plan, text = self.plan, encoder_hidden_states
        keeps_text = self._rule.keeps_text and text is not None and not torch.compiler.is_compiling()
        # a text for several rows of pixels is known to this processor alone
        is_shared = text is not None and len(text) != len(hidden_states)
        if plan is None and not keeps_text and not is_shared:
            return self.original(attn, hidden_states, text, *rest, **named)
        self._scale = attn.scale if self._rule.uses_layer_scale else None
        extra = None if plan is None else plan.request.extra
        seen = attn
        if keeps_text or extra is not None:
            cache = self._cache if keeps_text else None
            seen = CrossView(attn, projecting(attn, self.layer.name, self._rule.fused, cache, extra))
        out = self._run_rebound(seen, hidden_states, text, *rest, **named)
        # a text for several rows of pixels has served them as one
        return out.reshape(hidden_states.shape) if is_shared else out

    def _planned(self, plan: Plan, *args: Any, **kwargs: Any) -> Any:
        if self._scale is not None:
            kwargs["scale"] = self._scale
        return super()._planned(plan, *args, **kwargs)
