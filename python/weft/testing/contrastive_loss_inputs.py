"""Random inputs of ``contrastive_loss``, and the loss as plain PyTorch does it, with every logit in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PAIRS = ("diagonal", "views", "groups", "few_groups", "none_for_some")
PAIR_EXCLUSIONS = ("none", "self", "ids", "almost_everything")
FEATURES = ("normal", "collapsed", "equal", "spread")
FEATURE_LAYOUTS = ("contiguous", "transposed", "sliced", "expanded")

Mapping = dict[str, Any]


@dataclass(frozen=True)
class ContrastiveCase:
    """One loss to draw.

    Attributes:
        rows, columns, width: R, K, D.
        dtype: Of rows and columns.
        features: One of ``FEATURES``: unit vectors; almost the same unit vector everywhere; exactly the same; and
            vectors so long that most probabilities are 0 in fp32.
        layout: One of ``FEATURE_LAYOUTS``: of the rows; the last has one row for all, with stride 0.
        pairs: One of ``PAIRS``: which are positive; the last leaves rows and columns without any.
        exclude: One of ``PAIR_EXCLUSIONS``.
        classes: Whether negatives of the same class are left out.
        temperature: T.
        symmetric: Whether columns are rows, too.
    """

    rows: int = 13
    columns: int = 17
    width: int = 8
    dtype: torch.dtype = torch.float32
    features: str = "normal"
    layout: str = "contiguous"
    pairs: str = "diagonal"
    exclude: str = "none"
    classes: bool = False
    temperature: float = 0.1
    symmetric: bool = False


@dataclass(frozen=True, eq=False)
class ContrastiveInputs:
    """The tensors of one call, and the relations of its pairs in both forms.

    Attributes:
        rows, cols, temperature: [R, D], [K, D] and 0-dim.
        relations: ``positives``, ``exclude`` and ``classes`` of the op.
        positive, admissible: The same as masks, bool [R, K].
        symmetric: As in the case.
    """

    rows: Tensor
    cols: Tensor
    temperature: Tensor
    relations: Mapping
    positive: Tensor
    admissible: Tensor
    symmetric: bool

    def arguments(self) -> Mapping:
        """Of ``weft.ops.contrastive_loss`` by name."""
        own = {"rows": self.rows, "cols": self.cols, "temperature": self.temperature, "symmetric": self.symmetric}
        return own | self.relations

    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        """What can have a gradient."""
        return self.rows, self.cols, self.temperature

    def mapped(self, change: Callable[[Tensor], Tensor]) -> ContrastiveInputs:
        """The same with these three changed."""
        rows, cols, temperature = map(change, self.leaves())
        return replace(self, rows=rows, cols=cols, temperature=temperature)

    def in_float64(self) -> ContrastiveInputs:
        return self.mapped(lambda x: x.detach().double())

    def with_gradients(self) -> ContrastiveInputs:
        return self.mapped(lambda x: x.detach().requires_grad_())


def make_contrastive_inputs(case: ContrastiveCase, seed: int = 0, device: str = "cpu") -> ContrastiveInputs:
    """Draw the tensors of ``case``. The same seed gives the same values on every device."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.float64 if case.dtype == torch.float64 else torch.float32
    sizes = (case.rows, case.columns)
    rows, cols = (_features(case, length, generator) for length in sizes)
    if case.layout == "expanded":
        rows = rows[:1].expand(case.rows, -1)
    rows, cols = rows.to(device), cols.to(device)
    if case.layout in ("transposed", "sliced"):
        rows, cols = _laid_out(rows, case.layout), _laid_out(cols, case.layout)
    ids = {
        "positives": _positives(case, sizes, generator),
        "exclude": _exclusions(case, sizes, generator),
        "classes": _groups(sizes, 3, generator) if case.classes else None,
    }
    equal = {name: _equal(given, sizes) for name, given in ids.items()}
    admissible = ~equal["exclude"]
    positive = equal["positives"] & admissible
    admissible &= positive | ~equal["classes"]
    temperature = torch.tensor(case.temperature, dtype=wide, device=device)
    moved = {name: _moved(given, device) for name, given in ids.items()}
    return ContrastiveInputs(
        rows, cols, temperature, moved, positive.to(device), admissible.to(device), case.symmetric
    )


def contrastive_loss_eager(inputs: ContrastiveInputs) -> Tensor:
    """The loss from all logits, widened to fp32 at least, by masks and cross entropies."""
    wide = inputs.temperature.dtype
    logits = inputs.rows.to(wide) @ inputs.cols.to(wide).T / inputs.temperature
    loss = _one_way(logits, inputs.positive, inputs.admissible)
    if inputs.symmetric:
        loss = (loss + _one_way(logits.T, inputs.positive.T, inputs.admissible.T)) / 2
    return loss


def _one_way(logits: Tensor, positive: Tensor, admissible: Tensor) -> Tensor:
    has = positive.any(1)
    if not has.any():
        return logits.sum() * 0
    logits, positive = logits[has].masked_fill(~admissible[has], -torch.inf), positive[has]
    target = positive.to(logits.dtype) / positive.sum(1, keepdim=True)
    log_p = F.log_softmax(logits, 1).masked_fill(~positive, 0)
    return -(log_p * target).sum(1).mean()


def _features(case: ContrastiveCase, length: int, generator: torch.Generator) -> Tensor:
    wide = torch.promote_types(case.dtype, torch.float32)
    x = torch.randn(length, case.width, generator=generator).to(wide)
    # of all lines the same, whatever their number
    common = torch.linspace(-1, 2, case.width, dtype=wide)
    if case.features == "collapsed":
        x = 3 * common + 0.05 * x
    elif case.features == "equal":
        x = common.expand_as(x)
    x = F.normalize(x, dim=1)
    return (30 * x if case.features == "spread" else x).to(case.dtype).contiguous()


def _laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "transposed":
        return x.T.contiguous().T
    wider = x.new_full((x.shape[0], x.shape[1] + 5), torch.nan)
    wider[:, 3 : 3 + x.shape[1]] = x
    return wider[:, 3 : 3 + x.shape[1]]


def _groups(sizes: tuple[int, int], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    of_rows, of_columns = (torch.randint(-count, count, (length,), generator=generator) for length in sizes)
    return of_rows, of_columns


def _positives(case: ContrastiveCase, sizes: tuple[int, int], generator: torch.Generator) -> Any:
    rows, columns = sizes
    if case.pairs == "diagonal" and rows <= columns:
        return "diagonal"
    if case.pairs == "views":
        return torch.arange(rows) % max(1, rows // 2), torch.arange(columns) % max(1, rows // 2)
    if case.pairs == "groups":
        return _groups(sizes, max(1, columns // 3), generator)
    if case.pairs == "few_groups":
        return _groups(sizes, 1, generator)
    # as many ids again that nothing has, some of them huge
    of_rows, of_columns = torch.arange(rows), torch.arange(columns)
    of_rows[::3] = -(2**40)
    of_columns[::2] = 2**40
    return of_rows, of_columns


def _exclusions(case: ContrastiveCase, sizes: tuple[int, int], generator: torch.Generator) -> Any:
    if case.exclude == "self" and sizes[0] <= sizes[1]:
        return "self"
    if case.exclude == "ids":
        return _groups(sizes, 2, generator)
    if case.exclude == "almost_everything":
        # all but the last column
        of_columns = torch.zeros(sizes[1], dtype=torch.int32)
        of_columns[-1] = 1
        return torch.zeros(sizes[0], dtype=torch.int32), of_columns
    return None


def _equal(given: Any, sizes: tuple[int, int]) -> Tensor:
    if given is None:
        return torch.zeros(sizes, dtype=torch.bool)
    if isinstance(given, str):
        return torch.eye(*sizes, dtype=torch.bool)
    of_rows, of_columns = given
    equal: Tensor = of_rows[:, None] == of_columns
    return equal


def _moved(given: Any, device: str) -> Any:
    return tuple(ids.to(device) for ids in given) if isinstance(given, tuple) else given
