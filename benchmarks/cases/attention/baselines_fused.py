"""Fused kernels by name, as a GPU has them: one SDPA kernel at a time, and FlexAttention."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.cases.attention.problem import Problem
from benchmarks.registry import Call

SDPA_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def sdpa_by(kernel: str) -> Callable[[Problem], Call]:
    """SDPA through one of ``SDPA_KERNELS`` and no other; a call that it cannot take raises.

    The result stays [B, H, Nq, D] in memory if the kernel makes it so: no copy is counted against it.
    """

    def prepare(problem: Problem) -> Call:
        x = problem.inputs

        def call() -> tuple[Tensor, None]:
            heads_first = (t.transpose(1, 2) for t in (x.q, x.k, x.v))
            with sdpa_kernel([SDPA_KERNELS[kernel]]):
                return scaled_dot_product_attention(*heads_first, scale=x.scale).transpose(1, 2), None

        return problem.wrap(call)

    return prepare


def flex(compile: bool) -> Callable[[Problem], Call]:
    """FlexAttention whose score_mod looks alpha and delta up by label, with the read-out as more columns of V.

    A score_mod sees one logit at a time, so there is no row maximum or minimum: beta and gamma are left out.

    Args:
        compile: As it must be used; uncompiled it makes the logits, which serves to check it at small shapes.
    """

    def prepare(problem: Problem) -> Call:
        x = problem.inputs
        width = x.v.shape[3]
        modify = _score_mod(problem)
        attend = _compiled_flex() if compile else flex_attention

        def call() -> tuple[Tensor, Tensor | None]:
            v = x.v
            if x.readout is not None:
                columns = x.readout.to(v.dtype)[:, :, None]  # [1, Nk, 1, M]
                v = torch.cat([v, columns.expand(*v.shape[:3], -1)], -1)
            heads_first = (t.transpose(1, 2) for t in (x.q, x.k, v))
            both = attend(*heads_first, score_mod=modify, scale=x.scale).transpose(1, 2)
            if x.readout is None:
                return both, None
            return both[..., :width].contiguous(), both[..., width:].float().mean(2)

        return problem.wrap(call)

    return prepare


def _score_mod(problem: Problem) -> Callable[..., Tensor] | None:
    x = problem.inputs
    if x.alpha is None and x.delta is None:
        return None
    assert x.query_labels is not None and x.key_labels is not None
    rows, columns = x.query_labels[0], x.key_labels[0]
    alpha, delta = (None if table is None else table[0] for table in (x.alpha, x.delta))

    def modify(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        r, c = rows[query], columns[key]
        edited = score if alpha is None else score * alpha[r, c]
        return edited if delta is None else edited + delta[r, c]

    return modify


@cache
def _compiled_flex() -> Callable[..., Any]:
    """One compiled function for all inputs of a shape: they differ in values alone."""
    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=False)
    return compiled
