"""The Triton backend of ``best_windows``. Triton itself is imported on the first call that it takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weft.kernels.regions.launch import MAX_CELLS, MAX_OBJECTS, padded_cells
from weft.kernels.regions.reference import Size, list_candidates
from weft.ops._triton import is_interpreted, refuse_machine

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def refuse(maps: Tensor, *rest: Any) -> list[str]:
    """Why the Triton kernel cannot take a call; empty if it can."""
    _, objects, height, width = maps.shape
    interpreted = is_interpreted(maps)
    reasons = []
    if maps.device.type != "cuda" and not interpreted:
        reasons.append(f"needs CUDA tensors; maps is on {maps.device}")
    if interpreted and maps.dtype == torch.bfloat16:
        reasons.append("needs a dtype other than bfloat16 under Triton's interpreter")
    if maps.dtype not in _DTYPES:
        reasons.append(f"needs float32, float16, bfloat16 or float64; maps is {maps.dtype}")
    if padded_cells(height, width) > MAX_CELLS:
        reasons.append(
            f"needs a grid of at most {MAX_CELLS} cells, sides padded to powers of two; got {height} x {width}"
        )
    if objects > MAX_OBJECTS:
        reasons.append(f"needs n <= {MAX_OBJECTS} objects; n is {objects}")
    return reasons or refuse_machine(maps.device)


def best_windows_triton(
    maps: Tensor,
    sizes: tuple[Size, ...],
    margin: int,
    protected: int,
    protect_factor: float,
    exclusion: float | None,
    gap: int,
    fallback: Size,
    present: Tensor | None,
) -> Tensor:
    """Windows of inputs that ``refuse`` accepts."""
    from weft.kernels.regions.fwd import best_windows_fwd

    candidates = list_candidates((maps.shape[2], maps.shape[3]), sizes, margin, maps.device).windows
    return best_windows_fwd(maps, candidates, protected, protect_factor, exclusion, gap, fallback, present)
