"""The attention processor that stands in for one of diffusers' own in a UNet.

It answers to three needs, cheapest first: the model's own processor, untouched; the same attention with text keys
and values from the cache; weft's attention, with an edit or a read-out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.attach.processors.plan import Plan
from weft.attach.processors.stand_in import StandIn, attention_without_control
from weft.attach.processors.text_cache import TextCache, project
from weft.attach.records import ExtraText, LayerInfo

# diffusers turns a mask of ones and zeros into 0 and -10000; anything below this bias is a masked key
_PADDING_BIAS = -5000.0


@dataclass(frozen=True)
class ProcessorRule:
    """How a processor of diffusers computes attention, for the arithmetic that stands in for it.

    Attributes:
        fused: It reads ``to_qkv`` and ``to_kv``. The processor decides this, not ``attn.fused_projections``, which
            stays set after ``unfuse_qkv_projections``.
        uses_layer_scale: Its softmax scale is ``attn.scale``; the others let SDPA take 1 / sqrt(D).
        keeps_text: Its keys and values may come from the text cache, with the attention itself by SDPA.
    """

    fused: bool = False
    uses_layer_scale: bool = False
    keeps_text: bool = True


class WeftAttnProcessor(StandIn):
    """Processor of one self- or cross-attention layer of a UNet."""

    def __init__(
        self, rule: ProcessorRule, original: Any, layer: LayerInfo, cache: TextCache, backend: str | None
    ) -> None:
        super().__init__(original, layer, backend)
        self._rule = rule
        self._cache = cache

    # every argument by name: Attention.forward drops what it does not find in this signature
    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        plan = self.plan
        keeps_text = self._rule.keeps_text and encoder_hidden_states is not None and not torch.compiler.is_compiling()
        # a text for several rows of pixels is known to this processor alone
        is_shared = encoder_hidden_states is not None and len(encoder_hidden_states) != len(hidden_states)
        if plan is None and not keeps_text and not is_shared:
            return self.original(
                attn,
                hidden_states,
                encoder_hidden_states=encoder_hidden_states,
                attention_mask=attention_mask,
                temb=temb,
            )

        # from here on the steps of diffusers' AttnProcessor2_0, in its order
        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        image_shape = hidden_states.shape if hidden_states.ndim == 4 else None
        if image_shape is not None:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)  # [B, h * w, C]
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)

        query, key, value = self._project(attn, hidden_states, encoder_hidden_states)
        extra = 0 if plan is None else plan.tokens
        if plan is not None and plan.request.extra is not None:
            cache = self._cache if keeps_text else None
            more = _project_extra(plan.request.extra, self.layer.name, attn, self._rule.fused, cache)
            key, value = _append(key, more[0]), _append(value, more[1])
        samples = key.shape[0]
        query, key, value = (x.view(samples, -1, attn.heads, self.layer.head_dim) for x in (query, key, value))
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)

        if attention_mask is not None and extra:
            attention_mask = F.pad(attention_mask, (0, extra))  # extra tokens are always seen
        if plan is None or not (plan.needs_attention or self._rule.uses_layer_scale):
            out = attention_without_control(query, key, value, self._bias(attn, attention_mask, key))
        else:
            out = self._controlled(plan, attn, query, key, value, attention_mask)
        # a text for several rows of pixels in a row has served them as one
        hidden_states = out.reshape(*hidden_states.shape[:2], attn.heads * self.layer.head_dim).to(query.dtype)

        hidden_states = attn.to_out[0](hidden_states)
        hidden_states = attn.to_out[1](hidden_states)
        if image_shape is not None:
            hidden_states = hidden_states.transpose(-1, -2).reshape(image_shape)
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        return hidden_states / attn.rescale_output_factor

    def _project(self, attn: Any, pixels: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, N, H * D]."""
        if text is not None:
            query = attn.to_q(pixels)
            # a bound cache would be guarded by a compiler, which has no use for it
            if self._rule.keeps_text and not torch.compiler.is_compiling():
                return query, *self._cache.project(self.layer.name, attn, text, self._rule.fused)
            return query, *project(attn, text, self._rule.fused)
        if self._rule.fused:
            query, key, value = attn.to_qkv(pixels).chunk(3, dim=-1)
            return query, key, value
        return attn.to_q(pixels), attn.to_k(pixels), attn.to_v(pixels)

    def _controlled(
        self, plan: Plan, attn: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        request = plan.request
        edit, key_labels = request.edit, request.key_labels
        if plan.wider_edit is not None:
            edit = plan.wider_edit.edit()
            key_labels = plan.wider_edit.key_labels(0, key.shape[1] - plan.tokens, plan.tokens)
        return self._attend(
            plan,
            query,
            key,
            value,
            scale=attn.scale if self._rule.uses_layer_scale else None,
            edit=edit,
            readout=request.readout,
            query_labels=request.query_labels,
            key_labels=key_labels,
            key_padding=self._padding(mask),
        )

    def _bias(self, attn: Any, mask: Tensor | None, key: Tensor) -> Tensor | None:
        """The mask as SDPA wants it, [B, H, 1, Nk]."""
        if mask is None:
            return None
        samples, seqlen_k = key.shape[:2]
        mask = attn.prepare_attention_mask(mask, seqlen_k, samples)
        return mask.view(samples, attn.heads, -1, mask.shape[-1])

    def _padding(self, mask: Tensor | None) -> Tensor | None:
        """The mask as weft's attention wants it, bool [B, Nk], True for padding."""
        if mask is None:
            return None
        if mask.ndim != 3 or mask.shape[1] != 1:
            raise ValueError(
                f"attach: a controlled layer takes a mask over keys, [B, 1, Nk]; got {list(mask.shape)} in "
                f"{self.layer.name}; detach, or leave the mask out"
            )
        return mask[:, 0] < _PADDING_BIAS


def _project_extra(
    extra: ExtraText, layer: str, attn: Any, fused: bool, cache: TextCache | None
) -> tuple[Tensor, Tensor]:
    """Keys and values of the set in use, each [1, m, H * D]; computed every time without a cache."""
    if cache is None:
        return project(attn, extra.bank.index_select(0, extra.row), fused)
    key, value = cache.project(f"{layer} extra", attn, extra.bank, fused)
    return key.index_select(0, extra.row), value.index_select(0, extra.row)


def _append(states: Tensor, extra: Tensor) -> Tensor:
    """Keys or values [B, Nk, H * D] with those of ``extra`` [1, m, H * D] behind them."""
    # keys carry no position, so that the end is as good a place as any
    return torch.cat([states, extra.expand(len(states), -1, -1)], 1)
