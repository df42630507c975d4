"""Soft tokens of Stable Diffusion 3: against stock blocks given a longer text, and in ``fit_soft_tokens``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_sd3 as tiny
import torch
from accelerate import Accelerator
from diffusers import SD3Transformer2DModel
from PIL import Image
from torch import Tensor

import weft
from weft import shapes
from weft.attach import Host, resolve
from weft.attach.families.sd3 import SD3
from weft.testing import assert_differs
from weft.testing.soft_tokens_eager import contrastive_loss_of
from weft.train.core.config import LoopConfig
from weft.train.diffusion.latents import caption_fits, frozen
from weft.train.diffusion.noising import noising_of
from weft.train.soft_tokens.bank import TrainedTokens
from weft.train.soft_tokens.config import SoftTokensConfig
from weft.train.soft_tokens.fit import fit_soft_tokens
from weft.train.soft_tokens.frozen_denoiser import FrozenDenoiser
from weft.train.soft_tokens.layout import layout_of
from weft.train.soft_tokens.prepared import laid_out, make_objective

CAPTIONS = ("a red circle", "a blue square", "a green ball", "a red square")
BLOCKS = ("transformer_blocks.0", "transformer_blocks.1")
CONFIG = SoftTokensConfig(
    loop=LoopConfig(steps=4, learning_rate=1e-2, batch_size=3, checkpoint_every=2),
    objective="contrast",
    time_buckets=10,
    negatives=2,
    text_length=tiny.TEXT_LENGTH,
    precision="no",
)


def fitted(pipe: Any, changes: Any = None, **run: Any) -> weft.SoftTokens:
    pairs = [(Image.new("RGB", (40, 36), (60 * i, 200, 30)), caption) for i, caption in enumerate(CAPTIONS)]
    return fit_soft_tokens(pipe, pairs, config=replace(CONFIG, **(changes or {})), **run)


def drawn(pipe: Any, **changes: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    call = {"num_inference_steps": 2, "output_type": "np", "max_sequence_length": tiny.TEXT_LENGTH, **changes}
    return pipe("a red circle", generator=generator, **call).images


def batch(pipe: Any) -> dict[str, Tensor]:
    generator, count = torch.Generator().manual_seed(0), len(CAPTIONS)
    text = resolve(pipe).encode_captions(CAPTIONS, tiny.TEXT_LENGTH)
    assert text.pooled is not None
    return {
        "latents": torch.randn(count, 4, 16, 16, generator=generator),
        "noise": torch.randn(count, 4, 16, 16, generator=generator),
        "drawn": torch.tensor([300]),
        "states": text.states,
        "pooled": text.pooled,
        "time_ids": torch.zeros(count, 6),
        "alike": torch.arange(2 * count).view(count, 2),
    }


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("rows_at_once", [None, 3])
def test_the_loss_is_that_of_a_pass_for_every_pair(rows_at_once: int | None, shifted: bool, tmp_path: Path) -> None:
    """Each picture with a noise of its own, on the straight path; tokens and offsets of every block."""
    pipe, generator = tiny.pipeline(tmp_path), torch.Generator().manual_seed(3)
    soft = weft.SoftTokens(
        torch.randn(2, 3, tiny.BLOCK, generator=generator),
        torch.randn(10, 2, tiny.BLOCK, generator=generator),
        BLOCKS,
        space="block",
    )
    assert soft.offsets is not None
    given, s = batch(pipe), 3 * 0.3 / (1 + 2 * 0.3) if shifted else 0.3
    tokens, offsets = soft.tokens.clone().requires_grad_(), soft.offsets.clone().requires_grad_()
    errors = []
    with frozen(pipe.transformer):
        with tiny.longer_stream(pipe.transformer, tokens + offsets[int(10 * s), :, None]):
            for x, noise in zip(given["latents"], given["noise"], strict=True):
                for state, pooled in zip(given["states"], given["pooled"], strict=True):
                    velocity = pipe.transformer(
                        ((1 - s) * x + s * noise)[None],
                        encoder_hidden_states=state[None],
                        pooled_projections=pooled[None],
                        timestep=torch.tensor([1000 * s]),
                    ).sample[0]
                    errors.append((velocity - (noise - x)).square().mean())
        expected = contrastive_loss_of(torch.stack(errors).view(4, 4), weight=0.5, width=2.0)
        gradients = torch.autograd.grad(expected, (tokens, offsets))
        control = TrainedTokens(soft.blocks, soft.space)
        config = replace(CONFIG, rows_at_once=rows_at_once, logit_width=2.0, denoising_weight=0.5)
        denoiser = FrozenDenoiser(resolve(pipe), control, noising_of(resolve(pipe), shifted=shifted))
        layout = laid_out(config, resolve(pipe), who="test")
        objective = make_objective(config, denoiser, soft, Accelerator(cpu=True), layout)
        with weft.attach(pipe, control):
            found = objective(*given.values())
            found["loss"].backward()
    torch.testing.assert_close(found["loss"], expected, atol=1e-5, rtol=1e-5)
    assert isinstance(objective.bank.offsets, Tensor)
    for mine, gradient in zip((objective.bank.tokens.grad, objective.bank.offsets.grad), gradients, strict=True):
        assert gradient.abs().amax((0, 2)).min() > 1e-6
        torch.testing.assert_close(mine, gradient, atol=1e-7, rtol=2e-3)
    assert all(parameter.grad is None for parameter in pipe.transformer.parameters())


@pytest.mark.parametrize("objective", ["contrast", "agsm"])
def test_learns_and_leaves_the_model_as_it_was(objective: str, tmp_path: Path) -> None:
    pipe = tiny.pipeline(tmp_path / "model")
    stock = drawn(pipe)
    changes = {"objective": objective, "validate_every": 4, "validation_steps": 2}
    soft = fitted(pipe, {**changes, "gradient_checkpointing": True}, folder=tmp_path / "run")
    assert (drawn(pipe) == stock).all()
    assert not any(block.norm1_context._forward_hooks for block in pipe.transformer.transformer_blocks)
    assert soft.tokens.shape == (3, 4, tiny.BLOCK) and soft.offsets is not None
    assert soft.offsets.shape == (10, 3, tiny.BLOCK)
    assert (soft.space, soft.text_length) == ("block", tiny.TEXT_LENGTH)
    plain = fitted(pipe, {"objective": objective, "rows_at_once": 1})
    torch.testing.assert_close(plain.tokens, soft.tokens, atol=1e-4, rtol=1e-3)
    row = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert {"loss", "accuracy", "token_norm"} <= row.keys()
    soft.save(tmp_path / "soft.safetensors")
    with weft.attach(pipe, weft.SoftTokens.load(tmp_path / "soft.safetensors")):
        assert_differs(drawn(pipe), stock)


def test_resuming_ends_with_the_same_bits(tmp_path: Path) -> None:
    pipe = tiny.pipeline(tmp_path / "model")
    straight = fitted(pipe)
    fitted(pipe, {"loop": replace(CONFIG.loop, steps=2)}, folder=tmp_path / "run")
    assert torch.equal(fitted(pipe, folder=tmp_path / "run", resume=True).tokens, straight.tokens)
    with pytest.raises(ValueError, match="`text_length` was 2, is 3"):
        fitted(pipe, {"text_length": 3}, folder=tmp_path / "run", resume=True)


def test_the_embedded_model(tmp_path: Path) -> None:
    pipe = shapes.pipeline("sd3")
    stock = drawn(pipe, max_sequence_length=1)
    soft = fitted(pipe, {"text_length": 1, "loop": replace(CONFIG.loop, steps=1)})
    assert soft.blocks == tuple(f"transformer_blocks.{block}" for block in range(4)), "all but the last of five"
    with weft.attach(pipe, soft):
        assert_differs(drawn(pipe, max_sequence_length=1), stock)


def test_layouts(tmp_path: Path) -> None:
    pipe = tiny.pipeline(tmp_path)
    released, ours = layout_of(resolve(pipe), "released"), layout_of(resolve(pipe), "default")
    assert (released.text_length, ours.text_length) == (512, 256)
    assert replace(released, text_length=256) == ours
    assert ours.each_its_own and ours.time_buckets == 100 and ours.init == "normal" and ours.denoising_weight == 0


def test_the_released_layout_of_the_medium_model() -> None:
    with torch.device("meta"):  # as large as it is, and without weights
        sizes = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
        medium = SD3Transformer2DModel(sample_size=128, joint_attention_dim=4096, pooled_projection_dim=2048, **sizes)
    layout = layout_of(resolve(medium), "released")
    assert layout.blocks == tuple(f"transformer_blocks.{block}" for block in range(5))
    soft = layout.start(resolve(medium), 4, seed=0, base_name="medium")
    assert soft.offsets is not None
    assert soft.tokens.shape == (5, 4, 1536)
    assert soft.tokens.numel() + soft.offsets.numel() == 798_720, "as published"


def test_a_caption_must_fit_t5_too() -> None:
    def tokenizer(limit: int) -> Any:
        read = lambda text, **options: SimpleNamespace(input_ids=text.split())  # noqa: E731
        return type("Tokenizer", (), {"model_max_length": limit, "__call__": staticmethod(read)})()

    pipe = SimpleNamespace(tokenizer=tokenizer(9), tokenizer_2=None, tokenizer_3=tokenizer(512))
    host = Host(pipe, None, SD3)
    words = "one two three four five six"
    assert caption_fits(host, words) and caption_fits(host, words, 6) and not caption_fits(host, words, 5)
    assert not caption_fits(host, words + " seven eight nine ten", 100), "CLIP would cut it off"
    pipe.tokenizer_3 = None
    assert caption_fits(host, words, 5), "zeros have no words"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "start"}, "`init` must be 'normal' where the blocks of StableDiffusion3Pipeline see tokens as wide"),
        ({"resolution": 20}, "`resolution` must be a multiple of 8 pixels; got 20"),
        ({"blocks": ("down_blocks",)}, "weft serves no attention to the text in down_blocks of this model"),
        ({"blocks": ("transformer_blocks.9",)}, r"no attention to the text in transformer_blocks\.9"),
        ({"text_length": 0}, "`text_length` must be a whole number, at least 1"),
    ],
)
def test_bad_numbers(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(tiny.pipeline(tmp_path), changes)
