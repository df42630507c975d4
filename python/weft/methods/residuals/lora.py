"""Residuals as LoRA files: the names that diffusers, peft and kohya-style trainers give to the same tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import FluxPipeline, StableDiffusionPipeline
from torch import Tensor

from weft.attach import ProjectionInfo

METADATA = "lora_adapter_metadata"  # where diffusers >= 0.34 keeps a LoraConfig
_KOHYA_PREFIX = "lora_unet_"  # whatever the denoiser is
# kohya-style trainers name the layers of a transformer as its authors do: (in diffusers, there)
_KOHYA_NAMES = (
    (r"transformer_blocks\.(\d+)\.attn\.to_out\.0", r"double_blocks.\1.img_attn_proj"),
    (r"single_transformer_blocks\.(\d+)\.proj_out", r"single_blocks.\1.linear2"),
)

# part of a pipeline: what it is, and the ends of its layers that a residual changes, for messages
_PARTS = {"unet": ("a UNet", "`proj_out`"), "transformer": ("a transformer", "`attn.to_out.0` and `proj_out`")}

# endings of (down, up): peft's, and those of older diffusers
_ENDINGS = ((".lora_A.weight", ".lora_B.weight"), (".lora.down.weight", ".lora.up.weight"))
_WRAPPINGS = re.compile(r"^(base_model\.model\.|unet\.|transformer\.)+")

Factors = dict[str, Tensor]


def diffusers_layout(down: Mapping[str, Tensor], up: Mapping[str, Tensor], is_convolution: bool, part: str) -> Factors:
    """The tensors of ``pipe.load_lora_weights``; of a convolution [r, m, 1, 1] and [m, r, 1, 1]."""
    tensors = {}
    for name in down:
        tensors[f"{part}.{name}.lora_A.weight"] = _shaped(down[name], is_convolution)
        tensors[f"{part}.{name}.lora_B.weight"] = _shaped(up[name], is_convolution)
    return tensors


def diffusers_metadata(ranks: Mapping[str, int], part: str) -> str:
    """The LoraConfig that goes with it. Without one, diffusers before 0.40 scales layers of uncommon rank wrongly."""
    rank = max(ranks.values())
    patterns = {name: one for name, one in ranks.items() if one != rank}
    config = {
        "r": rank,
        "lora_alpha": rank,  # alpha / rank is the strength, 1
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "target_modules": sorted(ranks),
    }
    return json.dumps({f"{part}.{name}": value for name, value in config.items()}, sort_keys=True)


def kohya_layout(down: Mapping[str, Tensor], up: Mapping[str, Tensor], is_convolution: bool) -> Factors:
    """The tensors of sd-scripts' networks.lora, with alpha = rank."""
    tensors = {}
    for name in down:
        stem = _KOHYA_PREFIX + _kohya_name(name).replace(".", "_")
        tensors[f"{stem}.lora_down.weight"] = _shaped(down[name], is_convolution)
        tensors[f"{stem}.lora_up.weight"] = _shaped(up[name], is_convolution)
        tensors[f"{stem}.alpha"] = torch.tensor(float(len(down[name])))
    return tensors


def _kohya_name(name: str) -> str:
    for pattern, theirs in _KOHYA_NAMES:
        if (found := re.fullmatch(pattern, name)) is not None:
            return found.expand(theirs)
    return name


def from_diffusers_layout(tensors: Mapping[str, Tensor]) -> tuple[Factors, Factors, str]:
    """(down, up) by layer of what ``diffusers_layout`` gave, and the part.

    Raises:
        ValueError: A tensor that is none of these.
    """
    down, up, others = _pairs(tensors)
    if others or down.keys() != up.keys():
        raise ValueError(f"Residual: the file is damaged: unexpected tensors {_listed(others) or 'or missing ones'}")
    part = next(iter(tensors)).partition(".")[0] if tensors else ""
    return down, up, part


def from_any_layout(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], layers: Sequence[ProjectionInfo], path: str, part: str
) -> tuple[Factors, Factors]:
    """(down, up) by layer of an ordinary LoRA file, with alpha / rank in ``up``.

    Raises:
        ValueError: It is no LoRA, or changes other layers than ``layers``.
    """
    scales: dict[str, float] = {}
    alphas: dict[str, float] = {}
    if any(name.startswith("lora_") for name in tensors):
        # diffusers knows every way in which kohya-style files spell the blocks of a model
        if part == "unet":
            blocks = SimpleNamespace(layers_per_block=2)  # of SDXL, the only one that has a second spelling
            tensors, found = StableDiffusionPipeline.lora_state_dict(dict(tensors), unet_config=blocks)
        else:
            tensors, found = FluxPipeline.lora_state_dict(dict(tensors), return_alphas=True)
        alphas = {_WRAPPINGS.sub("", name).removesuffix(".alpha"): value for name, value in (found or {}).items()}
    elif METADATA in metadata:
        scales = _scales(json.loads(metadata[METADATA]))
    down, up, others = _pairs(tensors)
    kind, ends = _PARTS[part]
    known = {layer.name for layer in layers}
    unknown = sorted((down.keys() | up.keys()) - known)
    if not (down or up) and others:
        raise ValueError(f"Residual.from_lora: {path} is no LoRA of {kind}; it holds {_listed(others)}")
    if others or unknown:
        raise ValueError(
            f"Residual.from_lora: a residual changes {ends} of transformer blocks alone; {path} changes also "
            f"{_listed(unknown or others)}; load it with pipe.load_lora_weights"
        )
    if down.keys() != up.keys():
        raise ValueError(f"Residual.from_lora: {path} is damaged: {_listed(sorted(down.keys() ^ up.keys()))} is half")
    for name in up:
        scale = alphas[name] / len(down[name]) if name in alphas else scales.get(name, scales.get("", 1.0))
        up[name] = up[name] * scale
    return down, up


def _scales(config: Mapping[str, Any]) -> dict[str, float]:
    """Strength by layer of a LoraConfig, and under "" that of all others."""
    config = {_WRAPPINGS.sub("", name): value for name, value in config.items()}
    if config.get("use_rslora"):
        raise ValueError("Residual.from_lora: rank-stabilised LoRA (use_rslora) is not read; merge its scale first")
    rank, alpha = config.get("r", 1), config.get("lora_alpha", config.get("r", 1))
    ranks = {name.removeprefix("^"): value for name, value in (config.get("rank_pattern") or {}).items()}
    alphas = {name.removeprefix("^"): value for name, value in (config.get("alpha_pattern") or {}).items()}
    scales = {name: alphas.get(name, alpha) / ranks.get(name, rank) for name in ranks.keys() | alphas.keys()}
    return {**scales, "": alpha / rank}


def _pairs(tensors: Mapping[str, Tensor]) -> tuple[Factors, Factors, list[str]]:
    """Factors as matrices by layer, and the names of tensors that are none."""
    found: tuple[Factors, Factors] = ({}, {})
    others = []
    for key, tensor in tensors.items():
        for endings in _ENDINGS:
            side = next((side for side, ending in enumerate(endings) if key.endswith(ending)), None)
            if side is not None and tensor.ndim in (2, 4):
                name = _WRAPPINGS.sub("", key.removesuffix(endings[side]))
                found[side][name] = tensor.flatten(1)
                break
        else:
            others.append(key)
    return *found, sorted(others)


def _shaped(factor: Tensor, is_convolution: bool) -> Tensor:
    return factor[:, :, None, None] if is_convolution else factor


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
