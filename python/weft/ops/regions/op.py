"""``regions``: choose regions of a grid from maps, and turn them into masks and labels for ``attention``.

Everything works on whole batches on the device of its arguments and waits for nothing, so it may run inside a step
of a sampler, in ``torch.compile(fullgraph=True)`` and in a CUDA graph (call it once before the capture: sizes become
small constants on the device then). Nothing here has a gradient.

Autocast changes nothing: every function gives the bits it gives without. Inside the transforms of ``torch.func``
(vmap, grad, jvp and so on) they are plain PyTorch, where naming another backend than ``reference`` raises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from weft.kernels.regions.arguments import Search
from weft.kernels.regions.reference import cover, largest_cells
from weft.kernels.regions.reference_gate import lower_median
from weft.ops._autocast import follows_autocast
from weft.ops.regions import checks, search
from weft.ops.regions.assign import assign_windows
from weft.ops.regions.gate import concept_gate

__all__ = [
    "above_median",
    "assign_windows",
    "best_windows",
    "concept_gate",
    "labels_of",
    "resize_labels",
    "soft_edges",
    "top_fraction",
    "window_masks",
    "window_sizes",
]

Size = tuple[int, int]

# the shorter side of a window beside the root of its area: 4 to 6 cells where the area is a fifth of 16 x 16
SHORTER_SIDE = (4 / math.sqrt(51.2), 6 / math.sqrt(51.2))


def window_sizes(
    grid: Size, share: float = 0.2, smallest: int | None = None, *, aspects: Sequence[float] | None = None
) -> tuple[Size, ...]:
    """Sizes of windows that cover about ``share`` of a grid, for ``best_windows``.

    With A = share * h * w, for each s from ``smallest`` to 0.84 sqrt(A), upwards: s rows and floor(A / s) columns,
    then the same with rows and columns exchanged. A side longer than the grid is cut, and the other one takes up the
    area. On 16 x 16: (4, 12), (12, 4), (5, 10), (10, 5), (6, 8), (8, 6).

    Args:
        grid: (h, w), cells.
        share: Of the grid's area, in (0, 1].
        smallest: Shortest side, cells. None for 0.56 sqrt(A), rounded: 4 on 16 x 16.
        aspects: height / width of each size, in place of the series above.

    Returns:
        (height, width) of each size, without repetitions; never empty, and each fits the grid.

    Raises:
        TypeError, ValueError: An argument is not as above.

    Source:
        Released code of MaskDiffusion (arXiv:2309.04399), which knows 16 x 16 only; other grids are weft's own.
    """
    op = "regions.window_sizes"
    grid = checks.check_size(op, "grid", grid)
    area = checks.check_share(op, "share", share, least_is_zero=False) * grid[0] * grid[1]
    root = math.sqrt(area)
    if aspects is not None:
        if smallest is not None:
            raise ValueError(f"{op}: `smallest` belongs to the series of sizes; leave it out beside `aspects`")
        heights = [max(1, round(root * math.sqrt(aspect))) for aspect in checks.check_aspects(op, aspects)]
        wanted = [(height, _other_side(area, height)) for height in heights]
    else:
        least, most = (ratio * root for ratio in SHORTER_SIDE)
        shortest = max(1, round(least)) if smallest is None else checks.check_side(op, smallest)
        # on tiny grids the series would run past the area itself: (2, 1) for an area of 1.4 cells
        longest = min(math.ceil(most - 1e-9), math.floor(area + 1e-9))
        sides = range(shortest, max(shortest, longest) + 1)
        wanted = [size for s in sides for size in ((s, _other_side(area, s)), (_other_side(area, s), s))]
    return tuple(dict.fromkeys(_fit(size, area, grid) for size in wanted))


def _other_side(area: float, side: int) -> int:
    # a share such as 0.29 times a whole number may miss the whole number that is meant
    return max(1, math.floor(area / side + 1e-9))


def _fit(size: Size, area: float, grid: Size) -> Size:
    height, width = size
    if height > grid[0]:
        height, width = grid[0], _other_side(area, grid[0])
    if width > grid[1]:
        height, width = min(grid[0], max(height, _other_side(area, grid[1]))), grid[1]
    return height, width


@follows_autocast("regions")
def best_windows(
    maps: Tensor,
    sizes: Sequence[Size],
    *,
    margin: int = 0,
    protect_share: float = 0.15,
    protect_factor: float = 0.5,
    exclusion: str | float = "forbid",
    gap: int = 0,
    fallback: str = "empty",
    present: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Give each object in turn the window in which its map has the largest mean.

    Each object first weakens all other maps at the cells where its own is largest. Then, in the same order, each
    takes the best window that is left; ``weft.kernels.regions.reference`` has the equations. Means are computed in
    float64; where they are equal the top row decides, then the left column, then the place in ``sizes``.

    Args:
        maps: [B, n, h, w], any float dtype, finite: one map an object, in the order in which they choose.
        sizes: (height, width) of the windows, cells; those that fit nowhere are passed over. See ``window_sizes``.
        margin: Rows at the bottom and columns at the right that no window reaches. Released code: 2.
        protect_share: Part of the grid that each object protects, floor(share * h * w) cells; 0 for none.
        protect_factor: What a protected cell is worth to the other objects.
        exclusion: What taken cells are to later objects: "forbid" admits no window that touches them; "scale"
            multiplies all maps there by -2, again for each window, as the released code does; a number is such a
            factor.
        gap: Cells that stay free between two windows; needs ``exclusion="forbid"``.
        fallback: What an object gets that finds no window with a positive mean: "empty" for none, "first" for
            sizes[0] at the top left, as in the released code.
        present: bool [B, n]; False where a sample has fewer objects: such a one gets an empty window, protects
            nothing and takes nothing, and its map is not read. None for all.
        backend: "triton", "reference", or None to let ``weft.backend``, WEFT_BACKEND or the library choose. What
            these two name is passed over here where ``best_windows`` has no such backend.

    Returns:
        [B, n, 4] int32 (top, left, height, width) in cells; all zeros for an empty window.

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: A shape, device or range that does not fit, no size that fits the grid, or an unknown name.
        BackendUnavailableError: The named backend refuses this call.

    Gradients: none; the maps are read as numbers.
    Backends: triton (one launch; NVIDIA sm_80 or newer; float32, bfloat16, float16, float64; n up to 31; grids up to
        64 x 64, sides padded to powers of two; by name also on the CPU where TRITON_INTERPRET=1), reference (any
        device and float dtype). Both find the same windows but where float64 sums differ in their last bits.

    Source:
        Released code of MaskDiffusion (arXiv:2309.04399); overlap forbidden, gaps and empty windows are weft's
        own.
    """
    op = "regions.best_windows"
    checks.check_maps(op, maps)
    margin = checks.check_count(op, "margin", margin)
    checks.check_choice(op, "fallback", fallback, checks.FALLBACKS)
    grid = (maps.shape[2], maps.shape[3])
    factor = checks.check_exclusion(op, exclusion)
    gap = checks.check_gap(op, gap, factor)
    checked = checks.check_sizes(op, sizes, grid, margin, needs_first=fallback == "first")
    if present is not None:
        checks.check_present(op, present, maps)
    found = Search(
        maps.detach(),
        checked,
        margin,
        _cells(checks.check_share(op, "protect_share", protect_share), grid),
        checks.check_number(op, "protect_factor", protect_factor),
        factor,
        gap,
        checked[0] if fallback == "first" else (0, 0),
        present,
    )
    return search.run(found, backend)


@follows_autocast("regions")
def window_masks(windows: Tensor, grid: Size) -> Tensor:
    """The cells that windows cover.

    Args:
        windows: [B, n, 4], integer (top, left, height, width), as ``best_windows`` returns them or a user's boxes.
            What lies outside the grid is cut off.
        grid: (h, w).

    Returns:
        bool [B, n, h, w].

    Raises:
        TypeError, ValueError: An argument is not as above.
    """
    op = "regions.window_masks"
    checks.check_windows(op, windows)
    grid = checks.check_size(op, "grid", grid)
    # int64: the far side of a box of uint8 may lie beyond 255
    return cover(windows.to(torch.int64), grid)


@follows_autocast("regions")
def top_fraction(maps: Tensor, share: float) -> Tensor:
    """The floor(share * h * w) largest cells of each map; of equals, the earliest in reading order.

    Args:
        maps: [B, n, h, w], any float dtype.
        share: Part of the grid, [0, 1].

    Returns:
        bool [B, n, h, w].

    Raises:
        TypeError, ValueError: An argument is not as above.
    """
    op = "regions.top_fraction"
    checks.check_maps(op, maps)
    count = _cells(checks.check_share(op, "share", share), (maps.shape[2], maps.shape[3]))
    return largest_cells(maps.detach().flatten(2), count).view(maps.shape)


@follows_autocast("regions")
def above_median(maps: Tensor) -> Tensor:
    """The cells of each map above its median: at most half of them, none of a constant map or one with NaN.

    The median is the lower of the two middle values, as in ``torch.median``.

    Args:
        maps: [B, n, h, w], any float dtype.

    Returns:
        bool [B, n, h, w].

    Raises:
        TypeError, ValueError: ``maps`` is not as above.
    """
    checks.check_maps("regions.above_median", maps)
    flat = maps.detach().flatten(2)
    return (flat > lower_median(flat)).view(maps.shape)


@follows_autocast("regions")
def soft_edges(masks: Tensor, sigma: float) -> Tensor:
    """Blur masks by a Gaussian; a region that runs into the border of the grid does not fade there.

    Args:
        masks: bool [B, n, h, w].
        sigma: Standard deviation, cells, > 0.

    Returns:
        float32 [B, n, h, w], in [0, 1]: each cell is a mean of the mask, the weights of cells outside the grid being
        shared out among those inside.

    Raises:
        TypeError, ValueError: An argument is not as above.
    """
    op = "regions.soft_edges"
    checks.check_masks(op, masks)
    if checks.check_number(op, "sigma", sigma) <= 0:
        raise ValueError(f"{op}: `sigma` must be more than 0 cells; got {sigma}; leave the masks as they are for none")
    across_rows, across_columns = (_gaussian(length, sigma, masks.device) for length in masks.shape[2:])
    # a row of weights sums to 1 but for its rounding
    return (across_rows @ masks.float() @ across_columns.T).clamp(0, 1)


def _gaussian(length: int, sigma: float, device: torch.device) -> Tensor:
    """Row i holds the weights of all cells around cell i, [length, length], each row with sum 1."""
    cells = torch.arange(length, dtype=torch.float32, device=device)
    return (-((cells[:, None] - cells) ** 2) / (2 * sigma**2)).softmax(1)


@follows_autocast("regions")
def labels_of(masks: Tensor, *, overlap: str = "bitmask") -> Tensor:
    """One number a cell that encodes which masks cover it, as ``attention`` takes it for ``query_labels``.

    Args:
        masks: bool [B, n, h, w].
        overlap: "bitmask" sums 2 ** o over the objects o that cover a cell, n at most 31: every combination has a
            label of its own, 2 ** n in all. "first" takes 1 + the first object that covers it, n + 1 in all. 0 where
            there is none, in both.

    Returns:
        int32 [B, h, w]; ``.flatten(1)`` gives [B, Nq].

    Raises:
        TypeError, ValueError: An argument is not as above, or more masks than a bitmask holds.
    """
    op = "regions.labels_of"
    checks.check_masks(op, masks)
    checks.check_choice(op, "overlap", overlap, checks.OVERLAPS)
    objects = masks.shape[1]
    if overlap == "bitmask":
        if objects > checks.MAX_BITS:
            raise ValueError(
                f"{op}: a bitmask holds {checks.MAX_BITS} masks at most; got n = {objects}; use overlap='first'"
            )
        bits = torch.arange(objects, dtype=torch.int32, device=masks.device)[:, None, None]
        return (masks.to(torch.int32) << bits).sum(1, dtype=torch.int32)
    background = masks.new_ones(masks.shape[0], 1, *masks.shape[2:])
    first = torch.cat([masks, background], 1).to(torch.int32).argmax(1)  # the first of equals; n for the background
    return ((first + 1) % (objects + 1)).to(torch.int32)


@follows_autocast("regions")
def resize_labels(labels: Tensor, size: Size) -> Tensor:
    """Labels on another grid, by the nearest cell: what ``F.interpolate(mode="nearest")`` takes, without floats.

    Args:
        labels: integer [B, h, w].
        size: (rows, columns) of the new grid.

    Returns:
        [B, rows, columns], dtype of ``labels``, contiguous.

    Raises:
        TypeError, ValueError: An argument is not as above.
    """
    op = "regions.resize_labels"
    checks.check_labels(op, labels)
    size = checks.check_size(op, "size", size)
    rows, columns = (_nearest(length, new, labels.device) for length, new in zip(labels.shape[1:], size, strict=True))
    return labels[:, rows[:, None], columns]


def _nearest(length: int, new: int, device: torch.device) -> Tensor:
    """Which of ``length`` cells each of ``new`` cells takes, [new]; rounded as ``F.interpolate`` rounds, in fp32."""
    positions = torch.arange(new, dtype=torch.float32, device=device) * (length / new)
    return positions.long().clamp(max=length - 1)


def _cells(share: float, grid: Size) -> int:
    # 0.29 * 100 is a little less than 29
    return math.floor(share * grid[0] * grid[1] + 1e-9)
