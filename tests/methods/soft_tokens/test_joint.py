"""SoftTokens on Stable Diffusion 3: against the released way, in whole generations."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import text_stream
import tiny_joint as tiny
import torch
from torch import Tensor

import weft
from weft import shapes

PROMPTS = ["a red circle and a blue square", "a green ball"]
BLOCKS = ("transformer_blocks.0", "transformer_blocks.1")


@pytest.fixture
def pipe(tmp_path: Path) -> Any:
    return tiny.pipeline(tmp_path, num_layers=3, dual_attention_layers=(0, 1), qk_norm="rms_norm")


def soft_tokens(width: int = tiny.BLOCK, space: str = "block", buckets: int | None = 100, **changes: Any) -> Any:
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randn(2, 3, width, generator=generator)
    offsets = None if buckets is None else torch.randn(buckets, 2, width, generator=generator)
    return weft.SoftTokens(tokens, offsets, BLOCKS, "some/model", space, **changes)  # type: ignore[arg-type]


@contextmanager
def before_the_text(model: Any, soft: weft.SoftTokens) -> Iterator[None]:
    """The released way: each of the blocks gets [its tokens, text], and passes the text on without them."""
    timestep: list[float] = []

    def remember(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        timestep[:] = [float(kwargs["timestep"][0])]

    def tokens_of(place: int) -> Tensor:
        own = soft.bank()[0 if soft.offsets is None else min(int(timestep[0]), 999) // 10, place]
        return model.context_embedder(own) if soft.space == "conditioning" else own

    handle = model.register_forward_pre_hook(remember, with_kwargs=True)
    shown = [(model.get_submodule(name), partial(tokens_of, place)) for place, name in enumerate(soft.blocks)]
    try:
        with text_stream.before_the_text(shown):
            yield
    finally:
        handle.remove()


@pytest.mark.parametrize("buckets", [100, None])
@pytest.mark.parametrize(("space", "width"), [("block", tiny.BLOCK), ("conditioning", 64)])
@pytest.mark.parametrize("guidance_scale", [4.0, 1.0])
def test_they_are_before_the_text_of_their_blocks(
    pipe: Any, guidance_scale: float, space: str, width: int, buckets: int | None
) -> None:
    """In both rows of guidance, at the offsets of every step; and nothing remains."""
    soft, call = soft_tokens(width, space, buckets), {"guidance_scale": guidance_scale}
    stock = tiny.generate(pipe, PROMPTS, **call)
    with before_the_text(pipe.transformer, soft):
        expected = tiny.generate(pipe, PROMPTS, **call)
    assert np.abs(expected - stock).max() > 1e-3
    with weft.attach(pipe, soft) as attachment:
        assert np.abs(tiny.generate(pipe, PROMPTS, **call) - expected).max() < 1e-4
        attachment.remove(soft)
        assert np.array_equal(tiny.generate(pipe, PROMPTS, **call), stock)
    assert np.array_equal(tiny.generate(pipe, PROMPTS, **call), stock), "the model is given back"


def test_one_set_may_serve_all_blocks(pipe: Any) -> None:
    tokens = torch.randn(3, tiny.BLOCK, generator=torch.Generator().manual_seed(7))
    shared = weft.SoftTokens(tokens, None, ("transformer_blocks",), space="block")
    own = weft.SoftTokens(
        tokens.expand(3, -1, -1), None, tuple(f"transformer_blocks.{block}" for block in range(3)), space="block"
    )
    with weft.attach(pipe, shared):
        drawn = tiny.generate(pipe)
    with weft.attach(pipe, own):
        assert np.array_equal(tiny.generate(pipe), drawn)


def test_they_see_passes_with_layers_left_out(pipe: Any) -> None:
    soft = soft_tokens()
    guided = {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    with before_the_text(pipe.transformer, soft):
        expected = tiny.generate(pipe, **guided)
    with weft.attach(pipe, soft):
        assert np.abs(tiny.generate(pipe, **guided) - expected).max() < 1e-4


def test_beside_maps(pipe: Any) -> None:
    soft, maps = soft_tokens(), weft.AttentionMaps(list(range(28)), size=8)
    with weft.attach(pipe, soft):
        expected = tiny.generate(pipe)
    with weft.attach(pipe, soft, maps):
        assert np.abs(tiny.generate(pipe) - expected).max() < 1e-4
    together = torch.stack(list(maps.maps.values())).sum(0)
    torch.testing.assert_close(together, torch.ones(1, 8, 8), atol=1e-5, rtol=0)  # of the text, added tokens apart


def test_a_t5_text_of_another_length_is_reported_once(pipe: Any) -> None:
    with weft.attach(pipe, soft_tokens(text_length=24)):
        with pytest.warns(
            UserWarning, match=r"T5 text of 24 tokens; .* has one of 12; .*max_sequence_length=24"
        ) as warned:
            tiny.generate(pipe)
            tiny.generate(pipe)
        assert len([one for one in warned if "SoftTokens" in str(one.message)]) == 1
    with weft.attach(pipe, soft_tokens(text_length=12)), warnings.catch_warnings():
        warnings.filterwarnings("error", message="SoftTokens")
        tiny.generate(pipe)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"width": 24}, r"have 24 channels and do not fit .*, whose blocks have a text of 32"),
        ({"width": 32, "space": "conditioning"}, r"have 32 channels and do not fit .*, whose text has 64"),
    ],
)
def test_another_model(pipe: Any, tokens: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weft.attach(pipe, soft_tokens(**tokens))
    wrong = weft.SoftTokens(torch.zeros(2, tiny.BLOCK), None, ("down_blocks",), space="block")
    with pytest.raises(ValueError, match="no attention to the text in down_blocks of this model"):
        weft.attach(pipe, wrong)


def test_files_keep_what_they_are(pipe: Any, tmp_path: Path) -> None:
    soft = soft_tokens(text_length=12)
    with weft.attach(pipe, soft):
        drawn = tiny.generate(pipe)
    soft.save(tmp_path / "soft.safetensors")
    with weft.attach(pipe, weft.SoftTokens.load(tmp_path / "soft.safetensors")):
        assert np.array_equal(tiny.generate(pipe), drawn)


def test_the_shipped_model_takes_them() -> None:
    pipe = shapes.pipeline("sd3")
    width = pipe.transformer.config.caption_projection_dim
    soft = weft.SoftTokens(0.5 * torch.randn(2, 4, width), None, BLOCKS, space="block")
    draw = partial(tiny.generate, pipe, max_sequence_length=1)
    stock = draw()
    with before_the_text(pipe.transformer, soft):
        expected = draw()
    with weft.attach(pipe, soft):
        assert np.abs(draw() - expected).max() < 1e-4
    assert np.array_equal(draw(), stock)
