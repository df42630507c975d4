"""What a mode asks of ``lowrank_linear`` at a shape: its inputs, its gradients, and what it costs at the least."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring.compiled import Wrapped
from benchmarks.registry import Call, Costs, Mode, Shape
from weft.testing import LowrankCase, LowrankInputs, make_lowrank_inputs


@dataclass(frozen=True)
class Work:
    """One mode, as data.

    Attributes:
        concepts, rank: How many there are, and of what rank each.
        gate: "none"; "strengths", one number each; "masks", each row belongs to one concept or to none, as where
            attention localises them; "one_each", image i uses concept i alone.
        residual: "none", "rows" or "image", in which case the result is an image too.
        on_base: Whether the layer's own output is given in place of its weight.
        gradients: Whether the gradients of x and the factors are taken, the layer being frozen.
    """

    concepts: int = 4
    rank: int = 16
    gate: str = "masks"
    residual: str = "rows"
    on_base: bool = False
    gradients: bool = False


WORK = {
    "localized": Work(),
    "localized_image": Work(residual="image"),
    "several": Work(gate="strengths", residual="none"),
    "lora": Work(1, 32, "none", "none"),
    "one_each": Work(64, 16, "one_each", "none"),
    "localized_on_base": Work(on_base=True),
    "localized_training": Work(gradients=True),
}
# of the rows, those that belong to no concept
BACKGROUND = 0.5


@dataclass(frozen=True, eq=False)
class Problem:
    """The inputs of one mode.

    Attributes:
        inputs: Of the op.
        gradients: As in ``Work``.
    """

    inputs: LowrankInputs
    gradients: bool = False

    def wrap(self, call: Call) -> Call:
        """``call`` without a graph; or, for gradients, followed by them."""
        return GradientsOf(self.inputs, call) if self.gradients else torch.no_grad()(call)


class GradientsOf(Wrapped):
    """Run a call and send a fixed gradient back to x and the factors; gives the result and them."""

    def __init__(self, inputs: LowrankInputs, call: Call) -> None:
        assert inputs.down is not None and inputs.up is not None
        self.leaves = [x.requires_grad_() for x in (inputs.x, inputs.down, inputs.up)]
        self.call = call
        self.arriving: Tensor | None = None

    def __call__(self) -> tuple[Tensor, ...]:
        y = self.call()
        if self.arriving is None:
            self.arriving = torch.randn_like(y)
        return (y, *torch.autograd.grad(y, self.leaves, self.arriving))


def make_problem(shape: Shape, dtype: torch.dtype, mode: Mode, device: str = "cpu", seed: int = 0) -> Problem:
    """Hidden states as a block has them, factors at the size that training gives them."""
    sizes, work = shape.sizes, WORK[mode.name]
    case = LowrankCase(
        samples=sizes["B"],
        grid=(sizes["h"], sizes["w"]),
        width_in=sizes["Cin"],
        width_out=sizes["Cout"],
        ranks=(work.rank,) * work.concepts,
        dtype=dtype,
        weight="base" if work.on_base else "linear",
        gate="none",
        residual=work.residual,
    )
    inputs = make_lowrank_inputs(case, seed, device)
    assert inputs.up is not None
    gate = _gate(work, case.samples, case.rows, torch.Generator().manual_seed(seed))
    gate = None if gate is None else gate.to(device)
    return Problem(replace(inputs, gate=gate, up=inputs.up / work.rank**0.5), work.gradients)


def _gate(work: Work, samples: int, rows: int, generator: torch.Generator) -> Tensor | None:
    if work.gate == "none":
        return None
    if work.gate == "strengths":
        return torch.rand(work.concepts, generator=generator) + 0.5
    if work.gate == "one_each":
        return torch.eye(samples, work.concepts)
    owner = torch.randint(work.concepts, (samples, rows), generator=generator)
    masks = torch.nn.functional.one_hot(owner, work.concepts).float()
    return masks * (torch.rand(samples, rows, 1, generator=generator) > BACKGROUND)


def result_bytes(problem: Problem) -> int:
    """Size of what is returned, the gradients included."""
    x, up, down = problem.inputs.x, problem.inputs.up, problem.inputs.down
    assert up is not None and down is not None
    values = x[..., 0].numel() * up.shape[0]
    if problem.gradients:
        values += x.numel() + up.numel() + down.numel()
    return int(values * x.element_size())


def costs(shape: Shape, dtype: torch.dtype, mode: Mode) -> Costs:
    """Each input read once, the result written once; the products of the layer and of all ranks.

    Gates weigh nothing beside these and are left out. Of a concept that is closed for most rows the products could be
    left out as well; they are counted.
    """
    b, h, w, width_in, width_out = shape.sizes.values()
    work, rows = WORK[mode.name], b * h * w
    ranks = work.concepts * work.rank
    matrices = ranks * (width_in + width_out) + (0 if work.on_base else width_in * width_out)
    addends = (work.residual != "none") + work.on_base
    values = rows * (width_in + (1 + addends) * width_out) + matrices
    products = 2 * rows * matrices
    if work.gradients:
        # dy and x are read again, dx, dA and dB written; x A^T is made again, and each product has two gradients but
        # that with the frozen W, which has one
        values += rows * (2 * width_in + width_out) + 2 * matrices
        products += 2 * rows * (width_in * width_out + ranks * (3 * width_in + 2 * width_out))
    return Costs(values * dtype.itemsize, products)


def as_rows(y: Tensor) -> Tensor:
    """A result as [B, N, Cout]."""
    return y.flatten(2).transpose(1, 2) if y.ndim == 4 else y


def some_rows(inputs: LowrankInputs, rows: Tensor) -> dict[str, Any]:
    """The call at some rows alone, in float64."""
    picked: dict[str, Any] = {"grid": None}
    for name in ("x", "residual", "base"):
        x = getattr(inputs, name)
        picked[name] = None if x is None else as_rows(x)[:, rows]
    gate = inputs.gate
    picked["gate"] = gate[:, rows] if gate is not None and gate.ndim == 3 else gate
    return replace(inputs, **picked).in_float64().arguments()
