"""Joint attention with its probabilities in the open, and an edit of any logit: what weft's is held against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class EagerJointProcessor:
    """``probabilities`` [B, H, N, N] of the last call; ``tables`` alpha, beta, gamma, delta, each [B or 1, N, N]."""

    def __init__(self, tables: tuple[Tensor, Tensor, Tensor, Tensor] | None = None) -> None:
        self.tables = tables
        self.probabilities = torch.empty(0)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Any:
        def heads(x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], attn.heads, -1).transpose(1, 2)

        def normed(x: Tensor, norm: Any) -> Tensor:
            return x if norm is None else norm(x)

        query = normed(heads(attn.to_q(hidden_states)), attn.norm_q)
        key = normed(heads(attn.to_k(hidden_states)), attn.norm_k)
        value = heads(attn.to_v(hidden_states))
        text = encoder_hidden_states
        if text is not None:
            query = torch.cat([query, normed(heads(attn.add_q_proj(text)), attn.norm_added_q)], 2)
            key = torch.cat([key, normed(heads(attn.add_k_proj(text)), attn.norm_added_k)], 2)
            value = torch.cat([value, heads(attn.add_v_proj(text))], 2)
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if self.tables is not None:
            alpha, beta, gamma, delta = (table[:, None] for table in self.tables)
            gone = delta == -torch.inf
            largest = logits.masked_fill(gone, -torch.inf).amax(-1, keepdim=True)
            smallest = logits.masked_fill(gone, torch.inf).amin(-1, keepdim=True)
            logits = alpha * logits + beta * largest + gamma * smallest + delta
        self.probabilities = logits.softmax(-1)
        out = (self.probabilities @ value).transpose(1, 2).flatten(2)
        image = attn.to_out[0](out[:, : hidden_states.shape[1]])
        if text is None:
            return image
        words = out[:, hidden_states.shape[1] :]
        return image, words if attn.context_pre_only else attn.to_add_out(words)


@contextmanager
def eager(model: Any, **tables: Any) -> Iterator[dict[str, EagerJointProcessor]]:
    """Every layer computes in the open, each with its entry of ``tables``, where "attn" is that of all joint ones."""
    before = dict(model.attn_processors)
    processors = {
        name: EagerJointProcessor(tables.get(name.split(".")[2]))
        for name in before  # blocks.<n>.attn.processor
    }
    model.set_attn_processor(dict(processors))
    try:
        yield {name.removesuffix(".processor"): processor for name, processor in processors.items()}
    finally:
        model.set_attn_processor(before)
