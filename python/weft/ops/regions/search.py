"""Backends and registration of ``best_windows``; arguments are checked by ``regions``.

Plain inference calls the backend straight away; a call that is being traced goes through the registered operator
``weft::best_windows``, so that a compiler need not look inside.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weft._dispatch import Backend, Op, named_in_trace
from weft.kernels.regions.arguments import Search
from weft.kernels.regions.reference import best_windows_reference
from weft.ops._transforms import is_transformed, needs_operator
from weft.ops._triton import is_interpreted
from weft.ops.regions import triton as gpu


def run(search: Search, backend: str | None) -> Tensor:
    """``best_windows_reference`` by the requested backend, as an operator while tracing."""
    windows: Tensor
    # what is compiled takes the operator everywhere: making the list of candidates cannot be traced
    if is_transformed() and not torch.compiler.is_compiling():
        windows = BEST_WINDOWS.definition(backend).forward(search)
    elif needs_operator(search):
        maps, sizes, *numbers, fallback, present = search
        flat = [side for size in sizes for side in size]
        windows = _operator(maps, flat, *numbers, list(fallback), present, named_in_trace(backend))
    else:
        windows = BEST_WINDOWS.choose_where_known(backend, search).forward(search)
    return windows


def _refuse_reference(*arguments: Any) -> list[str]:
    return []


BEST_WINDOWS = Op(
    "regions.best_windows",
    (
        Backend("triton", gpu.refuse_search, gpu.best_windows_triton, only_by_name=is_interpreted),
        Backend("reference", _refuse_reference, best_windows_reference),
    ),
)


@torch.library.custom_op(
    "weft::best_windows",
    mutates_args=(),
    schema="(Tensor maps, int[] sizes, int margin, int protected, float protect_factor, float? exclusion, "
    "int gap, int[] fallback, Tensor? present, str backend) -> Tensor",
)
def _operator(maps, sizes, margin, protected, protect_factor, exclusion, gap, fallback, present, backend):  # type: ignore[no-untyped-def]
    pairs = tuple(zip(sizes[::2], sizes[1::2], strict=True))
    search = Search(maps, pairs, margin, protected, protect_factor, exclusion, gap, tuple(fallback), present)
    return BEST_WINDOWS.choose_where_known(backend or None, search).forward(search)


@_operator.register_fake
def _(maps, *rest):  # type: ignore[no-untyped-def]
    return maps.new_empty((maps.shape[0], maps.shape[1], 4), dtype=torch.int32)
