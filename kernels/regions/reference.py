"""The definition of ``best_windows`` in plain PyTorch. Every other backend answers to this file.

Everything runs on the device of the maps and nothing waits for it; the list of candidates, which depends on sizes
alone, is made once on the CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from weft.kernels.common.capture import kept_on_device

from .arguments import Search, Size


class Candidates(NamedTuple):
    """Every admissible window, in the order top row, left column, place of its size in the list.

    Attributes:
        windows: [P, 4] int32 (top, left, height, width).
        corners: [4, P] int64, where an integral image [(h + 1) * (w + 1)] has the window's four corners: beyond the
            last row and column, then the two that are taken off, then the one that is added back.
        areas: [P] float64, cells.
    """

    windows: Tensor
    corners: Tensor
    areas: Tensor


def best_windows_reference(search: Search) -> Tensor:
    """Give each object in turn the window in which its map has the largest mean.

    First the maps are protected, for o in order, on the maps as they then are:

        Pi_o    = the ``protected`` largest cells of A_o, the earliest where cells are equal
        A_j[x]  = protect_factor * A_j[x]        for x in Pi_o and every object j other than o

    Then windows are chosen, for o in order:

        R_o     = the admissible window with the largest mean of A_o, the earliest where means are equal; the
                  fallback at (0, 0) if no mean is positive
        A_j[x]  = exclusion * A_j[x]             for x in R_o and every j; without a factor, windows with fewer than
                                                 ``gap`` cells between them and R_o are not admissible from then on

    Means are taken from an integral image in float64.

    Returns:
        [B, n, 4] int32, (top, left, height, width); zeros for an empty window.

    Source:
        Released code of MaskDiffusion (Zhou et al. 2023, arXiv:2309.04399); ``exclusion=None``, gaps and empty
        fallbacks are weft's own.
    """
    maps, sizes, margin, protected, protect_factor, exclusion, gap, fallback, present = search
    samples, objects, height, width = maps.shape
    grid = (height, width)
    candidates = list_candidates(grid, sizes, margin, maps.device)
    if present is None:
        present = torch.ones(samples, objects, dtype=torch.bool, device=maps.device)
    maps = protect(maps.to(torch.float64).flatten(2), protected, protect_factor, present).view(maps.shape)

    nothing, without_mean = corner_window((0, 0), maps.device), corner_window(fallback, maps.device)
    blocked = torch.zeros(samples, len(candidates.areas), dtype=torch.bool, device=maps.device)
    chosen = []
    for o in range(objects):
        means = window_means(maps[:, o], candidates).masked_fill(blocked, -torch.inf)  # [B, P]
        best = means.argmax(-1)  # the first of equals
        positive = means.gather(-1, best[:, None]) > 0
        window = torch.where(positive, candidates.windows[best], without_mean)  # [B, 4]
        window = torch.where(present[:, o, None], window, nothing)
        chosen.append(window)
        if exclusion is None:
            blocked = blocked | meets(candidates.windows, window, gap)
        else:
            maps = torch.where(cover(window, grid)[:, None], exclusion * maps, maps)
    return torch.stack(chosen, 1) if chosen else nothing.expand(samples, 0, 4).clone()


def protect(maps: Tensor, count: int, factor: float, present: Tensor) -> Tensor:
    """Let each object in turn weaken all other maps, [B, n, N], at the ``count`` largest cells of its own."""
    for o in range(maps.shape[1]) if count else ():
        own = largest_cells(maps[:, o], count) & present[:, o, None]  # [B, N]
        other = torch.arange(maps.shape[1], device=maps.device) != o  # [n]
        maps = torch.where(own[:, None] & other[:, None], factor * maps, maps)
    return maps


def largest_cells(maps: Tensor, count: int) -> Tensor:
    """Where the ``count`` largest values of [..., N] are,  the earliest of equals first; bool, same axes."""
    order = maps.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(maps, dtype=torch.bool).scatter(-1, order, True)


def window_means(maps: Tensor, candidates: Candidates) -> Tensor:
    """Mean of [B, h, w] inside every candidate, [B, P]."""
    integral = maps.new_zeros(maps.shape[0], maps.shape[1] + 1, maps.shape[2] + 1)
    integral[:, 1:, 1:] = maps.cumsum(1).cumsum(2)
    end, above, before, start = integral.flatten(1)[:, candidates.corners].unbind(1)
    return (end - above - before + start) / candidates.areas


def cover(windows: Tensor, grid: Size) -> Tensor:
    """The cells inside (top, left, height, width), [..., 4] to bool [..., h, w]."""
    top, left, height, width = windows[..., None, None].unbind(-3)  # [..., 1, 1] each
    rows = torch.arange(grid[0], device=windows.device)[:, None]
    columns = torch.arange(grid[1], device=windows.device)
    return (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)


def meets(windows: Tensor, window: Tensor, gap: int) -> Tensor:
    """Whether fewer than ``gap`` cells lie between windows [P, 4] and the window [B, 4] of each sample; bool [B, P].

    A window shares a cell with itself; nothing is near an empty one.
    """
    start, extent = windows[:, :2], windows[:, 2:]  # [P, 2]
    other_start, other_extent = window[:, None, :2], window[:, None, 2:]  # [B, 1, 2]
    shared = torch.minimum(start + extent, other_start + other_extent) - torch.maximum(start, other_start)
    return ((shared > -gap) & (other_extent > 0)).all(-1)


@kept_on_device
def corner_window(size: Size, device: torch.device) -> Tensor:
    """The window of this size at the top left, [4] int32."""
    return torch.tensor([0, 0, *size], dtype=torch.int32).to(device)


@kept_on_device
def list_candidates(grid: Size, sizes: tuple[Size, ...], margin: int, device: torch.device) -> Candidates:
    """All windows of ``sizes`` that leave ``margin`` rows and columns at the bottom and the right uncovered."""
    extents = torch.tensor(sizes, dtype=torch.int32)  # [S, 2]
    rows, columns = (torch.arange(length, dtype=torch.int32) for length in grid)
    top, left, size = torch.meshgrid(rows, columns, torch.arange(len(sizes), dtype=torch.int32), indexing="ij")
    windows = torch.stack([top, left, extents[size, 0], extents[size, 1]], -1).flatten(0, 2)
    bottom, right = (windows[:, :2] + windows[:, 2:]).unbind(1)
    windows = windows[(bottom <= grid[0] - margin) & (right <= grid[1] - margin)]
    top, left, height, width = windows.long().unbind(1)
    row = grid[1] + 1
    start = top * row + left
    corners = torch.stack([start + height * row + width, start + width, start + height * row, start])
    areas = (height * width).double()
    return Candidates(windows.to(device), corners.to(device), areas.to(device))
