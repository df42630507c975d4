"""``lowrank_linear``: projections of real models with concepts localised, side by side, or one for each image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.cases.lowrank_linear import baselines
from benchmarks.cases.lowrank_linear.problem import (
    Problem,
    as_rows,
    costs,
    make_problem,
    result_bytes,
    some_rows,
)
from benchmarks.cases.lowrank_linear.shapes import SHAPES
from benchmarks.measuring.compiled import compiled
from benchmarks.registry import Benchmark, Call, Mode, Provider
from weft.ops import lowrank_linear
from weft.testing import relative_l2

# error of a provider's whole result relative to float64; merged weights and blends round several times
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
# rows checked before timing
CHECKED_ROWS = 128
# the floor: what a layer costs into which every concept was merged, for good and everywhere
GATES_OPEN = "gates open"


def weft(backend: str | None = None) -> Callable[[Problem], Call]:
    """The op itself, through one backend or the one it chooses."""

    def prepare(problem: Problem) -> Call:
        arguments = problem.inputs.arguments()
        return problem.wrap(lambda: lowrank_linear(**arguments, backend=backend))

    return prepare


def verify(problem: Problem, provider: Provider, result: Tensor | tuple[Tensor, ...]) -> None:
    """Some rows of ``result`` against float64; gradients against those of the definition.

    Raises:
        AssertionError: They are too far off.
    """
    inputs = problem.inputs
    y = result[0] if isinstance(result, tuple) else result
    rows = torch.linspace(0, inputs.x.shape[1] - 1, min(CHECKED_ROWS, inputs.x.shape[1])).long()
    arguments = some_rows(inputs, rows)
    if provider.note == GATES_OPEN:
        arguments["gate"] = None
    gold = lowrank_linear(**arguments, backend="reference")
    error = relative_l2(as_rows(y.detach())[:, rows], gold)
    assert error <= TOLERANCE[inputs.x.dtype], f"{provider.name}: the result is off by {error:.2g}, relative"


OURS = (Provider("weft", weft(), ours=True), Provider("weft_triton", weft("triton"), ours=True, device="cuda"))
MERGED = Provider("merged", baselines.merged, note=GATES_OPEN, yardstick=True)
PEFT = Provider("peft", baselines.peft)
PEFT_COMPILED = Provider("peft_compiled", compiled(baselines.peft))
ADDMM = Provider("addmm", baselines.addmm)
ADDMM_COMPILED = Provider("addmm_compiled", compiled(baselines.addmm))
K_CONCATENATION = Provider("k_concatenation", baselines.k_concatenation)
BLEND = Provider("blend", baselines.blend)
BMM_IMAGE = Provider("bmm_image", baselines.bmm_image)

# who has no gates does the same work merged
MERGED_FULLY = replace(MERGED, note="")
LOCALIZED = (*OURS, MERGED, PEFT, PEFT_COMPILED, ADDMM, ADDMM_COMPILED, K_CONCATENATION, BLEND)

BENCHMARK = Benchmark(
    op="lowrank_linear",
    shapes=SHAPES,
    modes=(
        Mode("localized", LOCALIZED, kinds=("block",)),
        Mode("localized_image", (*LOCALIZED, BMM_IMAGE), kinds=("block",)),
        Mode("several", (*OURS, MERGED, PEFT, PEFT_COMPILED, ADDMM, ADDMM_COMPILED, K_CONCATENATION)),
        Mode("lora", (*OURS, MERGED_FULLY, PEFT, PEFT_COMPILED, ADDMM, ADDMM_COMPILED, K_CONCATENATION)),
        Mode("one_each", (*OURS, MERGED, ADDMM, K_CONCATENATION)),
        Mode("localized_on_base", (*OURS, PEFT, PEFT_COMPILED, ADDMM, ADDMM_COMPILED), kinds=("block",)),
        Mode("localized_training", (*OURS, PEFT, ADDMM, ADDMM_COMPILED), backward=True, kinds=("block",)),
    ),
    dtypes={"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16},
    make_inputs=make_problem,
    verify=verify,
    result_bytes=result_bytes,
    gate=("tests/ops", "-k", "lowrank_linear"),
    default_dtypes=("fp32", "bf16"),
    costs=costs,
)
