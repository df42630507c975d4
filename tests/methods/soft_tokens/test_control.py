"""SoftTokens: against a longer text in stock layers, and what must stay as it is."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from compiled_graphs import CompiledGraphs
from torch import Tensor

import weft
from weft.attach import LayerInfo
from weft.attach.processors.plan import WiderEdit
from weft.methods.sampling import Sampling
from weft.methods.soft_tokens.blocks import block_of
from weft.ops import Edit
from weft.testing import assert_differs

WIDTH = {"sd1": 32, "sd2": 32, "sdxl": 64}
PROMPTS = ["a red circle and a blue square", "a green ball"]


@pytest.fixture(params=list(WIDTH))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def soft_tokens(kind: str = "sd1", buckets: int | None = 100, **changes: Any) -> weft.SoftTokens:
    """Tokens as large as the text of the tiny models, the offsets likewise."""
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randn(4, WIDTH[kind], generator=generator)
    offsets = None if buckets is None else torch.randn(buckets, WIDTH[kind], generator=generator)
    return weft.SoftTokens(tokens, offsets, **changes)


def layer(name: str) -> LayerInfo:
    return LayerInfo(name, True, 1, 8, 0)


@contextmanager
def after_the_start_token(unet: Any, soft: weft.SoftTokens) -> Iterator[None]:
    """The released way: layers of the chosen blocks get [start, soft tokens, rest] for a text."""
    timestep: list[float] = []

    def remember(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        timestep[:] = [float(args[1])]

    def insert(place: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        text: Tensor = kwargs["encoder_hidden_states"]
        mine = soft.bank()[0 if soft.offsets is None else min(int(timestep[0]), 999) // 10]
        mine = mine if soft.is_shared else mine[place]
        longer = torch.cat([text[:, :1], mine.to(text).expand(len(text), -1, -1), text[:, 1:]], 1)
        return args, {**kwargs, "encoder_hidden_states": longer}

    hooks = [unet.register_forward_pre_hook(remember, with_kwargs=True)]
    for name, module in unet.named_modules():
        place = block_of(name, soft.blocks)
        if name.endswith(".attn2") and place is not None:
            run = functools.partial(insert, place)
            hooks.append(module.register_forward_pre_hook(run, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("buckets", [100, None])
@pytest.mark.parametrize("blocks", [("down_blocks",), ("down_blocks", "mid_block"), ("up_blocks",)])
def test_they_are_after_the_start_token(
    kind: str, blocks: tuple[str, ...], buckets: int | None, tmp_path: Path
) -> None:
    pipe, soft = tiny.build(kind, tmp_path), soft_tokens(kind, buckets, blocks=blocks)
    with after_the_start_token(pipe.unet, soft):
        expected = tiny.generate(pipe, kind, PROMPTS)
    stock = tiny.generate(pipe, kind, PROMPTS)
    assert np.abs(expected - stock).max() > 1e-3
    with weft.attach(pipe, soft):
        assert np.abs(tiny.generate(pipe, kind, PROMPTS) - expected).max() < 1e-4
    assert np.array_equal(tiny.generate(pipe, kind, PROMPTS), stock), "the model is given back"


def test_every_block_may_have_its_own(tmp_path: Path) -> None:
    """Blocks within a stage too; "down_blocks.1" is not "down_blocks.10"."""
    blocks = ("up_blocks.2", "down_blocks.1")
    pipe, generator = tiny.sd1(tmp_path), torch.Generator().manual_seed(7)
    tokens, offsets = torch.randn(2, 3, 32, generator=generator), torch.randn(100, 2, 32, generator=generator)
    soft = weft.SoftTokens(tokens, offsets, blocks)
    with after_the_start_token(pipe.unet, soft):
        expected = tiny.generate(pipe)
    with weft.attach(pipe, soft):
        assert np.abs(tiny.generate(pipe) - expected).max() < 1e-4
        assert soft.request_layer(layer("down_blocks.10.attn2"), None) is None  # type: ignore[arg-type]
        own = [soft.request_layer(layer(f"{block}.attn2"), None) for block in blocks]  # type: ignore[arg-type]
        assert [one.extra.bank.shape for one in own] == [(100, 3, 32)] * 2  # type: ignore[union-attr]
    swapped = weft.SoftTokens(tokens, offsets, blocks[::-1])
    with weft.attach(pipe, swapped):
        assert np.abs(tiny.generate(pipe) - expected).max() > 1e-4


def test_what_is_recorded_counts_the_tokens_of_a_block() -> None:
    blocks = ("down_blocks", "mid_block")
    for tokens in (torch.zeros(3, 32), torch.zeros(2, 3, 32)):
        assert weft.SoftTokens(tokens, blocks=blocks).settings() == {"tokens": 3, "blocks": blocks}


def test_what_is_recommended_leaves_out_what_is_open() -> None:
    assert soft_tokens().recommended() == {}
    one = soft_tokens(text_length=77, sampling=Sampling(guidance_scale=3.0))
    assert one.recommended() == {"guidance_scale": 3.0, "max_sequence_length": 77}


def test_a_block_that_the_model_has_not(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with pytest.raises(ValueError, match=r"weft serves no attention to the text in down_blocks\.2 of this model"):
        weft.attach(pipe, soft_tokens(blocks=("up_blocks", "down_blocks.2")))
    with pytest.raises(ValueError, match=r"whose blocks see nothing but its conditioning"):
        weft.attach(pipe, soft_tokens(space="block"))


@pytest.mark.parametrize(("timestep", "bucket"), [(0, 0), (9.9, 0), (10, 1), (999, 99), (1000, 99), (2000, 99)])
def test_buckets(timestep: float, bucket: int) -> None:
    assert soft_tokens().bucket(timestep) == bucket
    assert soft_tokens(buckets=None).bucket(timestep) == 0


def test_masked_out_they_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their keys taken away, and everybody else's left alone, images are those without them."""
    pipe = tiny.sd1(tmp_path)

    class Nothing(weft.attach.Control):
        """An edit that leaves logits as they are."""

        def request_layer(self, layer: Any, step: Any) -> Any:
            edit = Edit(alpha=torch.ones(1, 1, 1), delta=torch.zeros(1, 1, 1))
            return weft.attach.LayerRequest(edit) if layer.is_cross else None

    class Masking(WiderEdit):
        def edit(self) -> Edit:
            wider = super().edit()
            assert wider.delta is not None
            wider.delta[..., -1] = -torch.inf
            return wider

    with weft.attach(pipe, Nothing()):
        expected = tiny.generate(pipe)
    monkeypatch.setattr("weft.attach.processors.plan.WiderEdit", Masking)
    with weft.attach(pipe, Nothing(), soft_tokens()):
        assert np.abs(tiny.generate(pipe) - expected).max() < 1e-5


def test_zeros_are_not_nothing(tmp_path: Path) -> None:
    """They are keys with logit 0 and value 0."""
    pipe = tiny.sd1(tmp_path)
    stock = tiny.generate(pipe)
    with weft.attach(pipe, weft.SoftTokens(torch.zeros(4, 32))):
        assert np.abs(tiny.generate(pipe) - stock).max() > 1e-4


def test_beside_maps_and_regions(tmp_path: Path) -> None:
    pipe, soft, maps = tiny.sd1(tmp_path), soft_tokens(), weft.AttentionMaps(["circle", "square"])
    with weft.attach(pipe, soft):
        expected = tiny.generate(pipe)
    with weft.attach(pipe, soft, maps):
        assert np.abs(tiny.generate(pipe) - expected).max() < 1e-4
    assert maps.maps["circle"].shape == (1, 16, 16)
    with weft.attach(pipe, soft, regions := weft.MaskDiffusion(steps=1.0)):
        assert np.abs(tiny.generate(pipe) - expected).max() > 1e-3
    assert regions.regions is not None


def test_they_can_be_used_again_and_exchanged(tmp_path: Path) -> None:
    pipe, soft = tiny.sd1(tmp_path), soft_tokens()
    attachment = weft.attach(pipe, soft)
    first = tiny.generate(pipe)
    attachment.remove(soft)
    attachment.add(soft_tokens(blocks=("up_blocks",)))
    assert_differs(tiny.generate(pipe), first)
    attachment.detach()
    with weft.attach(pipe, soft):
        assert np.array_equal(tiny.generate(pipe), first)


def test_tokens_may_be_changed_between_pictures(tmp_path: Path) -> None:
    pipe, soft = tiny.sd1(tmp_path), soft_tokens()
    with weft.attach(pipe, soft):
        first = tiny.generate(pipe)
        soft.tokens = soft.tokens + 1
        exchanged = tiny.generate(pipe)
        soft.tokens.sub_(1)
        assert np.abs(exchanged - first).max() > 1e-3
        assert np.abs(tiny.generate(pipe) - first).max() < 1e-4


def test_a_generation_in_inference_mode_leaves_later_ones_alone(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe, soft_tokens()):
        with torch.inference_mode():
            first = tiny.generate(pipe)
        assert np.abs(tiny.generate(pipe) - first).max() < 1e-4


@pytest.mark.parametrize("buckets", [None, 10])
def test_tokens_made_in_inference_mode(buckets: int | None, tmp_path: Path) -> None:
    """They count no versions; what is written into them is seen all the same."""
    pipe, normal = tiny.sd1(tmp_path), soft_tokens(buckets=buckets)
    with weft.attach(pipe, normal):
        first = tiny.generate(pipe)
        normal.tokens.add_(1)
        second = tiny.generate(pipe)
    with torch.inference_mode():
        made = soft_tokens(buckets=buckets)
    with weft.attach(pipe, made):
        assert np.array_equal(tiny.generate(pipe), first)
        with torch.inference_mode():
            made.tokens.add_(1)
        assert np.array_equal(tiny.generate(pipe), second)


def test_a_compiled_model_is_compiled_once_for_all_buckets(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    graphs = CompiledGraphs()
    torch._dynamo.reset()
    with weft.attach(pipe, soft_tokens()):
        expected = tiny.generate(pipe, num_inference_steps=4)
        eager, pipe.unet = pipe.unet, torch.compile(pipe.unet, backend=graphs)
        sizes = []
        drawn = tiny.generate(
            pipe,
            num_inference_steps=4,
            callback_on_step_end=lambda *_: sizes.append(len(graphs)) or {},
        )
        assert np.abs(drawn - expected).max() < 1e-4
        assert sizes[0] == sizes[-1]
    pipe.unet = eager
