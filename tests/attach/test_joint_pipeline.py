"""Pipelines of Stable Diffusion 3: stock images bit for bit, which rows carry the prompt, and what refuses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_joint as tiny
import torch
from diffusers import StableDiffusion3Img2ImgPipeline
from diffusers.models.attention_processor import JointAttnProcessor2_0

import weft
from weft import shapes
from weft.attach import Control, Step, base_model
from weft.attach.projections import GatedProjections
from weft.testing import assert_differs


class Watching(Control):
    def __init__(self) -> None:
        self.seen: list[tuple[int, slice, bool]] = []
        self.timesteps: list[float] = []

    def end_pass(self, step: Step) -> None:
        self.seen.append((step.index, step.conditional, step.is_perturbed))
        self.timesteps.append(step.timestep)


@pytest.fixture
def pipe(tmp_path: Path) -> Any:
    return tiny.pipeline(tmp_path)


CALLS: dict[str, dict[str, Any]] = {
    "guided": {},
    "unguided": {"guidance_scale": 1.0},
    "several": {"prompt": ["a red circle", "a ball"], "num_images_per_prompt": 2},
    "negative": {"negative_prompt": "green"},
    "skipping": {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0},
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_images_are_stock_bit_for_bit(pipe: Any, call: dict[str, Any]) -> None:
    stock = tiny.generate(pipe, **call)
    with weft.attach(pipe):
        assert np.array_equal(tiny.generate(pipe, **call), stock)
    assert {type(processor) for processor in pipe.transformer.attn_processors.values()} == {JointAttnProcessor2_0}
    assert "encode_prompt" not in pipe.__dict__


def test_the_shipped_model_too() -> None:
    pipe = shapes.pipeline("sd3")
    stock = tiny.generate(pipe, max_sequence_length=1)
    with weft.attach(pipe) as attachment:
        assert np.array_equal(tiny.generate(pipe, max_sequence_length=1), stock)
        assert "5 joint-attention layers" in attachment.describe()


def test_reading_maps_changes_bf16_images_by_rounding_only() -> None:
    """They lie as far from fp32 as stock ones, on average over pixels of three pictures."""

    def pictures(dtype: torch.dtype, *controls: Control) -> Any:
        pipe = shapes.pipeline("sd3", dtype=dtype)
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(3, 4, 16, 16, generator=generator).to(dtype)
        with weft.attach(pipe, *controls):
            return tiny.generate(pipe, num_images_per_prompt=3, max_sequence_length=1, latents=latents)

    gold, stock = pictures(torch.float32), pictures(torch.bfloat16)
    read = pictures(torch.bfloat16, weft.AttentionMaps(["circle", "square"]))
    assert_differs(read, stock)
    assert np.abs(read - gold).mean() < 1.5 * np.abs(stock - gold).mean()


def test_image_to_image(pipe: Any) -> None:
    other = StableDiffusion3Img2ImgPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)
    call = {"image": torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2)), "strength": 0.7}
    stock = tiny.generate(other, **call)
    with weft.attach(other, weft.AttentionMaps("circle")):
        assert np.abs(tiny.generate(other, **call) - stock).max() < 1e-4


def test_rows_and_steps(pipe: Any) -> None:
    with weft.attach(pipe, watching := Watching()):
        tiny.generate(pipe, ["a red circle", "a ball"], **CALLS["skipping"])
    guided, alone = slice(2, 4), slice(0, 2)
    assert watching.seen == [
        (0, guided, False),
        (1, guided, False),
        (1, alone, True),
        (2, guided, False),
        (2, alone, True),
    ]
    expected = pipe.scheduler.timesteps.tolist()
    assert watching.timesteps == pytest.approx([expected[index] for index, _, _ in watching.seen])


def test_what_is_made_for_unets_says_so(pipe: Any) -> None:
    base = base_model(pipe)
    assert (base.text_width, base.block_width, base.projections) == (64, tiny.BLOCK, ())
    with pytest.raises(ValueError, match="SD3Transformer2DModel has none"):
        GatedProjections(pipe.transformer)
    down, up = {"a.proj_out": torch.zeros(2, 8)}, {"a.proj_out": torch.zeros(8, 2)}
    residual = weft.Residual(down, up, "V*", "ball", "a unet", 64, False)
    with pytest.raises(ValueError, match=r"does not fit .*: its blocks do not end in a projection, as"):
        weft.attach(pipe, weft.LocalizedResiduals(residual))
    with pytest.raises(ValueError, match="finds regions in the attention of UNets; this model has a joint"):
        weft.attach(pipe, weft.MaskDiffusion())
    weft.attach(pipe).detach()
