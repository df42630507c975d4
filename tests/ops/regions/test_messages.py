"""Every way to call ``regions`` wrongly has its own message: what must hold, what came, what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from weft.ops import regions

MAPS = torch.rand(2, 3, 16, 16)
MASKS = MAPS > 0.5
WINDOWS = torch.zeros(2, 3, 4, dtype=torch.int32)
SIZES = ((4, 12), (6, 8))

Message = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], type[Exception], str]

MESSAGES: dict[str, Message] = {
    "maps_type": (
        regions.best_windows,
        ([1.0], SIZES),
        {},
        TypeError,
        "`maps` must be a tensor [B, n, h, w]; got list",
    ),
    "maps_rank": (
        regions.best_windows,
        (MAPS[0], SIZES),
        {},
        ValueError,
        "`maps` must be [B, n, h, w]; got [3, 16, 16], 3 axes",
    ),
    "maps_dtype": (regions.best_windows, (MAPS.int(), SIZES), {}, TypeError, "must be a float tensor; got int32"),
    "maps_empty": (regions.top_fraction, (MAPS[..., :0], 0.2), {}, ValueError, "at least one row and one column"),
    "sizes_type": (regions.best_windows, (MAPS, 4), {}, TypeError, "`sizes` must be a sequence of (height, width)"),
    "sizes_of": (regions.best_windows, (MAPS, (4, 12)), {}, TypeError, "must be two integers (rows, columns); got 4"),
    "sizes_float": (regions.best_windows, (MAPS, ((4.0, 12),)), {}, TypeError, "two integers (rows, columns); got"),
    "sizes_zero": (regions.best_windows, (MAPS, ((0, 4),)), {}, ValueError, "1 or more; got (0, 4)"),
    "sizes_none": (regions.best_windows, (MAPS, ()), {}, ValueError, "at least one (height, width); got none"),
    "sizes_large": (
        regions.best_windows,
        (MAPS, ((15, 3), (3, 17))),
        {"margin": 2},
        ValueError,
        "one of `sizes` must fit into 14 x 14 cells, the grid 16 x 16 less its margin of 2; got 15 x 3, 3 x 17",
    ),
    "sizes_first": (
        regions.best_windows,
        (MAPS, ((20, 3), (3, 3))),
        {"fallback": "first"},
        ValueError,
        "the first of `sizes` must fit into the grid 16 x 16, since `fallback` is 'first'; got 20 x 3",
    ),
    "margin_type": (regions.best_windows, (MAPS, SIZES), {"margin": 1.5}, TypeError, "must be an integer; got 1.5"),
    "margin_below": (regions.best_windows, (MAPS, SIZES), {"margin": -1}, ValueError, "must be 0 or more; got -1"),
    "share_above": (
        regions.best_windows,
        (MAPS, SIZES),
        {"protect_share": 15},
        ValueError,
        "`protect_share` must be a share of the grid in [0, 1]; got 15",
    ),
    "factor_type": (
        regions.best_windows,
        (MAPS, SIZES),
        {"protect_factor": "half"},
        TypeError,
        "`protect_factor` must be a number; got 'half'",
    ),
    "factor_infinite": (
        regions.best_windows,
        (MAPS, SIZES),
        {"exclusion": float("-inf")},
        ValueError,
        "`exclusion` must be finite; got -inf",
    ),
    "exclusion_name": (
        regions.best_windows,
        (MAPS, SIZES),
        {"exclusion": "avoid"},
        ValueError,
        "`exclusion` must be one of 'forbid', 'scale' or a factor; got 'avoid'",
    ),
    "gap_type": (regions.best_windows, (MAPS, SIZES), {"gap": 0.5}, TypeError, "`gap` must be an integer; got 0.5"),
    "gap_overlap": (
        regions.best_windows,
        (MAPS, SIZES),
        {"gap": 1, "exclusion": "scale"},
        ValueError,
        '`gap` needs exclusion="forbid"; got gap = 1 and the factor -2',
    ),
    "fallback_name": (
        regions.best_windows,
        (MAPS, SIZES),
        {"fallback": None},
        ValueError,
        "`fallback` must be one of 'empty', 'first'; got None",
    ),
    "present_type": (
        regions.best_windows,
        (MAPS, SIZES),
        {"present": [True]},
        TypeError,
        "`present` must be a tensor",
    ),
    "present_dtype": (
        regions.best_windows,
        (MAPS, SIZES),
        {"present": torch.ones(2, 3)},
        TypeError,
        "`present` must be bool; got float32",
    ),
    "present_shape": (
        regions.best_windows,
        (MAPS, SIZES),
        {"present": torch.ones(1, 3, dtype=torch.bool)},
        ValueError,
        "`present` must be [B, n] = [2, 3] to match maps; got [1, 3]",
    ),
    "present_device": (
        regions.best_windows,
        (MAPS, SIZES),
        {"present": torch.ones(2, 3, dtype=torch.bool, device="meta")},
        ValueError,
        "`present` must be on the device of maps, cpu; got meta",
    ),
    "grid_rank": (regions.window_sizes, ((16, 16, 3),), {}, ValueError, "`grid` must be two integers"),
    "grid_type": (regions.window_sizes, (16,), {}, TypeError, "`grid` must be two integers (rows, columns); got 16"),
    "share_zero": (regions.window_sizes, ((16, 16), 0), {}, ValueError, "a share of the grid in (0, 1]; got 0"),
    "share_type": (regions.window_sizes, ((16, 16), True), {}, TypeError, "`share` must be a number; got True"),
    "smallest_zero": (regions.window_sizes, ((16, 16), 0.2, 0), {}, ValueError, "`smallest` must be 1 or more; got 0"),
    "smallest_type": (regions.window_sizes, ((16, 16), 0.2, 4.0), {}, TypeError, "`smallest` must be an integer or"),
    "aspects_none": (regions.window_sizes, ((16, 16),), {"aspects": ()}, ValueError, "`aspects` must be one or more"),
    "aspects_zero": (
        regions.window_sizes,
        ((16, 16),),
        {"aspects": (1, 0)},
        ValueError,
        "numbers above 0; got (1, 0)",
    ),
    "aspects_type": (regions.window_sizes, ((16, 16),), {"aspects": 2}, TypeError, "a sequence of height / width"),
    "aspects_beside": (
        regions.window_sizes,
        ((16, 16), 0.2, 3),
        {"aspects": (1,)},
        ValueError,
        "`smallest` belongs to the series of sizes; leave it out beside `aspects`",
    ),
    "windows_axis": (regions.window_masks, (WINDOWS[..., :3], (4, 4)), {}, ValueError, "(top, left, height, width)"),
    "windows_dtype": (
        regions.window_masks,
        (WINDOWS.float(), (4, 4)),
        {},
        TypeError,
        "an integer tensor; got float32",
    ),
    "masks_dtype": (regions.labels_of, (MAPS,), {}, TypeError, "`masks` must be bool; got float32; compare"),
    "masks_rank": (regions.labels_of, (MASKS[0, 0],), {}, ValueError, "`masks` must be [B, n, h, w]; got [16, 16]"),
    "overlap_name": (
        regions.labels_of,
        (MASKS,),
        {"overlap": "last"},
        ValueError,
        "`overlap` must be one of 'bitmask', 'first'; got 'last'",
    ),
    "too_many_masks": (
        regions.labels_of,
        (MASKS[:, :1].expand(2, 32, 16, 16),),
        {},
        ValueError,
        "a bitmask holds 31 masks at most; got n = 32; use overlap='first'",
    ),
    "labels_bool": (regions.resize_labels, (MASKS[:, 0], (8, 8)), {}, TypeError, "an integer tensor; got bool"),
    "labels_rank": (regions.resize_labels, (WINDOWS[0], (8, 8)), {}, ValueError, "`labels` must be [B, h, w]; got"),
    "labels_empty": (regions.resize_labels, (WINDOWS[:, :0], (8, 8)), {}, ValueError, "one row and one column; got"),
    "size_zero": (regions.resize_labels, (WINDOWS, (8, 0)), {}, ValueError, "`size` must be two integers"),
    "sigma_zero": (regions.soft_edges, (MASKS, 0), {}, ValueError, "`sigma` must be more than 0 cells; got 0"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_message(name: str) -> None:
    function, arguments, options, error, text = MESSAGES[name]
    with pytest.raises(error) as caught:
        function(*arguments, **options)
    assert type(caught.value) is error
    message = str(caught.value)
    assert message.startswith(f"regions.{function.__name__}: ") and text in message
