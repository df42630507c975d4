"""The factors of several concepts, stacked for one call of ``lowrank_linear`` in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.methods.residuals.residual import Residual


@dataclass(frozen=True, eq=False)
class Factors:
    """Of one layer: ``down`` [R, channels in], ``up`` [channels out, R], and the one rank that every concept has."""

    down: Tensor
    up: Tensor
    ranks: tuple[int, ...]


def stack_factors(residuals: Sequence[Residual], device: torch.device, dtype: torch.dtype) -> dict[str, Factors]:
    """The factors of every layer that any of ``residuals`` has.

    Every concept gets the largest rank of its layer, filled up with zeros, so that another set of concepts has the
    same sizes and what was compiled stays valid.
    """
    layers = dict.fromkeys(name for residual in residuals for name in residual.down)
    return {name: _stack(residuals, name, device, dtype) for name in layers}


def _stack(residuals: Sequence[Residual], name: str, device: torch.device, dtype: torch.dtype) -> Factors:
    rank = max(residual.ranks.get(name, 0) for residual in residuals)
    in_width, width = next((r.in_widths[name], r.widths[name]) for r in residuals if name in r.down)
    downs, ups = [], []
    for residual in residuals:
        down, up = residual.down.get(name, torch.empty(0, in_width)), residual.up.get(name, torch.empty(width, 0))
        downs.append(F.pad(down, (0, 0, 0, rank - len(down))))
        ups.append(F.pad(up, (0, rank - up.shape[1])))
    return Factors(torch.cat(downs).to(device, dtype), torch.cat(ups, 1).to(device, dtype), (rank,) * len(residuals))
