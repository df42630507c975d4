"""``lowrank_linear`` on a device as it is used there: projections of real models in every dtype, forward and backward.

Every test draws fresh inputs, compares with float64 and then repeats the call, whose bits must not change. The seed is
printed. ``cpu`` runs everywhere and keeps these tests themselves honest; ``triton`` needs a GPU.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from weft.ops import lowrank_linear
from weft.testing import (
    LowrankCase,
    LowrankInputs,
    assert_as_accurate_as_eager,
    assert_bitwise,
    assert_unbiased,
    lowrank_linear_eager,
    make_lowrank_inputs,
)

FOUR = (16,) * 4
LAYERS = {
    "sd15_64": LowrankCase(2, (64, 64), 320, 320, FOUR, weight="convolution", residual="image"),
    "sd15_16": LowrankCase(2, (16, 16), 1280, 1280, FOUR, weight="convolution", residual="image"),
    "sdxl_32": LowrankCase(2, (32, 32), 1280, 1280, FOUR, residual="rows"),
    "flux": LowrankCase(1, (32, 36), 3072, 3072, FOUR, gate="concepts"),
    "one_each": LowrankCase(4, (16, 16), 640, 640, (16,) * 64, gate="samples", closed=0.95),
    "on_base": LowrankCase(2, (32, 32), 640, 640, FOUR, weight="base", residual="rows"),
    "text": LowrankCase(2, (7, 11), 2048, 1280, (4, 8, 4), gate="none"),
    "alone": LowrankCase(2, (32, 32), 640, 640, (), residual="channels_last"),
    "odd": LowrankCase(3, (5, 7), 333, 129, (3, 5), x_layout="sliced", residual="cropped_image"),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
each_backend = pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        *(pytest.param("cpu", dtype, id=f"cpu-{dtype}") for dtype in ("fp32", "bf16")),
        *(pytest.param("triton", dtype, id=f"triton-{dtype}", marks=pytest.mark.gpu) for dtype in DTYPES),
    ],
)
each_layer = pytest.mark.parametrize("layer", LAYERS)


def draw(layer: str, backend: str, dtype: str) -> LowrankInputs:
    seed = secrets.randbits(30)
    print(f"seed {seed}")
    case = replace(LAYERS[layer], dtype=DTYPES[dtype])
    return make_lowrank_inputs(case, seed, "cpu" if backend == "cpu" else "cuda")


def call(inputs: LowrankInputs, backend: str) -> Tensor:
    return lowrank_linear(**inputs.arguments(), backend=backend)


@each_backend
@each_layer
def test_layers_of_real_models(backend, dtype, layer):
    inputs = draw(layer, backend, dtype)
    found, eager = call(inputs, backend), lowrank_linear_eager(inputs)
    gold = call(inputs.in_float64(), "reference")
    assert_as_accurate_as_eager("y", found, eager, gold, size=8.0)
    assert_unbiased("y", found, eager, gold, size=8.0)
    assert_bitwise("y", call(inputs, backend), found)


@each_backend
@each_layer
def test_a_closed_gate_gives_the_bits_of_the_layer_alone(backend, dtype, layer):
    inputs = draw(layer, backend, dtype)
    if inputs.gate is None:
        inputs = replace(
            inputs, gate=None if inputs.down is None else torch.zeros(len(inputs.ranks)).to(inputs.x.device)
        )
    else:
        inputs.gate.zero_()
    assert_bitwise("y", call(inputs, backend), call(inputs.without_concepts(), backend))


def gradients(inputs: LowrankInputs, function, dy: Tensor) -> dict[str, Tensor]:
    leaves = inputs.with_gradients()
    tensors = leaves.tensors()
    found = torch.autograd.grad(
        function(leaves), list(tensors.values()), dy.to(inputs.x.dtype), allow_unused=True, materialize_grads=True
    )
    return dict(zip(tensors, found, strict=True))


@each_backend
@pytest.mark.parametrize("layer", ["sd15_16", "one_each", "on_base", "text", "odd"])
def test_gradients(backend, dtype, layer):
    inputs = draw(layer, backend, dtype)
    dy = torch.randn_like(lowrank_linear_eager(inputs))
    found = gradients(inputs, lambda x: call(x, backend), dy)
    eager = gradients(inputs, lowrank_linear_eager, dy)
    gold = gradients(inputs.in_float64(), lowrank_linear_eager, dy)
    for name, gradient in found.items():
        size = gold[name].abs().max().item()
        assert_as_accurate_as_eager(f"d{name}", gradient, eager[name], gold[name], factor=4.0, size=size)
        assert_unbiased(f"d{name}", gradient, eager[name], gold[name], factor=4.0, size=size)
    for name, gradient in gradients(inputs, lambda x: call(x, backend), dy).items():
        assert_bitwise(f"d{name}", gradient, found[name])


@pytest.mark.gpu
@pytest.mark.parametrize("layer", ["sd15_16", "flux", "one_each", "on_base"])
def test_a_graph_replays_with_new_values(layer):
    inputs, other = draw(layer, "triton", "bf16"), draw(layer, "triton", "bf16")
    expected = call(other, "triton")
    call(inputs, "triton")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(inputs, "triton")
    for name, x in inputs.tensors().items():
        x.copy_(other.tensors()[name])
    graph.replay()
    assert_bitwise("y", captured, expected)
