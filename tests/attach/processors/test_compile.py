"""torch.compile around an attached model: the same numbers, and no new graph from step to step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch

import weft


class Counting:
    """A compiler backend that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def small() -> Any:
    """Three transformer blocks at one resolution: tracing is what takes the time here."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    return tiny.unet(**blocks, mid_block_type=None, block_out_channels=(16,))


def latents(model: Any, steps: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sample, text = torch.randn(4, 4, 16, 16, generator=generator), torch.randn(4, 7, 32, generator=generator)
    with torch.no_grad():
        for index in range(steps):
            yield model(sample, torch.tensor(900 - 100 * index), text).sample


@pytest.mark.parametrize("first", ["attach", "compile"])
def test_without_controls_one_graph_serves_every_step(first: str) -> None:
    model, backend = small(), Counting()
    stock = list(latents(model, 4))
    if first == "attach":
        attachment = weft.attach(model)
        compiled = torch.compile(model, backend=backend)
    else:
        compiled = torch.compile(model, backend=backend)
        attachment = weft.attach(compiled)
    graphs = []
    for out, expected in zip(latents(compiled, 4), stock, strict=True):
        assert torch.equal(out, expected)
        graphs.append(backend.graphs)
    assert graphs[0] == graphs[-1], f"recompiled between steps: {graphs}"
    attachment.detach()
    assert all(torch.equal(out, expected) for out, expected in zip(latents(compiled, 2), stock, strict=False))


def test_with_maps_one_graph_serves_every_step() -> None:
    model, backend = small(), Counting()
    stock = list(latents(model, 4))
    with weft.attach(model, maps := weft.AttentionMaps([1, 2], reduce=())):
        list(latents(model, 4))
        expected = maps.maps[2].clone()
        compiled = torch.compile(model, backend=backend)
        graphs = []
        for out, plain in zip(latents(compiled, 4), stock, strict=True):
            torch.testing.assert_close(out, plain, atol=1e-4, rtol=1e-4)
            graphs.append(backend.graphs)
        assert graphs[0] == graphs[-1], f"recompiled between steps: {graphs}"
        torch.testing.assert_close(maps.maps[2], expected, atol=1e-6, rtol=0)


def test_chosen_steps_need_one_graph_more() -> None:
    model, backend = small(), Counting()
    stock = list(latents(model, 6))
    with weft.attach(model, maps := weft.AttentionMaps([1], steps=[1, 2], reduce="layers")):
        compiled = torch.compile(model, backend=backend)
        graphs = []
        for out in latents(compiled, 6):
            expected = stock[len(graphs)]
            torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
            graphs.append(backend.graphs)
        assert graphs[1] == graphs[-1], f"more than one graph for each kind of step: {graphs}"
        assert maps.maps.steps == (1, 2)


def test_a_compiled_pipeline(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path, unet=small())
    stock = tiny.generate(pipe)
    with weft.attach(pipe, maps := weft.AttentionMaps("circle")):
        tiny.generate(pipe)
        expected = maps.maps["circle"]
        pipe.unet = torch.compile(pipe.unet, backend="eager")
        assert np.abs(tiny.generate(pipe) - stock).max() < 1e-4
        torch.testing.assert_close(maps.maps["circle"], expected, atol=1e-6, rtol=0)
