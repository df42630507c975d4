"""The CUDA backend of ``attention`` as Python sees it: when it says no, what it is built from, and its work on a GPU.

What the kernels compute is tested without a GPU in tests/cuda_emulation, and on one by tests/ops, whose fixtures run
every backend that works there. Here is what only a device can show: streams, graphs, repeated runs.
"""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weft
from weft.kernels.attention.reference import attention_reference
from weft.ops import attention
from weft.ops.attention import cuda as _attention_cuda
from weft.ops.attention.op import ATTENTION
from weft.testing import (
    AttentionCase,
    assert_as_accurate_as_eager,
    assert_bitwise,
    attention_eager,
    make_attention_inputs,
)

INSTANCES = Path(__file__).resolve().parents[2] / "csrc/attention/cuda"
CASE = AttentionCase(
    seqlen_q=333,
    head_dim=64,
    dtype=torch.float16,
    tables=("alpha", "beta", "gamma", "delta"),
    key_labels=5,
    removed=0.1,
    readout="dense",
    padding=0.1,
    hostile=True,
)


class OnCuda(torch.Tensor):
    """A tensor that says it is on the first GPU, for asking ``refuse`` without one."""

    is_cuda = True
    device = torch.device("cuda", 0)


@pytest.fixture
def refusals(monkeypatch):
    """``refuse`` on a case, as if there were a GPU and a build for it."""
    monkeypatch.setattr(_attention_cuda, "refuse_machine", lambda device: ())

    def ask(case: AttentionCase, **changes) -> list[str]:
        inputs = replace(make_attention_inputs(case), **changes)
        call = inputs.arguments()
        return _attention_cuda.refuse(
            call._replace(**{name: getattr(call, name).as_subclass(OnCuda) for name in "qkv"})
        )

    return ask


class TestRefuse:
    def test_takes_what_it_is_compiled_for(self, refusals):
        for head_dim in _attention_cuda.HEAD_WIDTHS:
            for dtype in (torch.float16, torch.bfloat16):
                assert refusals(replace(CASE, head_dim=head_dim, dtype=dtype)) == []

    def test_no_gpu(self):
        arguments = make_attention_inputs(CASE).arguments()
        assert _attention_cuda.refuse(arguments) == ["needs CUDA tensors; q is on cpu"]

    def test_dtype_and_head_width(self, refusals):
        assert refusals(replace(CASE, dtype=torch.float32, head_dim=48)) == [
            "needs float16 or bfloat16; q is torch.float32",
            "needs D of 40, 64, 72, 80, 88, 96, 112, 128, 160, 256; D is 48",
        ]

    def test_large_tables(self, refusals):
        (reason,) = refusals(replace(CASE, query_labels=64, key_labels=64))
        assert reason == "needs label tables that fit 24576 bytes of shared memory; these take 66560"
        assert refusals(replace(CASE, query_labels=32, key_labels=64, tables=("alpha", "delta"))) == []

    def test_strides(self, refusals):
        q = torch.zeros(2**24 + 64, dtype=torch.float16).as_strided((1, 2, 1, 64), (0, 2**24, 0, 1))
        (reason,) = refusals(replace(CASE, samples=1, heads=1, seqlen_q=2, tables=(), readout="none"), q=q)
        assert reason == "needs strides of at most 8388607 along tokens; q has 16777216"


def test_by_name_on_the_cpu_says_why_not():
    inputs = make_attention_inputs(replace(CASE, tables=(), key_labels=None, query_labels=None))
    with pytest.raises(weft.BackendUnavailableError, match="cuda: needs CUDA tensors; q is on cpu"):
        attention(inputs.q, inputs.k, inputs.v, backend="cuda")


def test_the_generated_sources_are_current():
    expected = runpy.run_path(str(INSTANCES / "generate.py"))["files"]()
    assert {path.name: path.read_text() for path in (INSTANCES / "instances").iterdir()} == expected


def test_grids_have_one_axis():
    """CUDA ends the second and third at 65535, within reach of a batch."""
    sources = [path for suffix in ("*.cu", "*.cuh") for path in INSTANCES.parents[1].rglob(suffix)]
    assert len(sources) > 10
    assert [path.name for path in sources if re.search(r"(blockIdx|gridDim)\.[yz]", path.read_text())] == []


# --- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_gpu():
    """Inputs of a case on the GPU, which the CUDA backend takes."""

    def make(case: AttentionCase, seed: int = 0):
        inputs = make_attention_inputs(case, seed=seed, device="cuda")
        assert ATTENTION.explain(inputs.arguments())["cuda"] == []
        return inputs

    return make


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_dim", _attention_cuda.HEAD_WIDTHS)
@pytest.mark.parametrize("seqlen_k", [1, 77, 81, 128, 129, 300, 1025])
def test_numbers_on_the_device(on_gpu, head_dim, seqlen_k, dtype):
    inputs = on_gpu(replace(CASE, head_dim=head_dim, seqlen_k=seqlen_k, dtype=dtype))
    truth = inputs.cleaned()
    gold = attention_reference(truth.in_float64().arguments())
    values = (truth.v, truth.readout)
    found = _attention_cuda.attention_fwd_cuda(inputs.arguments())
    for name, actual, eager, g, value in zip(
        ("out", "maps"), found, attention_eager(truth), gold, values, strict=True
    ):
        assert_as_accurate_as_eager(name, actual, eager, g, size=value.abs().max().item())


@pytest.mark.gpu
@pytest.mark.parametrize("seqlen_k", [77, 1025])
def test_repeated_runs_give_the_same_bits(on_gpu, seqlen_k):
    inputs = on_gpu(replace(CASE, seqlen_q=4096, seqlen_k=seqlen_k))
    first = _attention_cuda.attention_fwd_cuda(inputs.arguments())
    for _ in range(20):
        for name, actual, expected in zip(
            ("out", "maps"), _attention_cuda.attention_fwd_cuda(inputs.arguments()), first, strict=True
        ):
            assert_bitwise(name, actual, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("seqlen_k", [77, 1025])
def test_a_graph_replays_with_new_labels_and_tables(on_gpu, seqlen_k):
    inputs, other = (on_gpu(replace(CASE, seqlen_k=seqlen_k), seed=seed) for seed in (0, 1))
    _attention_cuda.attention_fwd_cuda(inputs.arguments())
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _attention_cuda.attention_fwd_cuda(inputs.arguments())
    for name, x in vars(inputs).items():
        if isinstance(x, torch.Tensor):
            x.copy_(getattr(other, name))
    graph.replay()
    for name, actual, expected in zip(
        ("out", "maps"), captured, _attention_cuda.attention_fwd_cuda(other.arguments()), strict=True
    ):
        assert_bitwise(name, actual, expected)


@pytest.mark.gpu
def test_runs_on_the_current_stream(on_gpu):
    inputs = on_gpu(replace(CASE, seqlen_q=4096))
    expected, _ = _attention_cuda.attention_fwd_cuda(inputs.arguments())
    late = replace(inputs, q=torch.zeros_like(inputs.q))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late.q.copy_(inputs.q)
        out, _ = _attention_cuda.attention_fwd_cuda(late.arguments())
    stream.synchronize()
    assert_bitwise("out", out, expected)
