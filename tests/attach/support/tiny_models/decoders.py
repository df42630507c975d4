"""Language models that encode text, Qwen's and Mistral's, of two or three layers."""

from __future__ import annotations

from typing import Any

from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from .encoders import WIDTH


def _decoder(tokens: Any, layers: int) -> dict[str, Any]:
    """Sizes of a decoder of text with grouped keys."""
    return {
        "vocab_size": len(tokens),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.3,  # so that the states of two tokens differ by more than their rounding
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
    }


def qwen3_encoder(tokens: Any, layers: int = 3, head: bool = True) -> Any:
    """Qwen3, with a head for the next token (Flux.2 Klein) or without (Ovis)."""
    config = Qwen3Config(**_decoder(tokens, layers), head_dim=8, tie_word_embeddings=True)
    return (Qwen3ForCausalLM if head else Qwen3Model)(config).eval()


def qwen2_5_vl_encoder(tokens: Any) -> Any:
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    text = {
        **_decoder(tokens, 2),
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
        "tie_word_embeddings": True,
    }
    ids = {name: tokens.convert_tokens_to_ids(f"<|{token}|>") for name, token in _VISION_TOKENS.items()}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


_VISION_TOKENS = {
    "image_token_id": "image_pad",
    "video_token_id": "video_pad",
    "vision_start_token_id": "vision_start",
    "vision_end_token_id": "vision_end",
}


def mistral3_encoder(tokens: Any, layers: int = 3) -> Any:
    config = Mistral3Config(
        text_config={
            "model_type": "mistral",
            **_decoder(tokens, layers),
            "sliding_window": None,
            "tie_word_embeddings": True,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        image_token_index=tokens.convert_tokens_to_ids("[IMG]"),
        tie_word_embeddings=True,
    )
    return Mistral3ForConditionalGeneration(config).eval()
