"""Joint attention in which one key stands for several equal ones, so that training need not repeat them."""

from __future__ import annotations

from diffusers.models.attention_processor import Attention
from torch import Tensor, cat, nn


class CountedKeys:
    """Processor of a joint attention whose ``attention_mask`` holds the logarithms of how often each key counts.

    n equal keys with equal values act as one whose logit is larger by log n. The zeros that the stock pipeline feeds
    in place of T5 have no positions: they are equal, and stay equal through all blocks.
    """

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attend over image and text together.

        Args:
            attn: The layer; without dropout, as all of them are.
            hidden_states: [B, Ni, C], of the image.
            encoder_hidden_states: [B, Nt, C], of the text.
            attention_mask: [B, 1, 1, Ni + Nt], added to the logits.

        Returns:
            What the stock processor gives for the repeated keys, in the same shapes.
        """
        image, text = hidden_states, encoder_hidden_states
        heads = (len(image), -1, attn.heads, attn.inner_dim // attn.heads)

        def split(x: Tensor, norm: nn.Module | None = None) -> Tensor:
            x = x.view(heads).transpose(1, 2)  # [B, H, N, D]
            return x if norm is None else norm(x)

        query = cat([split(attn.to_q(image), attn.norm_q), split(attn.add_q_proj(text), attn.norm_added_q)], 2)
        key = cat([split(attn.to_k(image), attn.norm_k), split(attn.add_k_proj(text), attn.norm_added_k)], 2)
        value = cat([split(attn.to_v(image)), split(attn.add_v_proj(text))], 2)
        # written out: at a hundred tokens the backward of the fused attention makes a step half as long again on a CPU
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + attention_mask
        out = (logits.softmax(dim=-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)  # [B, N, C]
        image_out, text_out = out.split([image.shape[1], text.shape[1]], dim=1)
        return attn.to_out[0](image_out), text_out if attn.context_pre_only else attn.to_add_out(text_out)
