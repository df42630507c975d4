"""A tiny text-to-image model as a stock inpainting pipeline, a branch beside it, and published folders of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import branches
import inpainting
import tiny_pipelines as tiny
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

import weft
from weft.methods.powerpaint.network import Branch

PUBLISHED = {"context": "P_ctxt", "shape": "P_shape", "object": "P_obj"}
LONG = 77  # tokens, where a text must fit for letters
SIZE = (tiny.SIDE, tiny.SIDE)
BOX = (8, 10, 20, 24)


def states(tokens: int = 7) -> dict[Any, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {name: torch.randn(tokens, 32, generator=generator) for name in ("context", "shape", "object", "empty")}


def task_branch(pipe: Any, strength: float = 0.05, **changes: Any) -> weft.TaskBranch:
    return weft.TaskBranch(branches.branch(pipe.unet, strength), states(), **changes)


def call(**changes: Any) -> dict[str, Any]:
    """A picture, its hole and few steps, with the same noise in every call."""
    return {
        "image": inpainting.picture(size=SIZE),
        "mask_image": inpainting.box_mask(BOX, SIZE),
        "num_inference_steps": 3,
        "output_type": "np",
        "height": tiny.SIDE,
        "width": tiny.SIDE,
        "generator": inpainting.generator(),
        **changes,
    }


def masks(*boxes: tuple[int, int, int, int]) -> list[Image.Image]:
    return [inpainting.box_mask(box, SIZE) for box in boxes]


# --- published files ---------------------------------------------------------------------------------------------


def prompts() -> dict[str, Tensor]:
    return {name: mine[0] for name, mine in inpainting.vectors(32).items()}


def long_text_encoder(words: int) -> Any:
    return text_encoder(words, length=LONG)


def text_encoder(words: int, heads: int = 1, activation: str = "gelu", length: int = tiny.MAX_LENGTH) -> Any:
    """CLIP's, as small; its vocabulary ends in its start and end token."""
    torch.manual_seed(7)
    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=heads,
        hidden_act=activation,
        max_position_embeddings=length,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )
    return CLIPTextModel(config).eval()


def released_tensors(network: Branch) -> dict[str, Tensor]:
    state = network.state_dict()
    return {name: state[ours].clone() for name, ours in network.released_names().items()}


def wrapped(state: dict[str, Tensor], prefix: str = "text_model.") -> dict[str, Tensor]:
    """A text encoder's tensors as the released code keeps them: the table wrapped, the prompts beside it."""
    found = {}
    for name, value in state.items():
        bare = name.removeprefix("text_model.")
        if bare.endswith("token_embedding.weight"):
            stem = f"{prefix}{bare.removesuffix('weight')}"
            found[f"{stem}wrapped.weight"] = value
            found |= {f"{stem}trainable_embeddings.{PUBLISHED[key]}": mine for key, mine in prompts().items()}
        else:
            found[prefix + bare] = value
    found[f"{prefix}embeddings.position_ids"] = torch.arange(tiny.MAX_LENGTH)[None]
    return found


def released(network: Branch, folder: Path, words: int = 50, prefix: str = "text_model.") -> Path:
    """A folder as PowerPaint v2 was released: a branch without configuration, a pickled text encoder beside it."""
    inside = folder / "PowerPaint_Brushnet"
    inside.mkdir(parents=True)
    save_file(released_tensors(network), inside / "diffusion_pytorch_model.safetensors")
    torch.save(wrapped(text_encoder(words).state_dict(), prefix), inside / "pytorch_model.bin")
    return folder


def mirrored(network: Branch, folder: Path, dialect: str = "main-v2") -> Path:
    """The same in diffusers' layout: configurations, a tokenizer with 30 more tokens, a table with rows for them."""
    order = {"main-v2": ("context", "shape", "object"), "dev": ("object", "context", "shape")}[dialect]
    tokenizer = tiny.tokenizer(folder / "tokenizer")
    encoder = text_encoder(len(tokenizer), heads=2, activation="quick_gelu")
    for name in order:
        first = f"{PUBLISHED[name]}_0" if dialect == "main-v2" else PUBLISHED[name]
        tokenizer.add_tokens([first, *(f"{PUBLISHED[name]}_{number}" for number in range(1, 10))])
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    encoder.get_input_embeddings().weight.data[-30:] = torch.cat([prompts()[name] for name in order])
    tokenizer.save_pretrained(folder / "tokenizer")
    encoder.save_pretrained(folder / "text_encoder_brushnet")
    inside = folder / "PowerPaint_Brushnet"
    inside.mkdir()
    save_file(released_tensors(network), inside / "diffusion_pytorch_model.safetensors")
    (inside / "config.json").write_text('{"attention_head_dim": 8, "norm_num_groups": 32, "conditioning_channels": 5}')
    return folder
