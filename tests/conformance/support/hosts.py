"""The model families that every control is tried on: one row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_joint
import tiny_models
import tiny_pipelines as tiny
import torch
from torch import Tensor

PROMPT = "a red circle and a blue square"
NEGATIVE = "a green ball"
STEPS = 2

Rows = dict[str, Tensor]  # each [rows, ...]


@dataclass(frozen=True)
class Host:
    """A family, as a tiny pipeline with random weights.

    Attributes:
        build: A stock pipeline of text to image; its files go into the folder.
        part: Name of the denoiser in the pipeline.
        options: Arguments of its call, beside the common ones.
        rows: (pipeline, generator) -> arguments of two rows of the denoiser, of another text than the prompt's, then
            of the prompt's. The pipeline is attached.
        predict: (denoiser, some of these rows, timestep) -> its prediction.
    """

    build: Callable[[Path], Any]
    part: str
    options: dict[str, Any]
    rows: Callable[[Any, torch.Generator], Rows]
    predict: Callable[[Any, Rows, float], Tensor]

    def denoiser(self, pipe: Any) -> Any:
        return getattr(pipe, self.part)

    def draw(self, pipe: Any, **changes: Any) -> Tensor:
        """Latents of a few steps, [images, C, h, w]."""
        call = {
            "prompt": PROMPT,
            "negative_prompt": NEGATIVE,
            "num_inference_steps": STEPS,
            "guidance_scale": 4.0,
            "generator": torch.Generator().manual_seed(0),
            "output_type": "latent",
            **self.options,
            **changes,
        }
        return pipe(**call).images


def _encoded(pipe: Any, **options: Any) -> Rows:
    """The negative prompt, then the prompt."""
    encoded = pipe.encode_prompt(
        PROMPT,
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt=NEGATIVE,
        **options,
    )
    rows = {"text": torch.cat([encoded[1], encoded[0]])}
    if len(encoded) > 2:
        rows["pooled"] = torch.cat([encoded[3], encoded[2]])
    return rows


def _sample(denoiser: Any, generator: torch.Generator) -> Tensor:
    config = denoiser.config
    sample = torch.randn(1, config.in_channels, config.sample_size, config.sample_size, generator=generator)
    return sample.expand(2, -1, -1, -1)


def _unet_rows(pipe: Any, generator: torch.Generator) -> Rows:
    return {"sample": _sample(pipe.unet, generator), **_encoded(pipe)}


def _unet(denoiser: Any, rows: Rows, step: float) -> Tensor:
    added = {}
    if "pooled" in rows:
        ids = torch.tensor([[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]]).expand(len(rows["text"]), -1)
        added["added_cond_kwargs"] = {"text_embeds": rows["pooled"], "time_ids": ids}
    predicted: Tensor = denoiser(rows["sample"], step, rows["text"], **added).sample
    return predicted


def _sd3_rows(pipe: Any, generator: torch.Generator) -> Rows:
    text = _encoded(pipe, prompt_2=None, prompt_3=None, max_sequence_length=12)
    return {"sample": _sample(pipe.transformer, generator), **text}


def _sd3(denoiser: Any, rows: Rows, step: float) -> Tensor:
    predicted: Tensor = denoiser(
        rows["sample"],
        encoder_hidden_states=rows["text"],
        pooled_projections=rows["pooled"],
        timestep=torch.full((len(rows["text"]),), step),
    ).sample
    return predicted


_FLUX = tiny_models.TINY["flux"]
_FLUX_GRID = 8, 12  # of pixels, as the blocks see them


def _flux_rows(pipe: Any, generator: torch.Generator) -> Rows:
    text, pooled, _ = pipe.encode_prompt(PROMPT, None, device="cpu", max_sequence_length=16)
    h, w = _FLUX_GRID
    sample = torch.randn(1, h * w, pipe.transformer.config.in_channels, generator=generator)
    return {
        "sample": sample.expand(2, -1, -1),
        # it knows no negative prompt: the other text is none at all
        "text": torch.cat([torch.zeros_like(text), text]),
        "pooled": torch.cat([torch.zeros_like(pooled), pooled]),
    }


def _flux(denoiser: Any, rows: Rows, step: float) -> Tensor:
    count, length, _ = rows["text"].shape
    ids = torch.cartesian_prod(*(torch.arange(side) for side in _FLUX_GRID))
    predicted: Tensor = denoiser(
        rows["sample"],
        encoder_hidden_states=rows["text"],
        pooled_projections=rows["pooled"],
        timestep=torch.full((count,), step / 1000),
        img_ids=torch.nn.functional.pad(ids, (1, 0)),
        txt_ids=torch.zeros(length, 3),
        guidance=torch.full((count,), 4.0),
    ).sample
    return predicted


_SQUARE = {"height": tiny.SIDE, "width": tiny.SIDE}
HOSTS = {
    "unet": Host(tiny.sd1, "unet", _SQUARE, _unet_rows, _unet),
    "sdxl": Host(tiny.sdxl, "unet", _SQUARE, _unet_rows, _unet),
    "sd3": Host(tiny_joint.pipeline, "transformer", {**_SQUARE, "max_sequence_length": 12}, _sd3_rows, _sd3),
    "flux": Host(lambda folder: _FLUX.build(), _FLUX.part, dict(_FLUX.options), _flux_rows, _flux),
}
