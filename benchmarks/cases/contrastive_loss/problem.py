"""What a mode asks of ``contrastive_loss`` at a shape: features, positives, and what it costs at the least."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.registry import Call, Costs, Mode, Shape

# lines that are made at a time where a check goes through all pairs in float64
CHECKED_AT_A_TIME = 512
# rows whose gradients are checked
CHECKED_ROWS = 64


@dataclass(frozen=True)
class Work:
    """One mode, as data.

    Attributes:
        views: Whether rows and columns are the same features, two views of each thing, with themselves excluded.
        temperature: T.
        gradients: Whether those of all features are taken.
    """

    views: bool
    temperature: float
    gradients: bool = True


WORK = {
    "clip": Work(views=False, temperature=0.07),
    "clip_forward": Work(views=False, temperature=0.07, gradients=False),
    "nt_xent": Work(views=True, temperature=0.5),
}


@dataclass(frozen=True, eq=False)
class Problem:
    """Unit vectors that know each other a little, as in the middle of a training.

    Attributes:
        rows, cols: [N, D] each; one tensor where they are views.
        work: The mode.
    """

    rows: Tensor
    cols: Tensor
    work: Work

    @property
    def leaves(self) -> list[Tensor]:
        return [self.rows] if self.work.views else [self.rows, self.cols]

    @property
    def arguments(self) -> dict[str, Any]:
        """Of ``weft.ops.contrastive_loss`` beside the features."""
        if not self.work.views:
            return {"temperature": self.work.temperature, "symmetric": True}
        half = torch.arange(len(self.rows) // 2, device=self.rows.device)
        return {"positives": half.repeat(2), "exclude": "self", "temperature": self.work.temperature}

    def wrap(self, call: Call) -> Call:
        """``call`` without a graph; or followed by the gradients of all features."""
        if not self.work.gradients:
            return torch.no_grad()(call)
        for leaf in self.leaves:
            leaf.requires_grad_()

        def differentiated() -> tuple[Tensor, ...]:
            loss = call()
            return (loss.detach(), *torch.autograd.grad(loss, self.leaves))

        return differentiated

    @cached_property
    def expected(self) -> tuple[Tensor, list[Tensor]]:
        """The loss, and the gradients of some lines of each leaf, in float64 and a few lines at a time."""
        a, c = self.rows.detach().double(), self.cols.detach().double()
        n, t = len(a), self.work.temperature
        numbers = torch.arange(n, device=a.device)
        positive = (numbers + n // 2) % n if self.work.views else numbers
        of_rows = self._lse(a, c)
        loss = (of_rows - (a * c[positive]).sum(1) / t).mean()
        some = torch.linspace(0, n - 1, min(CHECKED_ROWS, n)).long().to(a.device)
        if self.work.views:
            # a feature is a row and a column at once
            p = self._logits(a[some], c, some).sub_(of_rows[some, None]).exp_()
            q = self._logits(a[some], c, some).sub_(of_rows).exp_()
            return loss, [((p + q) @ c - 2 * c[positive[some]]) / (n * t)]
        of_columns = self._lse(c, a)
        loss = (loss + (of_columns - (a * c).sum(1) / t).mean()) / 2
        gradients = []
        for x, y, own, other in ((a, c, of_rows, of_columns), (c, a, of_columns, of_rows)):
            s = self._logits(x[some], y, some)
            weights = (s - own[some, None]).exp_() + (s - other).exp_()
            gradients.append((weights @ y - 2 * y[some]) / (2 * n * t))
        return loss, gradients

    def _logits(self, a: Tensor, c: Tensor, numbers: Tensor) -> Tensor:
        s = a @ c.T / self.work.temperature
        return s.scatter_(1, numbers[:, None], -torch.inf) if self.work.views else s

    def _lse(self, a: Tensor, c: Tensor) -> Tensor:
        lines = torch.arange(len(a), device=a.device).split(CHECKED_AT_A_TIME)
        return torch.cat([self._logits(a[some], c, some).logsumexp(1) for some in lines])


def make_problem(shape: Shape, dtype: torch.dtype, mode: Mode, device: str = "cpu", seed: int = 0) -> Problem:
    """Features of ``N`` things, each the noisy copy of its partner."""
    n, d = shape.sizes["N"], shape.sizes["D"]
    generator = torch.Generator().manual_seed(seed)
    work = WORK[mode.name]
    first = torch.randn(n // 2 if work.views else n, d, generator=generator)
    second = first + 2 * torch.randn(first.shape, generator=generator)
    first, second = (F.normalize(x, dim=1).to(dtype).to(device) for x in (first, second))
    if work.views:
        z = torch.cat([first, second])
        return Problem(z, z, work)
    return Problem(first, second, work)


def result_bytes(problem: Problem) -> int:
    """Size of what is returned: the loss, and the gradients."""
    gradients = sum(x.numel() * x.element_size() for x in problem.leaves) if problem.work.gradients else 0
    return 4 + gradients


def costs(shape: Shape, dtype: torch.dtype, mode: Mode) -> Costs:
    """Features read once and their gradients written once; one product forward, three backward, whose first makes the
    logits again: less would mean to keep them.
    """
    n, d = shape.sizes["N"], shape.sizes["D"]
    work = WORK[mode.name]
    features = n * d * (1 if work.views else 2) * dtype.itemsize
    return Costs(features * (2 if work.gradients else 1), 2 * n * n * d * (4 if work.gradients else 1))
