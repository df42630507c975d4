"""The Triton backends of ``best_windows`` and ``concept_gate``. Triton is imported on the first call that it takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weft.kernels.regions.arguments import Search
from weft.kernels.regions.launch import MAX_CELLS, MAX_GATE_CELLS, MAX_GATE_CONCEPTS, MAX_OBJECTS, padded_cells
from weft.kernels.regions.reference import list_candidates
from weft.ops._triton import is_interpreted, refuse_machine

_NARROW = (torch.float32, torch.float16, torch.bfloat16)


def refuse_search(search: Search) -> list[str]:
    """Why the kernel of ``best_windows`` cannot take a call; empty if it can."""
    maps = search.maps
    _, objects, height, width = maps.shape
    reasons = _refuse_device_and_dtype(maps)
    if maps.dtype not in (*_NARROW, torch.float64):
        reasons.append(f"needs float32, float16, bfloat16 or float64; maps is {maps.dtype}")
    if padded_cells(height, width) > MAX_CELLS:
        reasons.append(
            f"needs a grid of at most {MAX_CELLS} cells, sides padded to powers of two; got {height} x {width}"
        )
    if objects > MAX_OBJECTS:
        reasons.append(f"needs n <= {MAX_OBJECTS} objects; n is {objects}")
    return reasons or refuse_machine(maps.device)


def refuse_gate(maps: Tensor, *rest: Any) -> list[str]:
    """Why the kernels of ``concept_gate`` cannot take a call; empty if they can."""
    _, cells, concepts = maps.shape
    reasons = _refuse_device_and_dtype(maps)
    if maps.dtype not in _NARROW:
        reasons.append(f"needs float32, float16 or bfloat16; maps is {maps.dtype}")
    if cells > MAX_GATE_CELLS:
        reasons.append(f"needs N <= {MAX_GATE_CELLS} cells; N is {cells}")
    if concepts > MAX_GATE_CONCEPTS:
        reasons.append(f"needs K <= {MAX_GATE_CONCEPTS} concepts; K is {concepts}")
    return reasons or refuse_machine(maps.device)


def _refuse_device_and_dtype(maps: Tensor) -> list[str]:
    interpreted = is_interpreted(maps)
    if maps.device.type != "cuda" and not interpreted:
        return [f"needs CUDA tensors; maps is on {maps.device}"]
    if interpreted and maps.dtype == torch.bfloat16:
        return ["needs a dtype other than bfloat16 under Triton's interpreter"]
    return []


def best_windows_triton(search: Search) -> Tensor:
    """Windows of inputs that ``refuse_search`` accepts."""
    from weft.kernels.regions.fwd import best_windows_fwd

    height, width = search.maps.shape[2:]
    candidates = list_candidates((height, width), search.sizes, search.margin, search.maps.device).windows
    return best_windows_fwd(search, candidates)


def concept_gate_triton(maps: Tensor, strengths: Tensor, rule: str | float, overlap: str, out: Tensor) -> None:
    """Fill ``out`` for inputs that ``refuse_gate`` accepts."""
    from weft.kernels.regions.gate import concept_gate_fwd

    concept_gate_fwd(maps, strengths, rule, overlap, out)
