"""``attention`` on a device as it is used there: layers of real models in every dtype, forward and backward.

Every test draws fresh inputs, hands the allocator memory full of NaN, compares with float64 and then repeats the call,
whose bits must not change. The seed is printed, so a failure shows it. ``cpu`` runs everywhere and keeps these tests
themselves honest; ``triton`` and ``cuda`` need a GPU. ``-k reduced_set`` is small enough for compute-sanitizer.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from weft.kernels.attention.reference import attention_reference
from weft.ops import Edit, attention
from weft.ops.attention.op import ATTENTION
from weft.testing import (
    AttentionCase,
    AttentionInputs,
    assert_as_accurate_as_eager,
    assert_bitwise,
    assert_unbiased,
    attention_eager,
    make_attention_inputs,
)

TABLES = ("alpha", "beta", "gamma", "delta")
REPEATS = 3

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BACKENDS = {"cpu": ("fp32", "bf16"), "triton": ("fp32", "fp16", "bf16"), "cuda": ("fp16", "bf16")}


def on_every(backends: tuple[str, ...]):
    """One test a backend and dtype that it takes."""
    return pytest.mark.parametrize(
        ("backend", "dtype"),
        [
            pytest.param(name, DTYPES[dtype], id=f"{name}-{dtype}", marks=() if name == "cpu" else (pytest.mark.gpu,))
            for name in backends
            for dtype in BACKENDS[name]
        ],
    )


# the edit of a cross-attention labels every token, that of a self-attention a few regions both ways
CROSS = AttentionCase(
    tables=TABLES, removed=0.1, readout="one_hot", padding=0.1, shared=("labels", "readout"), hostile=True
)
LAYERS = {
    "sd15_64": replace(CROSS, heads=8, seqlen_q=4096, head_dim=40, layout="fused"),
    "sd15_32": replace(CROSS, heads=8, seqlen_q=1024, head_dim=80),
    "sd15_16": replace(CROSS, heads=8, seqlen_q=256, head_dim=160, layout="head_major"),
    "sdxl_32": replace(CROSS, heads=20, seqlen_q=1024, head_dim=64),
    "pixart": replace(CROSS, heads=4, seqlen_q=1024, seqlen_k=300, head_dim=72),
    "plain": replace(CROSS, heads=8, seqlen_q=1024, head_dim=64, tables=(), readout="none", padding=0.0),
    "self_3_regions": replace(
        CROSS, samples=1, heads=8, seqlen_q=1024, seqlen_k=1024, tables=TABLES[:3], query_labels=3, key_labels=3
    ),
    "joint": replace(
        CROSS, samples=1, heads=4, seqlen_q=1357, seqlen_k=1357, head_dim=128, tables=(), readout="dense", padding=0.0
    ),
}
SMALL = replace(CROSS, samples=1, heads=2, seqlen_q=67, readout="dense")


@pytest.fixture
def draw():
    """``draw(case, backend)``: inputs of a new seed where the backend wants them; a refusal skips with its reason."""

    def make(case: AttentionCase, backend: str) -> AttentionInputs:
        seed = secrets.randbits(30)
        print(f"seed {seed}, {case}")
        inputs = make_attention_inputs(case, seed, "cpu" if backend == "cpu" else "cuda")
        reasons = ATTENTION.explain(inputs.arguments())[backend]
        if reasons:
            pytest.skip(f"{backend}: {'; '.join(reasons)}")
        return inputs

    return make


def poison(inputs: AttentionInputs) -> None:
    """Fill with NaN what the allocator hands out next: blocks of the sizes of every input and result, several times.

    That uninitialised tensors hold NaN is a fixture of every test; this reaches memory that torch does not initialise.
    """
    like = [x for x in vars(inputs).values() if isinstance(x, Tensor)]
    columns = 0 if inputs.readout is None else inputs.readout.shape[2]
    like.append(inputs.q.new_empty((*inputs.q.shape[:3], columns), dtype=torch.float32))
    sizes = [x.numel() * x.element_size() for x in like]
    blocks = [
        torch.full((size // 4 + 1,), torch.nan, device=inputs.q.device) for size in sizes for _ in range(REPEATS)
    ]
    assert all(bool(block.isnan().all()) for block in blocks)


def sizes_of(inputs: AttentionInputs) -> tuple[float, float]:
    """Magnitudes of V and W: both results are means of these, which may cancel."""
    values = (inputs.v, inputs.v if inputs.readout is None else inputs.readout)
    return values[0].abs().max().item(), values[1].abs().max().item()


def check_forward(inputs: AttentionInputs, call_attention, backend: str) -> None:
    truth = inputs.cleaned()
    gold = attention_reference(truth.in_float64().arguments())
    eager = attention_eager(truth)
    poison(inputs)
    found = call_attention(inputs, backend)
    for name, actual, e, g, size in zip(("out", "maps"), found, eager, gold, sizes_of(truth), strict=True):
        assert_as_accurate_as_eager(name, actual, e, g, size=size)
        assert_unbiased(name, actual, e, g, size=size)
    for _ in range(REPEATS):
        poison(inputs)
        for name, actual, expected in zip(("out", "maps"), call_attention(inputs, backend), found, strict=True):
            assert_bitwise(name, actual, expected)


@on_every(("cpu", "triton", "cuda"))
@pytest.mark.parametrize("layer", LAYERS)
def test_layers_of_real_models(draw, call_attention, backend, dtype, layer):
    check_forward(draw(replace(LAYERS[layer], dtype=dtype), backend), call_attention, backend)


@on_every(("cpu", "triton", "cuda"))
@pytest.mark.parametrize("seqlen_k", [1, 77, 128, 129, 333])
@pytest.mark.parametrize("head_dim", [40, 64, 72, 80, 88, 96, 112, 128, 160, 256])
def test_reduced_set(draw, call_attention, backend, dtype, head_dim, seqlen_k):
    check_forward(
        draw(replace(SMALL, head_dim=head_dim, seqlen_k=seqlen_k, dtype=dtype), backend), call_attention, backend
    )


# --- backward -------------------------------------------------------------------------------------------------------

BACKWARD = {
    "cross": replace(CROSS, samples=1, heads=4, seqlen_q=300, head_dim=40),
    "cross_wide": replace(CROSS, samples=2, heads=2, seqlen_q=130, head_dim=160, key_labels=5, readout="dense"),
    "self_3_regions": replace(
        CROSS, samples=1, heads=2, seqlen_q=261, seqlen_k=261, head_dim=64, query_labels=3, key_labels=3
    ),
    "joint": replace(CROSS, samples=1, heads=2, seqlen_q=333, seqlen_k=333, head_dim=128, tables=(), padding=0.0),
}


def arriving(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """Gradients at out and at maps."""
    columns = 0 if inputs.readout is None else inputs.readout.shape[2]
    shape, device = inputs.q.shape, inputs.q.device
    return torch.randn(shape, dtype=inputs.q.dtype, device=device), torch.randn(*shape[:2], columns, device=device)


def gradients(inputs: AttentionInputs, function, at: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Of every float input, by autograd through ``function``."""
    leaves = inputs.with_gradients()
    pairs = [(x, g.to(x.dtype)) for x, g in zip(function(leaves), at, strict=True) if x.requires_grad and x.numel()]
    results, arrived = zip(*pairs, strict=True)
    floats = leaves.floats()
    found = torch.autograd.grad(results, list(floats.values()), arrived, allow_unused=True, materialize_grads=True)
    return dict(zip(floats, found, strict=True))


@on_every(("cpu", "triton"))
@pytest.mark.parametrize("layer", BACKWARD)
def test_gradients(draw, call_attention, backend, dtype, layer):
    inputs = draw(replace(BACKWARD[layer], dtype=dtype), backend)
    at = arriving(inputs)
    gold = gradients(inputs.in_float64(), lambda x: attention_reference(x.cleaned().arguments()), at)
    eager = gradients(inputs, lambda x: attention_eager(x.cleaned()), at)
    poison(inputs)
    found = gradients(inputs, lambda x: call_attention(x, backend), at)
    for name, gradient in found.items():
        # eager's largest error over the few elements of a table is an uncertain measure of its accuracy, and of new
        # inputs every time it is now and then lucky in all of them
        factor, size = (10.0, gold[name].abs().max().item()) if name in TABLES else (4.0, 0.0)
        assert_as_accurate_as_eager(f"d{name}", gradient, eager[name], gold[name], factor=factor, size=size)
        assert_unbiased(f"d{name}", gradient, eager[name], gold[name], factor=factor)
    poison(inputs)
    for name, gradient in gradients(inputs, lambda x: call_attention(x, backend), at).items():
        assert_bitwise(f"d{name}", gradient, found[name])


# --- what only a device can show ------------------------------------------------------------------------------------


def ready(inputs: AttentionInputs, backend: str):
    """A call whose edit is checked already: reading its values would wait for the device, which a capture forbids."""
    edit = Edit(**inputs.tables())
    rest = {name: getattr(inputs, name) for name in ("scale", "readout", "query_labels", "key_labels", "key_padding")}
    return lambda: attention(inputs.q, inputs.k, inputs.v, edit=edit, backend=backend, **rest)


@on_every(("triton", "cuda"))
@pytest.mark.parametrize("seqlen_k", [77, 333], ids=["short_keys", "long_keys"])
def test_a_graph_replays_with_new_values(draw, backend, dtype, seqlen_k):
    case = replace(SMALL, seqlen_k=seqlen_k, dtype=dtype)
    inputs, other = draw(case, backend), draw(case, backend)
    expected = ready(other, backend)()
    call = ready(inputs, backend)
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for name, x in vars(inputs).items():
        if isinstance(x, Tensor):
            x.copy_(getattr(other, name))
    graph.replay()
    for name, actual, wanted in zip(("out", "maps"), captured, expected, strict=True):
        assert_bitwise(name, actual, wanted)


@on_every(("triton", "cuda"))
@pytest.mark.parametrize("seqlen_k", [77, 333], ids=["short_keys", "long_keys"])
def test_nothing_is_written_beside_the_results(draw, call_attention, backend, dtype, seqlen_k):
    """Neighbours of every result in the allocator's memory keep their values."""
    inputs = draw(replace(SMALL, seqlen_q=65, seqlen_k=seqlen_k, dtype=dtype), backend)
    sizes = [x.numel() * x.element_size() for x in call_attention(inputs, backend)]
    guards = [torch.full((size // 4 + 1,), 7.0, device="cuda") for size in sizes for _ in range(8)]
    # every other block is free again and becomes a result between two that are not
    kept = guards[::2]
    del guards
    for _ in range(REPEATS):
        call_attention(inputs, backend)
    torch.cuda.synchronize()
    assert all(bool((guard == 7.0).all()) for guard in kept)
