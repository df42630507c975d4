"""The CPU backend of ``lowrank_linear``: the C++ kernel, or where BLAS is faster its products, accumulated in place.

By either way an image is written as an image, with no transposition afterwards, and concepts whose gate is zero cost
little or nothing: the kernel passes over those closed for a tile of rows, BLAS over those closed for a sample; where
masks open few rows, BLAS computes only these in fp32.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.kernels.lowrank_linear.arguments import Arguments
from weft.kernels.lowrank_linear.reference import expand_gate
from weft.ops.lowrank_linear import cpu_fused as fused

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# of all pairs of a row and a concept; up to here gathering rows is faster than products of all (measured with four
# concepts of rank 16 at the widths 320 to 1280)
MOST_OPEN = 0.2
# of bf16 in a row of an AMX tile
AMX_VALUES = 32
# what has the dtype of x
_OF_X = ("x", "weight", "bias", "down", "up", "residual", "base")


def refuse(call: Arguments) -> list[str]:
    """Why this backend cannot take a call; empty if it can."""
    x, reasons = call.x, []
    if x.device.type != "cpu":
        reasons.append(f"needs CPU tensors; x is on {x.device}")
    if x.dtype not in DTYPES:
        reasons.append(f"needs float32, float16 or bfloat16; x is {x.dtype}")
    return reasons


def lowrank_linear_fwd_cpu(call: Arguments) -> Tensor:
    """[B, N, Cout], or [B, Cout, N] if ``channels_first``; contiguous."""
    forward = fused.lowrank_linear_fwd_fused if fused.is_faster(call.x.dtype) else lowrank_linear_fwd_blas
    return forward(call)


def lowrank_linear_fwd_blas(call: Arguments) -> Tensor:
    """The same by BLAS alone."""
    x, weight, bias, down, up, ranks, gate, residual, base, channels_first = call
    if x.dtype == torch.float16:
        # without AVX512-FP16 a half product takes four to ten times as long as widening its operands (README.md)
        wide = {name: t.float() for name in _OF_X if (t := getattr(call, name)) is not None}
        return lowrank_linear_fwd_blas(call._replace(**wide)).half()
    if x.dtype == torch.bfloat16 and x.stride(2) == 1 and x.stride(1) > x.shape[2] and x.shape[2] % AMX_VALUES:
        # oneDNN reads a last, partial tile to its end, past the row, and a NaN there reaches the result
        x = x.contiguous()

    if weight is None:
        assert base is not None
        y = _copy(base, channels_first) if residual is None else _sum(base, residual, channels_first)
    elif channels_first:
        y = _product_as_image(x, weight, bias, residual)
    else:
        y = F.linear(x, weight, bias)
    if down is not None and up is not None and not _add_at_open_rows(y, x, down, up, ranks, gate, channels_first):
        for samples, concepts in _open_concepts(gate, len(ranks), x.shape[0]):
            _add_concepts(y[samples], x[samples], down, up, ranks, concepts, _of(gate, samples), channels_first)
    if residual is not None and weight is not None and not channels_first:
        y.add_(residual)
    return y


def _copy(x: Tensor, channels_first: bool) -> Tensor:
    """``x`` in memory of its own."""
    return (x.transpose(1, 2) if channels_first else x).clone(memory_format=torch.contiguous_format)


def _sum(x: Tensor, y: Tensor, channels_first: bool) -> Tensor:
    shape = (x.shape[0], x.shape[2], x.shape[1]) if channels_first else x.shape
    total = x.new_empty(shape)
    torch.add(x, y, out=total.transpose(1, 2) if channels_first else total)
    return total


def _product_as_image(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """x W^T + b + residual as [B, Cout, N]: the addends are where the product starts, so they cost one pass."""
    stack, columns = weight.expand(x.shape[0], -1, -1), x.transpose(1, 2)
    if residual is None:
        return torch.bmm(stack, columns) if bias is None else torch.baddbmm(bias[:, None], stack, columns)
    start = residual.transpose(1, 2)
    if bias is None:
        return torch.baddbmm(start, stack, columns)
    total = residual.new_empty(start.shape)
    return torch.add(start, bias[:, None], out=total).baddbmm_(stack, columns)


def _add_at_open_rows(
    y: Tensor,
    x: Tensor,
    down: Tensor,
    up: Tensor,
    ranks: tuple[int, ...],
    gate: Tensor | None,
    channels_first: bool,
) -> bool:
    """Add each concept at the rows that its gate opens, if these are few; whether that was done."""
    # products of bf16 cost less than gathering their rows
    if gate is None or channels_first or x.dtype != torch.float32 or gate.shape[:2] != x.shape[:2]:
        return False
    gate = gate.flatten(0, 1)  # [B * N, K]
    is_open = gate != 0
    if int(is_open.count_nonzero()) > MOST_OPEN * is_open.numel():
        return False
    y, x = y.flatten(0, 1), x.flatten(0, 1)
    factors = zip(torch.split(down, list(ranks)), torch.split(up, list(ranks), 1), strict=True)
    for k, (a, b) in enumerate(factors):
        rows = is_open[:, k].nonzero()[:, 0]
        if len(rows):
            h = x.index_select(0, rows) @ a.T
            h.mul_(gate[:, k].index_select(0, rows)[:, None])
            y.index_add_(0, rows, h @ b.T)
    return True


def _add_concepts(
    y: Tensor,
    x: Tensor,
    down: Tensor,
    up: Tensor,
    ranks: tuple[int, ...],
    concepts: tuple[int, ...],
    gate: Tensor | None,
    channels_first: bool,
) -> None:
    """Add to ``y`` the terms of ``concepts``, those of all K that are open somewhere in these samples."""
    if len(concepts) < len(ranks):
        places = _places(ranks, concepts)
        down, up = down.index_select(0, places), up.index_select(1, places)
        gate = None if gate is None else gate[..., list(concepts)]
        ranks = tuple(ranks[k] for k in concepts)
    h = F.linear(x, down)  # [B, N, R]
    if gate is not None:
        # in one dtype: a product of two goes value by value, and h is rounded already
        h.mul_(expand_gate(gate.to(h.dtype), ranks))
    if channels_first:
        y.baddbmm_(up.expand(len(x), -1, -1), h.transpose(1, 2))
    else:
        y.flatten(0, 1).addmm_(h.flatten(0, 1), up.T)


def _open_concepts(gate: Tensor | None, concepts: int, samples: int) -> list[tuple[slice, tuple[int, ...]]]:
    """Runs of samples that have the same concepts open, with these; samples with none are left out.

    Reading the gate costs microseconds here; the products of a closed concept would cost what those of an open one do.
    """
    if gate is None:
        return [(slice(0, samples), tuple(range(concepts)))]
    by_sample = (gate != 0).any(1).tolist()
    sets = [tuple(k for k, is_open in enumerate(row) if is_open) for row in by_sample]
    if len(set(sets)) == 1:
        return [(slice(0, samples), sets[0])] if sets[0] else []
    return [(slice(i, i + 1), found) for i, found in enumerate(sets) if found]


def _of(gate: Tensor | None, samples: slice) -> Tensor | None:
    return gate if gate is None or gate.shape[0] == 1 else gate[samples]


@lru_cache(maxsize=256)
def _places(ranks: tuple[int, ...], concepts: tuple[int, ...]) -> Tensor:
    """Rows of the stacked factors that belong to ``concepts``."""
    starts = [sum(ranks[:k]) for k in concepts]
    # on the CPU whatever the default device is at the first call: the result is kept
    return torch.cat(
        [torch.arange(start, start + ranks[k], device="cpu") for start, k in zip(starts, concepts, strict=True)]
    )
