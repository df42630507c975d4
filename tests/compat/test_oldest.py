"""What must work with the oldest supported versions, which ``make compat`` installs: import, every op, attaching."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import weft
from weft import ops, shapes


def draw(*sizes: int) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(0)).requires_grad_()


def attention() -> Any:
    padding = torch.tensor([[False, False, False, False, True]])
    return ops.attention(draw(1, 6, 2, 16), draw(1, 5, 2, 16), draw(1, 5, 2, 16), key_padding=padding)


def lowrank_linear() -> Any:
    return ops.lowrank_linear(draw(2, 5, 8), draw(6, 8), down=draw(3, 8), up=draw(6, 3), gate=torch.tensor([0.5]))


def contrastive_loss() -> Any:
    return ops.contrastive_loss(draw(4, 8), draw(4, 8))


def pairwise_error() -> Any:
    return ops.pairwise_error(draw(3, 4, 8), torch.zeros(3, 8))


def windows() -> Any:
    return ops.regions.soft_edges(draw(1, 2, 8, 8) > 0, 1.0)


CALLS = [attention, lowrank_linear, contrastive_loss, pairwise_error, windows]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_an_op_agrees_with_its_definition(call: Callable[[], Any]) -> None:
    out = call()
    with weft.backend("reference"):
        expected = call()
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    assert out.isfinite().all()


@pytest.mark.parametrize("call", CALLS[:4], ids=lambda call: call.__name__)
def test_an_op_has_gradients(call: Callable[[], Any]) -> None:
    call().sum().backward()


@pytest.mark.skipif(
    not importlib.metadata.version("triton").startswith("3.2."), reason="tests/triton compiles with a newer Triton"
)
@pytest.mark.parametrize(
    "launches",
    [
        ("attention", "sdxl_64_edit", "flux_joint_maps"),
        ("contrastive_loss",),
        ("lowrank_linear", "flux_alone"),
        ("pairwise_error",),
        ("regions",),
    ],
    ids=lambda launches: launches[0],
)
def test_kernels_compile(launches: tuple[str, ...]) -> None:
    """No more than that: what the compiler keeps on the stack is held to a budget in tests/triton."""
    script = Path(__file__).parents[1] / "triton/cross_compile.py"
    op, *cases = launches
    # the interpreter, which other tests use, would take the compiler's place
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(script), op, "90", *cases]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_an_op_compiles_whole() -> None:
    x, weight = draw(2, 5, 8).detach(), draw(6, 8).detach()
    compiled = torch.compile(lambda x: ops.lowrank_linear(x, weight) * 2, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), 2 * ops.lowrank_linear(x, weight))


@pytest.mark.parametrize("model", ["sd1", "sd3"])
def test_maps_of_a_shipped_model(model: Any) -> None:
    pipe = shapes.pipeline(model)
    call: dict[str, Any] = {"num_inference_steps": 2, "output_type": "np"}

    def picture() -> Tensor:
        drawn = pipe("a red circle", generator=torch.Generator().manual_seed(0), **call).images
        return torch.from_numpy(drawn)

    stock = picture()
    with weft.attach(pipe):
        assert torch.equal(picture(), stock)
    with weft.attach(pipe, weft.AttentionMaps("circle")) as attachment:
        assert (picture() - stock).abs().max() < 1e-4
        assert attachment.maps["circle"].sum() > 0
    assert torch.equal(picture(), stock)
