"""The attention processor that stands in for a joint one of diffusers, whose image and text attend to each other.

Controls speak of it as of a cross-attention: queries are the image's, keys the text's. What else a joint attention
has, the queries of the text and the keys of the image, keeps its logits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.attach.processors.plan import Plan
from weft.attach.processors.stand_in import StandIn, attention_without_control
from weft.attach.processors.text_cache import TextCache
from weft.attach.records import LayerInfo


class WeftJointAttnProcessor(StandIn):
    """Processor of one attention layer of a joint block; without a text, of the image alone.

    Order of the sequence: image, text, and among the keys what is added to the text. The text changes in every block,
    so that nothing of it is kept.

    Attributes:
        tokens: What is added to the text in the coming call, [B, m, C], modulated as the text itself.
    """

    def __init__(self, fused: bool, original: Any, layer: LayerInfo, cache: TextCache, backend: str | None) -> None:
        """``fused``: it reads ``to_qkv`` and ``to_added_qkv``, and leaves the norms of both out, as in diffusers."""
        super().__init__(original, layer, backend)
        self.tokens: Tensor | None = None
        self._fused = fused

    # every argument by name: Attention.forward drops what it does not find in this signature
    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        plan, text = self.plan, encoder_hidden_states
        tokens, self.tokens = self.tokens, None
        if plan is None:
            return self.original(attn, hidden_states, encoder_hidden_states=text, attention_mask=attention_mask)

        # from here on the steps of diffusers' JointAttnProcessor2_0, which passes masks over
        pixels = hidden_states.shape[1]
        query, key, value = self._image(attn, hidden_states)
        if text is not None:
            streams = [(query, key, value), self._text(attn, text)]
            if tokens is not None:
                # added tokens ask nothing: they are keys and values alone
                streams.append((query[:, :0], *self._text_keys(attn, tokens)))
            query, key, value = (torch.cat(parts, 1) for parts in zip(*streams, strict=True))
        if plan.needs_attention:
            out = self._controlled(plan, query, key, value, pixels)
        else:
            out = attention_without_control(query, key, value)
        joined = out.reshape(*out.shape[:2], -1).to(query.dtype)

        image = attn.to_out[1](attn.to_out[0](joined[:, :pixels]))
        if text is None:
            return image
        words = joined[:, pixels:]
        return image, words if attn.context_pre_only else attn.to_add_out(words)

    def _image(self, attn: Any, states: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of the image, each [B, N, H, D]."""
        if self._fused:
            return tuple(self._by_heads(x) for x in attn.to_qkv(states).chunk(3, dim=-1))
        query = self._by_heads(attn.to_q(states), attn.norm_q)
        key = self._by_heads(attn.to_k(states), attn.norm_k)
        return query, key, self._by_heads(attn.to_v(states))

    def _text(self, attn: Any, states: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of the text, each [B, N, H, D]."""
        if self._fused:
            return tuple(self._by_heads(x) for x in attn.to_added_qkv(states).chunk(3, dim=-1))
        return self._by_heads(attn.add_q_proj(states), attn.norm_added_q), *self._text_keys(attn, states)

    def _text_keys(self, attn: Any, states: Tensor) -> tuple[Tensor, ...]:
        """Keys and values alone; fused projections give queries in the same product."""
        if self._fused:
            return self._text(attn, states)[1:]
        key = self._by_heads(attn.add_k_proj(states), attn.norm_added_k)
        return key, self._by_heads(attn.add_v_proj(states))

    def _by_heads(self, projected: Tensor, norm: Any = None) -> Tensor:
        states = projected.view(*projected.shape[:2], self.layer.heads, self.layer.head_dim)
        return states if norm is None else norm(states)

    def _controlled(self, plan: Plan, query: Tensor, key: Tensor, value: Tensor, pixels: int) -> Tensor:
        request = plan.request
        arguments: dict[str, Any] = {
            "edit": request.edit,
            "query_labels": request.query_labels,
            "key_labels": request.key_labels,
            "readout": request.readout,
        }
        if self.layer.is_joint:
            words = query.shape[1] - pixels
            if request.readout is not None:
                arguments["readout"] = F.pad(request.readout, (0, 0, pixels, 0))
            if plan.wider_edit is not None:
                arguments["edit"] = plan.wider_edit.edit()
                arguments["query_labels"] = plan.wider_edit.query_labels(pixels, words)
                arguments["key_labels"] = plan.wider_edit.key_labels(pixels, words, plan.tokens)
        return self._attend(plan, query, key, value, pixels=pixels, **arguments)
