"""The CPU backend of ``lowrank_linear``: BLAS products, accumulated in place into one result.

The addends and the bias are where the result starts, so they cost one pass; an image is written as an image, with no
transposition afterwards. A concept whose gate is zero for a whole sample costs nothing there.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from weft.kernels.lowrank_linear.reference import expand_gate

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refuse(x: Tensor) -> list[str]:
    """Why this backend cannot take a call; empty if it can."""
    reasons = []
    if x.device.type != "cpu":
        reasons.append(f"needs CPU tensors; x is on {x.device}")
    if x.dtype not in DTYPES:
        reasons.append(f"needs float32, float16 or bfloat16; x is {x.dtype}")
    return reasons


def lowrank_linear_fwd_cpu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    down: Tensor | None,
    up: Tensor | None,
    ranks: tuple[int, ...],
    gate: Tensor | None,
    residual: Tensor | None,
    base: Tensor | None,
    channels_first: bool,
) -> Tensor:
    """Arguments as in ``lowrank_linear_reference``.

    Returns:
        [B, N, Cout], or [B, Cout, N] if ``channels_first``; contiguous.
    """
    if x.dtype == torch.float16:
        # without AVX512-FP16 a half product takes four to ten times as long as widening its operands (README.md)
        weight, bias, down, up, residual, base = (
            None if t is None else t.float() for t in (weight, bias, down, up, residual, base)
        )
        wide = lowrank_linear_fwd_cpu(x.float(), weight, bias, down, up, ranks, gate, residual, base, channels_first)
        return wide.half()

    start = _start(bias, residual, base)
    if weight is None:
        assert start is not None
        y = (start.transpose(1, 2) if channels_first else start).contiguous()
        # with a single addend nothing has been computed yet, and a result shares no memory with an argument
        y = y.clone() if y.data_ptr() in (x.data_ptr() for x in (residual, base) if x is not None) else y
    else:
        y = _product(x, weight, start, channels_first)
    if down is not None and up is not None:
        for samples, concepts in _open_concepts(gate, len(ranks), x.shape[0]):
            _add_concepts(y[samples], x[samples], down, up, ranks, concepts, _of(gate, samples), channels_first)
    return y


def _start(bias: Tensor | None, residual: Tensor | None, base: Tensor | None) -> Tensor | None:
    """What the products are added to, broadcastable to [B, N, Cout]; a tensor of its own if it is the sum of two."""
    start = None
    for addend in (base, residual, bias):
        if addend is not None:
            start = addend if start is None else start + addend
    return start


def _product(x: Tensor, weight: Tensor, start: Tensor | None, channels_first: bool) -> Tensor:
    """``start`` + x W^T, in new memory."""
    samples, rows = x.shape[:2]
    if channels_first:
        stack = weight.expand(samples, -1, -1)
        if start is None:
            return torch.bmm(stack, x.transpose(1, 2))
        start = start[:, None] if start.ndim == 1 else start.transpose(1, 2)
        return torch.baddbmm(start, stack, x.transpose(1, 2))
    if start is None:
        return torch.matmul(x, weight.T)
    flat = start if start.ndim == 1 else start.flatten(0, 1)
    return torch.addmm(flat, x.flatten(0, 1), weight.T).view(samples, rows, weight.shape[0])


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
    h = torch.matmul(x, down.T)  # [B, N, R]
    if gate is not None:
        h.mul_(expand_gate(gate, ranks))
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
    return torch.cat([torch.arange(start, start + ranks[k]) for start, k in zip(starts, concepts, strict=True)])
