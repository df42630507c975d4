"""``assign_windows``: the order in which objects choose their windows, chosen too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor

from weft.kernels.common.capture import kept_on_device
from weft.kernels.regions.arguments import Search, Size
from weft.kernels.regions.reference import cover
from weft.ops._autocast import follows_autocast
from weft.ops.regions import checks, search

_ALL_ORDERS_UP_TO = 4  # objects; 24 orders
# what an object without a window is worth: less than the share of a map in any useful window
_LEAST_SHARE = 1e-4


@follows_autocast("regions")
def assign_windows(
    maps: Tensor,
    sizes: Sequence[Size],
    *,
    gap: int = 0,
    present: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Give every object a window of its own so that together they hold the most of their maps.

    Objects that choose one after the other (``best_windows``) may leave the last with nothing where its map is large,
    though another order would have served all. Here every order of choice is tried, and that one wins in which the
    product over the objects of the share of its map inside its window is largest; the first of equals. Of more than
    four objects, 2 n orders are tried: the order given and its reverse, begun at each object.

    Args:
        maps: [B, n, h, w], any float dtype, finite and not negative.
        sizes: (height, width) of the windows, cells; see ``window_sizes``.
        gap: Cells that stay free between two windows.
        present: bool [B, n]; False where a sample has fewer objects. None for all.
        backend: As ``best_windows`` takes it.

    Returns:
        [B, n, 4] int32 (top, left, height, width) in cells; all zeros where an object is absent or does not fit.

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: A shape, device or range that does not fit, or no size that fits the grid.
        BackendUnavailableError: The named backend refuses this call.

    Gradients: none. Memory: bytes and float64 of [B * orders, n, h, w].

    Source:
        weft's own; the windows of each order are those of MaskDiffusion (arXiv:2309.04399) without its protections.
    """
    op = "regions.assign_windows"
    checks.check_maps(op, maps)
    samples, objects, *sides = maps.shape
    grid = (sides[0], sides[1])
    checked = checks.check_sizes(op, sizes, grid, 0, needs_first=False)
    gap = checks.check_count(op, "gap", gap)
    if present is None:
        present = maps.new_ones(samples, objects, dtype=torch.bool)
    checks.check_present(op, present, maps)
    if not objects:
        return maps.new_zeros(samples, 0, 4, dtype=torch.int32)

    maps = maps.detach().masked_fill(~present[..., None, None], 0.0)
    tried = orders(objects, maps.device)  # [P, n]
    turns = maps[:, tried].flatten(0, 1)  # [B * P, n, h, w]
    some = present[:, tried].flatten(0, 1)
    windows = search.run(Search(turns, checked, 0, 0, 1.0, None, gap, (0, 0), some), backend)
    whole = turns.sum((2, 3), dtype=torch.float64).clamp_min(torch.finfo(torch.float64).tiny)
    shares = (turns * cover(windows, grid)).sum((2, 3), dtype=torch.float64) / whole  # [B * P, n]
    # an absent object is worth the same in every order
    worth = shares.clamp_min(_LEAST_SHARE).log().sum(1).view(samples, len(tried))
    best = worth.argmax(1)  # [B]
    chosen = windows.view(samples, len(tried), objects, 4)[torch.arange(samples, device=maps.device), best]
    return torch.zeros_like(chosen).scatter(1, tried[best][..., None].expand_as(chosen), chosen)


@kept_on_device
def orders(objects: int, device: torch.device) -> Tensor:
    """The orders of choice that are tried, [P, n] int64; the order given comes first."""
    given = list(range(objects))
    if objects <= _ALL_ORDERS_UP_TO:
        tried = list(permutations(given))
    else:
        tried = [(*row[i:], *row[:i]) for row in (given, given[::-1]) for i in range(objects)]
    return torch.tensor(tried).to(device)
