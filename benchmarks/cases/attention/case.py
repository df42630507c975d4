"""``attention``: the layers of real models, plain, edited, read out, and backward; weft beside everybody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.cases.attention.baselines import (
    daam,
    eager,
    eager_gathering,
    sdpa,
    sdpa_with_readout,
)
from benchmarks.cases.attention.baselines_fused import flex, sdpa_by
from benchmarks.cases.attention.problem import Problem, costs, make_problem, result_bytes
from benchmarks.cases.attention.shapes import SHAPES
from benchmarks.measuring.compiled import compiled
from benchmarks.registry import Benchmark, Call, Mode, Provider
from weft.kernels.attention.reference import attention_reference
from weft.ops import Edit, attention
from weft.testing import relative_l2

# error of a provider's whole result relative to float64; eager rounds logits and probabilities to the dtype
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
# rows checked before timing: float64 logits of all rows of a long self-attention would not fit
CHECKED_ROWS = 128

# notes of providers that do not do all of an edit, and the tables that they leave out
DELTA_ONLY = "delta only"
NO_RANGE = "alpha and delta only"
LEFT_OUT = {DELTA_ONLY: ("alpha", "beta", "gamma"), NO_RANGE: ("beta", "gamma")}


def weft(backend: str | None = None) -> Callable[[Problem], Call]:
    """The op itself, through one backend or the one it chooses."""

    def prepare(problem: Problem) -> Call:
        x = problem.inputs
        edit = Edit(**x.tables()) if x.tables() else None
        labels = {"query_labels": x.query_labels, "key_labels": x.key_labels} if edit else {}

        def call() -> tuple[Tensor, Tensor | None]:
            result = attention(x.q, x.k, x.v, scale=x.scale, edit=edit, readout=x.readout, **labels, backend=backend)
            return result if isinstance(result, tuple) else (result, None)

        return problem.wrap(call)

    return prepare


def verify(problem: Problem, provider: Provider, result: tuple[Tensor, Tensor | None]) -> None:
    """Some rows of ``result`` against float64.

    Raises:
        AssertionError: They are too far off.
    """
    x = problem.inputs
    rows = torch.linspace(0, x.q.shape[1] - 1, min(CHECKED_ROWS, x.q.shape[1])).long()
    labels = None if x.query_labels is None else x.query_labels[:, rows]
    some = replace(x, q=x.q[:, rows], query_labels=labels).in_float64()
    left_out = dict.fromkeys(LEFT_OUT.get(provider.note, ()))
    gold = attention_reference(replace(some, **left_out).arguments())
    for name, found, expected in zip(("out", "maps"), result, gold, strict=True):
        if found is not None:
            error = relative_l2(found.detach()[:, rows], expected)
            assert error <= TOLERANCE[x.q.dtype], f"{provider.name}: `{name}` is off by {error:.2g}, relative"


OURS = (
    Provider("weft", weft(), ours=True),
    Provider("weft_cuda", weft("cuda"), ours=True, device="cuda"),
    Provider("weft_triton", weft("triton"), ours=True, device="cuda"),
)
# the CUDA kernels have no backward
OURS_BACKWARD = tuple(provider for provider in OURS if provider.name != "weft_cuda")
SDPA = Provider("sdpa", sdpa)
SDPA_FUSED = tuple(Provider(f"sdpa_{name}", sdpa_by(name), device="cuda") for name in ("flash", "cudnn", "efficient"))
FLEX = Provider("flex_compiled", flex(compile=True), note=NO_RANGE, device="cuda")
EAGER = Provider("eager", eager)
EAGER_COMPILED = Provider("eager_compiled", compiled(eager_gathering))
SDPA_PADDED = Provider("sdpa_padded", sdpa_with_readout(padded=True), note=DELTA_ONLY)
SDPA_PADDED_COMPILED = Provider("sdpa_padded_compiled", compiled(sdpa_with_readout(padded=True)), note=DELTA_ONLY)
SDPA_UNPADDED = Provider("sdpa_unpadded", sdpa_with_readout(padded=False), note=DELTA_ONLY)
DAAM = Provider("daam", daam, note=DELTA_ONLY)

PLAIN = (
    *OURS,
    SDPA,
    Provider("sdpa_compiled", compiled(sdpa)),
    *SDPA_FUSED,
    EAGER,
    Provider("eager_compiled", compiled(eager)),
)
EDITED = (*OURS, EAGER, EAGER_COMPILED, SDPA_PADDED, SDPA_PADDED_COMPILED, SDPA_UNPADDED, DAAM, FLEX)
READ_OUT = tuple(replace(provider, note="") for provider in EDITED)

BENCHMARK = Benchmark(
    op="attention",
    shapes=SHAPES,
    modes=(
        Mode("plain", PLAIN),
        Mode("edit_maps", EDITED, kinds=("cross", "self")),
        Mode("edit_dense_maps", EDITED, kinds=("cross", "self")),
        Mode("self_edit", (*OURS, EAGER, EAGER_COMPILED, FLEX), kinds=("self",)),
        Mode("joint_maps", READ_OUT, kinds=("joint",)),
        Mode(
            "edit_maps_backward",
            (*OURS_BACKWARD, EAGER, EAGER_COMPILED, SDPA_PADDED, SDPA_PADDED_COMPILED),
            backward=True,
            kinds=("cross", "self"),
        ),
        Mode("plain_gradients", (*OURS_BACKWARD, SDPA, *SDPA_FUSED, EAGER), backward=True),
        Mode("edit_maps_gradients", (*OURS_BACKWARD, EAGER, SDPA_PADDED), backward=True, kinds=("cross", "self")),
        Mode(
            "joint_maps_gradients",
            (*OURS_BACKWARD, EAGER, replace(SDPA_PADDED, note="")),
            backward=True,
            kinds=("joint",),
        ),
    ),
    dtypes={"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16},
    make_inputs=make_problem,
    verify=verify,
    result_bytes=result_bytes,
    gate=("tests/ops", "-k", "attention"),
    default_dtypes=("fp32", "bf16"),
    costs=costs,
)
