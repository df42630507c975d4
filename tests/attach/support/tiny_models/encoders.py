"""Encoders of text, CLIP's and T5's, of one or two layers."""

from __future__ import annotations

from typing import Any

from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

WIDTH = 32  # channels of every text


def clip_encoder(tokens: Any, projected: bool = False) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokens.model_max_length,
        projection_dim=WIDTH,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5_encoder(tokens: Any) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokens),
        d_model=WIDTH,
        d_kv=16,
        d_ff=2 * WIDTH,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokens.pad_token_id,
        eos_token_id=tokens.eos_token_id,
    )
    return T5EncoderModel(config).eval()
