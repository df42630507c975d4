"""``attention``: the layers of real models, plain and with an edit of four regions and eight maps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.cases.attention_baselines import (
    Problem,
    compiled,
    daam,
    eager,
    eager_gathering,
    sdpa,
    sdpa_with_readout,
)
from benchmarks.registry import Benchmark, Call, Mode, Provider, Shape
from weft.kernels.attention.reference import attention_reference
from weft.ops import Edit, attention
from weft.testing import AttentionCase, make_attention_inputs, relative_l2

REGIONS = 4
COLUMNS = 8
TABLES = ("alpha", "beta", "gamma", "delta")
# error of a provider's whole result relative to float64; eager rounds logits and probabilities to the dtype
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
# rows checked before timing: float64 logits of all rows of a long self-attention would not fit
CHECKED_ROWS = 128


def _shape(name: str, sizes: tuple[int, ...], origin: str, optional: bool = False) -> Shape:
    return Shape(name, dict(zip(("B", "H", "Nq", "Nk", "D"), sizes, strict=True)), origin, optional)


SHAPES = (
    _shape("sd15_64", (2, 8, 4096, 77, 40), "Stable Diffusion 1.5 at 512 px, cross-attention at 64x64, CFG"),
    _shape("sd15_32", (2, 8, 1024, 77, 80), "the same at 32x32"),
    _shape("sd15_16", (2, 8, 256, 77, 160), "the same at 16x16"),
    _shape("sdxl_64", (2, 10, 4096, 77, 64), "SDXL at 1024 px, cross-attention at 64x64, CFG"),
    _shape("sdxl_32", (2, 20, 1024, 77, 64), "the same at 32x32"),
    _shape("sd15_self_32", (2, 8, 1024, 1024, 80), "Stable Diffusion 1.5 at 512 px, self-attention at 32x32, CFG"),
    _shape("sd15_self_64", (2, 8, 4096, 4096, 40), "the same at 64x64", optional=True),
    _shape("tiny", (2, 2, 20, 9, 8), "no model; shows that everything runs", optional=True),
    _shape(
        "pixart_64", (2, 16, 4096, 300, 72), "PixArt at 1024 px, cross-attention over 300 T5 tokens", optional=True
    ),
)


@dataclass(frozen=True)
class Work:
    """What a mode asks of the op: an edit or none, and which read-out."""

    edited: bool
    readout: str


WORK = {
    "plain": Work(edited=False, readout="none"),
    "edit_maps": Work(edited=True, readout="one_hot"),
    "edit_dense_maps": Work(edited=True, readout="dense"),
    "edit_maps_backward": Work(edited=True, readout="one_hot"),
}


def make_problem(shape: Shape, dtype: torch.dtype, mode: Mode) -> Problem:
    """Inputs as a processor has them: [B, N, H, D] views of the projections, tables and labels shared by the batch.

    A cross-attention gives every token its own label; a self-attention labels keys like queries.
    """
    sizes, work = shape.sizes, WORK[mode.name]
    self_attention = sizes["Nq"] == sizes["Nk"]
    case = AttentionCase(
        samples=sizes["B"],
        seqlen_q=sizes["Nq"],
        seqlen_k=sizes["Nk"],
        heads=sizes["H"],
        head_dim=sizes["D"],
        dtype=dtype,
        tables=TABLES if work.edited else (),
        query_labels=REGIONS,
        key_labels=REGIONS if self_attention else "own",
        readout=work.readout,
        columns=COLUMNS,
        shared=("tables", "labels", "readout"),
    )
    inputs = make_attention_inputs(case)
    if work.edited and self_attention:
        inputs = replace(inputs, key_labels=inputs.query_labels)
    return Problem(inputs, one_hot=work.readout == "one_hot", backward=mode.backward)


def _weft(problem: Problem) -> Call:
    x = problem.inputs
    edit = Edit(**x.tables()) if x.tables() else None

    def call() -> tuple[Tensor, Tensor | None]:
        result = attention(
            x.q,
            x.k,
            x.v,
            scale=x.scale,
            edit=edit,
            readout=x.readout,
            query_labels=x.query_labels,
            key_labels=x.key_labels,
        )
        return result if isinstance(result, tuple) else (result, None)

    return problem.wrap(call)


def verify(problem: Problem, provider: Provider, result: tuple[Tensor, Tensor | None]) -> None:
    """Some rows of ``result`` against float64.

    Raises:
        AssertionError: They are too far off.
    """
    x = problem.inputs
    rows = torch.linspace(0, x.q.shape[1] - 1, min(CHECKED_ROWS, x.q.shape[1])).long()
    labels = None if x.query_labels is None else x.query_labels[:, rows]
    some = replace(x, q=x.q[:, rows], query_labels=labels).in_float64()
    if provider.note == DELTA_ONLY:
        some = replace(some, alpha=None, beta=None, gamma=None)
    gold = attention_reference(*some.arguments())
    for name, found, expected in zip(("out", "maps"), result, gold, strict=True):
        if found is not None:
            error = relative_l2(found.detach()[:, rows], expected)
            assert error <= TOLERANCE[x.q.dtype], f"{provider.name}: `{name}` is off by {error:.2g}, relative"


def result_bytes(problem: Problem) -> int:
    x = problem.inputs
    if problem.backward:
        return sum(t.numel() * t.element_size() for t in (x.q, x.k, x.v))
    maps = 0 if x.readout is None else x.q.shape[0] * x.q.shape[1] * x.readout.shape[2] * 4
    return x.q.numel() * x.q.element_size() + maps


DELTA_ONLY = "delta only"

PLAIN = (
    Provider("weft", _weft, ours=True),
    Provider("sdpa", sdpa),
    Provider("sdpa_compiled", compiled(sdpa)),
    Provider("eager", eager),
    Provider("eager_compiled", compiled(eager)),
)
EDITED = (
    Provider("weft", _weft, ours=True),
    Provider("eager", eager),
    Provider("eager_compiled", compiled(eager_gathering)),
    Provider("sdpa_padded", sdpa_with_readout(padded=True), note=DELTA_ONLY),
    Provider("sdpa_padded_compiled", compiled(sdpa_with_readout(padded=True)), note=DELTA_ONLY),
    Provider("sdpa_unpadded", sdpa_with_readout(padded=False), note=DELTA_ONLY),
    Provider("daam", daam, note=DELTA_ONLY),
)

BENCHMARK = Benchmark(
    op="attention",
    shapes=SHAPES,
    modes=(
        Mode("plain", PLAIN),
        Mode("edit_maps", EDITED),
        Mode("edit_dense_maps", EDITED),
        Mode("edit_maps_backward", EDITED[:5], backward=True),
    ),
    dtypes={"fp32": torch.float32, "bf16": torch.bfloat16},
    make_inputs=make_problem,
    verify=verify,
    result_bytes=result_bytes,
    gate=("tests/ops", "-k", "attention"),
)
