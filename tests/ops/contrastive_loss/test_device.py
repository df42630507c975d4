"""``contrastive_loss`` and ``pairwise_error`` on a device as they are used there, in every dtype, with gradients.

Every test draws fresh inputs, compares with float64 and then repeats the call, whose bits must not change. The seed is
printed. ``cpu`` runs everywhere and keeps these tests themselves honest; ``triton`` needs a GPU.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from weft.ops import contrastive_loss, pairwise_error
from weft.testing import (
    ContrastiveCase,
    assert_bitwise,
    contrastive_loss_eager,
    make_contrastive_inputs,
    make_pairs,
    pairwise_error_eager,
    relative_l2,
)

LOSSES = {
    "clip": ContrastiveCase(1500, 1500, 512, temperature=0.07, symmetric=True),
    "clip_sharp": ContrastiveCase(300, 300, 512, temperature=0.01, symmetric=True),
    "nt_xent": ContrastiveCase(1000, 1000, 128, pairs="views", exclude="self", temperature=0.5),
    "classes": ContrastiveCase(700, 900, 100, pairs="few_groups", classes=True, symmetric=True),
    "ranks": ContrastiveCase(100, 5000, 768, pairs="diagonal"),
    "collapsed": ContrastiveCase(2000, 2000, 256, features="collapsed", temperature=0.5, symmetric=True),
    "one_row": ContrastiveCase(1, 77, 33, symmetric=True),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# of a gradient, relative to float64: gradients at logits are rounded to the dtype of the features
TOLERANCE = {"fp32": 2e-4, "fp16": 5e-3, "bf16": 2e-2}
each_backend = pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        *(pytest.param("cpu", dtype, id=f"cpu-{dtype}") for dtype in ("fp32", "bf16")),
        *(pytest.param("triton", dtype, id=f"triton-{dtype}", marks=pytest.mark.gpu) for dtype in DTYPES),
    ],
)


def fresh_seed() -> int:
    seed = secrets.randbits(30)
    print(f"seed {seed}")
    return seed


def differentiate(function: Callable[..., Tensor], *tensors: Tensor) -> list[Tensor]:
    """The result, and the gradients of ``tensors`` for an arriving one that is not 1."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    y = function(*leaves)
    arriving = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype, device=y.device).view(y.shape)
    return [y.detach(), *torch.autograd.grad(y, leaves, arriving)]


@each_backend
@pytest.mark.parametrize("loss", LOSSES)
def test_losses(backend, dtype, loss):
    case = replace(LOSSES[loss], dtype=DTYPES[dtype])
    inputs = make_contrastive_inputs(case, fresh_seed(), "cpu" if backend == "cpu" else "cuda")
    rest = {name: x for name, x in inputs.arguments().items() if name not in ("rows", "cols", "temperature")}

    def call(rows: Tensor, cols: Tensor, temperature: Tensor) -> Tensor:
        return contrastive_loss(rows, cols, temperature=temperature, **rest, backend=backend)

    def dense(rows: Tensor, cols: Tensor, temperature: Tensor) -> Tensor:
        return contrastive_loss_eager(replace(inputs, rows=rows, cols=cols, temperature=temperature))

    found = differentiate(call, *inputs.leaves())
    gold = differentiate(dense, *inputs.in_float64().leaves())
    torch.testing.assert_close(found[0].double(), gold[0], rtol=1e-5, atol=1e-5)
    for actual, expected in zip(found[1:3], gold[1:3], strict=True):
        assert relative_l2(actual, expected) <= TOLERANCE[dtype]
    # one number, the difference of sums of s / T that may all but cancel
    size = 1 / case.temperature**2
    torch.testing.assert_close(found[3].double(), gold[3], rtol=TOLERANCE[dtype], atol=1e-5 * size)
    for actual, again in zip(found, differentiate(call, *inputs.leaves()), strict=True):
        assert_bitwise("bits", actual, again)


@each_backend
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_errors(backend, dtype, layout):
    device = "cpu" if backend == "cpu" else "cuda"
    pair = make_pairs(4, 5, (4, 64, 64), DTYPES[dtype], layout, fresh_seed(), device)

    def call(pred: Tensor, target: Tensor) -> Tensor:
        return pairwise_error(pred, target, backend=backend)

    found = differentiate(call, *pair)
    gold = differentiate(pairwise_error_eager, *(x.double() for x in pair))
    for actual, expected in zip(found, gold, strict=True):
        assert relative_l2(actual, expected) <= TOLERANCE[dtype]
    for actual, again in zip(found, differentiate(call, *pair), strict=True):
        assert_bitwise("bits", actual, again)
