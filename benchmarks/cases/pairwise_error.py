"""``pairwise_error``: the errors of all images under all captions, with the gradients of the predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.registry import Benchmark, Call, Costs, Mode, Provider, Shape
from weft.ops import pairwise_error
from weft.testing import make_pairs, pairwise_error_eager, relative_l2

# error relative to float64; plain products of 16 bits round differences and squares
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 1e-2}


@dataclass(frozen=True, eq=False)
class Problem:
    """Predictions [R, C, ...], targets [R, ...], and whether the gradient of the former is asked for."""

    pred: Tensor
    target: Tensor
    gradients: bool

    def wrap(self, call: Call) -> Call:
        if not self.gradients:
            return torch.no_grad()(call)
        self.pred.requires_grad_()
        arriving = torch.linspace(-1, 1, self.pred.shape[0] * self.pred.shape[1], device=self.pred.device)

        def differentiated() -> tuple[Tensor, ...]:
            error = call()
            (gradient,) = torch.autograd.grad(error, [self.pred], arriving.view(error.shape).to(error.dtype))
            return error.detach(), gradient

        return differentiated


def make_problem(shape: Shape, dtype: torch.dtype, mode: Mode, device: str = "cpu", seed: int = 0) -> Problem:
    """Predictions that miss their targets by a tenth."""
    rows, columns, *rest = shape.sizes.values()
    pred, target = make_pairs(rows, columns, tuple(rest), dtype, seed=seed, device=device)
    return Problem(pred, target, mode.backward)


def weft(backend: str | None = None) -> Callable[[Problem], Call]:
    """The op itself, through one backend or the one it chooses."""
    return lambda x: x.wrap(lambda: pairwise_error(x.pred, x.target, backend=backend))


def _broadcast(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target[:, None]).square().flatten(2).mean(2)


def broadcast(problem: Problem) -> Call:
    """Differences of all pairs, squared, and their mean."""
    return problem.wrap(lambda: _broadcast(problem.pred, problem.target))


def broadcast_compiled(problem: Problem) -> Call:
    """The same under torch.compile, static shapes. Compiling happens at the first call, before any timing."""
    compiled = torch.compile(_broadcast, dynamic=False, fullgraph=True)
    return problem.wrap(lambda: compiled(problem.pred, problem.target))


def verify(problem: Problem, provider: Provider, result: Tensor | tuple[Tensor, ...]) -> None:
    """Errors and gradient against float64.

    Raises:
        AssertionError: They are too far off.
    """
    wide = Problem(problem.pred.detach().double(), problem.target.double(), problem.gradients)
    expected = wide.wrap(lambda: pairwise_error_eager(wide.pred, wide.target))()
    found = result if isinstance(result, tuple) else (result,)
    golds = expected if isinstance(expected, tuple) else (expected,)
    for name, x, gold in zip(("result", "gradient"), found, golds, strict=False):
        error = relative_l2(x.detach(), gold)
        assert error <= TOLERANCE[problem.pred.dtype], f"{provider.name}: the {name} is off by {error:.2g}, relative"


def result_bytes(problem: Problem) -> int:
    """Size of the errors, and of the gradient."""
    gradient = problem.pred.numel() * problem.pred.element_size() if problem.gradients else 0
    return problem.pred.shape[0] * problem.pred.shape[1] * 4 + gradient


def costs(shape: Shape, dtype: torch.dtype, mode: Mode) -> Costs:
    """Predictions and targets read once, and once more for the gradient, which is written once."""
    rows, columns, *rest = shape.sizes.values()
    values = rows * torch.Size(rest).numel()
    read = values * (columns + 1)
    moved = read + (read + values * columns if mode.backward else 0)
    return Costs(moved * dtype.itemsize, values * columns * (6 if mode.backward else 3))


def _shape(name: str, sizes: tuple[int, ...], origin: str, optional: bool = False) -> Shape:
    return Shape(name, dict(zip(("R", "C", "channels", "h", "w"), sizes, strict=True)), origin, optional)


OURS = (Provider("weft", weft(), ours=True), Provider("weft_triton", weft("triton"), ours=True, device="cuda"))
OTHERS = (Provider("broadcast", broadcast), Provider("broadcast_compiled", broadcast_compiled))

BENCHMARK = Benchmark(
    op="pairwise_error",
    shapes=(
        _shape("sd15_4", (4, 4, 4, 64, 64), "SoftREPA on Stable Diffusion 1.5 at 512 px, a batch of 4"),
        _shape("sd15_16", (16, 16, 4, 64, 64), "the same, a batch of 16"),
        _shape("sd3_16", (16, 16, 16, 64, 64), "SoftREPA on SD3 at 512 px, a batch of 16"),
        _shape("tiny", (3, 4, 2, 5, 6), "no model; shows that everything runs", optional=True),
    ),
    modes=(Mode("errors", (*OURS, *OTHERS)), Mode("errors_gradients", (*OURS, *OTHERS), backward=True)),
    dtypes={"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16},
    make_inputs=make_problem,
    verify=verify,
    result_bytes=result_bytes,
    gate=("tests/ops", "-k", "pairwise_error"),
    default_dtypes=("fp32", "bf16"),
    costs=costs,
)
