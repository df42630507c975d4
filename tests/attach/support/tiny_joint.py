"""A tiny joint denoiser with random weights: as Stable Diffusion 3, or as 3.5 with its second attention and norms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny_pipelines as tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor
from transformers import T5Config, T5EncoderModel

CONDITIONING, BLOCK, POOLED = 24, 32, 20  # channels of the text, of the blocks, of the pooled text
TEXT = 7  # tokens
SD3 = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": CONDITIONING,
    "caption_projection_dim": BLOCK,
    "pooled_projection_dim": POOLED,
    "out_channels": 4,
    "pos_embed_max_size": 12,
}
SD35 = {**SD3, "dual_attention_layers": (0, 1), "qk_norm": "rms_norm"}


def transformer(**changes: Any) -> Any:
    torch.manual_seed(0)
    model = SD3Transformer2DModel(**{**SD3, **changes}).eval()
    # freshly initialised projections give logits near 0, so that every map would be flat
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(part in name for part in (".to_q.", ".to_k.", ".add_q_proj.", ".add_k_proj.")):
                weight.mul_(4)
    return model


def inputs(rows: int = 2, side: int | tuple[int, int] = 8, timestep: Any = 500.0) -> dict[str, Any]:
    """Arguments of a call; each row has a timestep of its own where ``timestep`` is a sequence."""
    generator = torch.Generator().manual_seed(1)
    sides = (side, side) if isinstance(side, int) else side
    return {
        "hidden_states": torch.randn(rows, 4, *sides, generator=generator),
        "encoder_hidden_states": torch.randn(rows, TEXT, CONDITIONING, generator=generator),
        "pooled_projections": torch.randn(rows, POOLED, generator=generator),
        "timestep": torch.tensor(timestep).expand(rows),
    }


def call(model: Any, **changes: Any) -> Tensor:
    with torch.no_grad():
        return model(**{**inputs(), **changes}).sample


# --- a pipeline around it -------------------------------------------------------------------------------------------

T5_PIECES = ("red", "blue", "green", "circle", "square", "and", "ball", "a", "foot", "app")


def t5_tokenizer() -> Any:
    """A sentencepiece-like tokenizer: words of one piece, other words in letters; it ends a text and begins none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [
        *(("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)),
        *((f"\u2581{word}", -1.0) for word in T5_PIECES),
        *((letter, -5.0) for letter in ("\u2581", *letters)),
        ("ball", -1.0),
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def pipeline(folder: Path, t5: bool = True, **changes: Any) -> Any:
    """A Stable Diffusion 3 pipeline; its CLIP texts have 16 tokens, and T5's begin at position 16."""
    torch.manual_seed(0)
    tokens = tiny.tokenizer(folder / "1"), tiny.tokenizer(folder / "2")
    third = t5_tokenizer() if t5 else None
    width = 64  # the two CLIP encoders side by side
    encoder = None
    if third is not None:
        encoder = T5EncoderModel(
            T5Config(vocab_size=len(third), d_model=width, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
        ).eval()
    made = StableDiffusion3Pipeline(
        transformer=transformer(
            **{"joint_attention_dim": width, "pooled_projection_dim": width, "sample_size": 16, **changes}
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny.vae(),
        text_encoder=tiny.text_encoder(tokens[0], 32, projected=True),
        tokenizer=tokens[0],
        text_encoder_2=tiny.text_encoder(tokens[1], 32, projected=True),
        tokenizer_2=tokens[1],
        text_encoder_3=encoder,
        tokenizer_3=third,
    )
    made.vae.register_to_config(shift_factor=0.0)
    made.set_progress_bar_config(disable=True)
    return made


def generate(pipe: Any, prompt: Any = "a red circle and a blue square", **changes: Any) -> Any:
    """Images as an array, fp32 in [0, 1]."""
    call = {"num_inference_steps": 3, "max_sequence_length": 12, "guidance_scale": 4.0, "output_type": "np", **changes}
    return pipe(prompt, generator=torch.Generator().manual_seed(0), **call).images
