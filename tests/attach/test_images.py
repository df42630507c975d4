"""An attachment without controls keeps every bit of the stock images; one that reads maps stays within rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler
from diffusers.models.attention_processor import AttnProcessor

import weft

KINDS = list(tiny.EXTRA)


@pytest.mark.parametrize("kind", KINDS)
def test_without_controls_images_are_bit_identical(kind: str, tmp_path: Path) -> None:
    pipe = tiny.build(kind, tmp_path)
    stock = tiny.generate(pipe, kind)
    with weft.attach(pipe) as attachment:
        attached = tiny.generate(pipe, kind)
        assert attachment.text_cache.misses > 0
        # once per prompt instead of once per step, three steps
        assert attachment.text_cache.hits == 2 * attachment.text_cache.misses
    assert np.array_equal(stock, attached)
    assert np.array_equal(stock, tiny.generate(pipe, kind))


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 1.0},
        {"prompt": ["a red circle", "a blue ball"]},
        {"num_images_per_prompt": 2},
        {"prompt": ["a red circle", "a blue ball"], "num_images_per_prompt": 2, "guidance_scale": 1.0},
        {"negative_prompt": "green", "height": 48, "width": 32},
        {"cross_attention_kwargs": {"ip_adapter_masks": None}},
    ],
    ids=["unguided", "two-prompts", "two-images", "two-by-two-unguided", "negative-portrait", "unused-kwargs"],
)
def test_every_way_of_calling_is_bit_identical(changes: dict[str, Any], tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    stock = tiny.generate(pipe, **changes)
    with weft.attach(pipe):
        assert np.array_equal(stock, tiny.generate(pipe, **changes))


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, HeunDiscreteScheduler, DPMSolverMultistepScheduler])
def test_every_sampler_is_bit_identical(scheduler: Any, tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    pipe.scheduler = scheduler()
    stock = tiny.generate(pipe)
    with weft.attach(pipe):
        assert np.array_equal(stock, tiny.generate(pipe))


def test_fused_projections_are_bit_identical(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    pipe.fuse_qkv_projections(vae=False)
    stock = tiny.generate(pipe)
    with weft.attach(pipe) as attachment:
        assert np.array_equal(stock, tiny.generate(pipe))
        assert attachment.text_cache.hits > 0


def test_eager_processors_are_bit_identical(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    pipe.unet.set_attn_processor(AttnProcessor())
    stock = tiny.generate(pipe)
    with weft.attach(pipe):
        assert np.array_equal(stock, tiny.generate(pipe))


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("kind", KINDS)
def test_reading_maps_changes_fp32_images_by_rounding_only(kind: str, backend: str | None, tmp_path: Path) -> None:
    pipe = tiny.build(kind, tmp_path)
    stock = tiny.generate(pipe, kind)
    with weft.attach(pipe, weft.AttentionMaps(["circle", "square"]), backend=backend):
        attached = tiny.generate(pipe, kind)
    assert np.abs(attached - stock).max() < 1e-4


def test_reading_maps_changes_bf16_images_by_rounding_only(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path).to(torch.bfloat16)
    stock = tiny.generate(pipe)
    with weft.attach(pipe, weft.AttentionMaps(["circle", "square"])):
        attached = tiny.generate(pipe)
    assert np.abs(attached - stock).max() < 0.06


def test_masks_over_the_text_are_bit_identical_and_kept_under_control() -> None:
    torch.manual_seed(0)
    model = tiny.unet()
    sample, text = torch.randn(2, 4, 16, 16), torch.randn(2, 6, 32)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]])
    call = {"encoder_hidden_states": text, "encoder_attention_mask": mask}
    with torch.no_grad():
        stock = model(sample, 500, **call).sample
        with weft.attach(model):
            assert torch.equal(stock, model(sample, 500, **call).sample)
        with weft.attach(model, weft.AttentionMaps([1, 4, 5])) as attachment:
            controlled = model(sample, 500, **call).sample
            maps = attachment.maps
    assert (controlled - stock).abs().max() < 1e-4 * stock.abs().max()
    assert maps[1].amin() > 0
    assert torch.equal(maps[5], torch.zeros_like(maps[5])), "a padded token gets no attention"
    assert torch.equal(maps[4][0], torch.zeros(16, 16)) and maps[4][1].amin() > 0


def test_plain_attention_blocks_are_bit_identical() -> None:
    torch.manual_seed(0)
    kinds = {"down_block_types": ("AttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")}
    model = tiny.unet(**kinds, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "AttnUpBlock2D"))
    sample, text = torch.randn(2, 4, 16, 16), torch.randn(2, 6, 32)
    with torch.no_grad():
        stock = model(sample, 500, text).sample
        with weft.attach(model) as attachment:
            assert torch.equal(stock, model(sample, 500, text).sample)
            assert "down_blocks.0.attentions.0" in attachment.changed
