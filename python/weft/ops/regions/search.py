"""Backends and registration of ``best_windows``; arguments are checked by ``regions``.

Plain inference calls the backend straight away; a call that is being traced goes through the registered operator
``weft::best_windows``, so that a compiler need not look inside.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weft._dispatch import Backend, Op, named_in_trace
from weft.kernels.regions.reference import Size, best_windows_reference
from weft.ops._transforms import is_transformed, needs_operator
from weft.ops._triton import is_interpreted
from weft.ops.regions import triton as gpu


def search(
    maps: Tensor,
    sizes: tuple[Size, ...],
    margin: int,
    protected: int,
    protect_factor: float,
    exclusion: float | None,
    gap: int,
    fallback: Size,
    present: Tensor | None,
    backend: str | None,
) -> Tensor:
    """``best_windows_reference`` by the backend asked for, as an operator while tracing."""
    arguments = (maps, sizes, margin, protected, protect_factor, exclusion, gap, fallback, present)
    windows: Tensor
    # what is compiled takes the operator everywhere: making the list of candidates cannot be traced
    if is_transformed() and not torch.compiler.is_compiling():
        windows = BEST_WINDOWS.definition(backend).forward(*arguments)
    elif needs_operator(arguments):
        flat = [side for size in sizes for side in size]
        name = named_in_trace(backend)
        numbers = (margin, protected, protect_factor, exclusion, gap, list(fallback))
        windows = _operator(maps, flat, *numbers, present, name)
    else:
        windows = BEST_WINDOWS.choose_where_known(backend, *arguments).forward(*arguments)
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
    arguments = (maps, pairs, margin, protected, protect_factor, exclusion, gap, tuple(fallback), present)
    return BEST_WINDOWS.choose_where_known(backend or None, *arguments).forward(*arguments)


@_operator.register_fake
def _(maps, *rest):  # type: ignore[no-untyped-def]
    return maps.new_empty((maps.shape[0], maps.shape[1], 4), dtype=torch.int32)
