"""torch.compile around an attached joint model: the same numbers, and no new graph from step to step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny_joint as tiny
import torch

import weft
from weft.attach import Control, LayerInfo, LayerRequest, Step


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
    return tiny.transformer(num_layers=2, dual_attention_layers=(0,), qk_norm="rms_norm")


def outputs(model: Any, steps: int) -> Iterator[torch.Tensor]:
    for index in range(steps):
        yield tiny.call(model, timestep=torch.tensor([900.0 - 100 * index] * 2))


def soft_tokens(buckets: int = 10) -> weft.SoftTokens:
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randn(2, 3, tiny.BLOCK, generator=generator)
    offsets = torch.randn(buckets, 2, tiny.BLOCK, generator=generator)
    return weft.SoftTokens(tokens, offsets, ("transformer_blocks.0", "transformer_blocks.1"), space="block")


@pytest.mark.parametrize("first", ["attach", "compile"])
def test_without_controls_one_graph_serves_every_step(first: str) -> None:
    model, backend = small(), Counting()
    stock = list(outputs(model, 4))
    if first == "attach":
        attachment = weft.attach(model)
        compiled = torch.compile(model, backend=backend)
    else:
        compiled = torch.compile(model, backend=backend)
        attachment = weft.attach(compiled)
    graphs = []
    for out, expected in zip(outputs(compiled, 4), stock, strict=True):
        assert torch.equal(out, expected)
        graphs.append(backend.graphs)
    assert graphs[0] == graphs[-1], f"recompiled between steps: {graphs}"
    attachment.detach()
    assert all(torch.equal(out, expected) for out, expected in zip(outputs(compiled, 2), stock, strict=False))


@pytest.mark.parametrize("control", [soft_tokens, lambda: weft.AttentionMaps([1, 2])], ids=["tokens", "maps"])
@pytest.mark.parametrize("first", ["attach", "compile"])
def test_with_a_control_one_graph_serves_every_step(control: Any, first: str) -> None:
    """Also where the model was compiled, and has run, before tokens were to pass its norms."""
    model, backend, mine = small(), Counting(), control()
    stock = list(outputs(model, 4))
    with weft.attach(model, mine):
        expected = list(outputs(model, 4))
    compiled = torch.compile(model, backend=backend)
    if first == "compile":
        list(outputs(compiled, 1))
    with weft.attach(compiled, mine) as attachment:
        graphs = []
        for out, wanted in zip(outputs(compiled, 4), expected, strict=True):
            torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-4)
            graphs.append(backend.graphs)
        assert graphs[0] == graphs[-1], f"recompiled between steps: {graphs}"
        attachment.remove(mine)
        assert torch.equal(next(outputs(compiled, 1)), stock[0])
    assert torch.equal(next(outputs(compiled, 1)), stock[0])


def test_nothing_of_weft_breaks_the_graph() -> None:
    """The denoiser's own hooks are outside it: what is within is one graph, as without weft."""

    class Reading(Control):
        def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
            return LayerRequest(readout=readout) if layer.is_joint else None

    model = small()
    readout = torch.eye(tiny.TEXT)[None]
    with weft.attach(model, soft_tokens(), Reading()), torch.no_grad():
        expected = tiny.call(model)
        compiled = torch.compile(model.forward, backend="eager", fullgraph=True)
        arguments = tiny.inputs()
        torch.testing.assert_close(compiled(**arguments).sample, expected, atol=1e-5, rtol=1e-4)
