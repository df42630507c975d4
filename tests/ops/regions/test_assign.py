"""``regions.assign_windows`` against every order tried one by one, and what the order of choice is worth."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from weft.ops import regions
from weft.ops.regions.assign import orders

SIZES = ((2, 2), (1, 4), (4, 1))


def assign_by_loops(maps: Tensor, gap: int, present: list[bool]) -> list[list[int]]:
    """The windows of one sample, [n, h, w]: every order, each by a search of its own."""
    here = [o for o in range(len(maps)) if present[o]]
    best, chosen = -math.inf, [[0] * 4 for _ in maps]
    for order in permutations(here):
        turns = maps[list(order)][None]
        windows = regions.best_windows(turns, SIZES, protect_share=0.0, gap=gap)[0].tolist()
        worth = 0.0
        for cells, (top, left, height, width) in zip(turns[0], windows, strict=True):
            inside = float(cells[top : top + height, left : left + width].sum())
            worth += math.log(max(inside / max(float(cells.sum()), 1e-300), 1e-4))
        if worth > best + 1e-9:
            best, chosen = worth, [[0] * 4 for _ in maps]
            for o, window in zip(order, windows, strict=True):
                chosen[o] = window
    return chosen


@given(
    st.integers(1, 2), st.integers(1, 4), st.integers(0, 2), st.booleans(), st.integers(0, 2**20), st.integers(4, 9)
)
def test_windows_are_those_of_the_best_order(
    samples: int, objects: int, gap: int, some_absent: bool, seed: int, side: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(samples, objects, side, side + 1, generator=generator, dtype=torch.float64)
    present = torch.rand(samples, objects, generator=generator) < 0.6 if some_absent else None
    found = regions.assign_windows(maps, SIZES, gap=gap, present=present)
    for sample in range(samples):
        flags = [True] * objects if present is None else present[sample].tolist()
        assert found[sample].tolist() == assign_by_loops(maps[sample], gap, flags)


def test_an_object_with_a_choice_leaves_the_place_another_needs() -> None:
    """The first sees two places, the second only the one that the first likes a little better."""
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0, :2, :2], maps[0, 0, 2:, 2:] = 1.1, 1.0
    maps[0, 1, :2, :2] = 1.0
    in_turn = regions.best_windows(maps, ((2, 2),), protect_share=0.0)
    assert in_turn[0].tolist() == [[0, 0, 2, 2], [0, 0, 0, 0]]
    together = regions.assign_windows(maps, ((2, 2),))
    assert together[0].tolist() == [[2, 2, 2, 2], [0, 0, 2, 2]]


def test_a_map_counts_by_its_shape_and_not_by_its_size() -> None:
    maps = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    # powers of two, so that no rounding differs
    louder = maps * torch.tensor([1.0, 1024.0, 2.0**-20], dtype=torch.float64)[:, None, None]
    assert torch.equal(regions.assign_windows(maps, SIZES), regions.assign_windows(louder, SIZES))


def test_the_map_of_an_absent_object_is_not_read() -> None:
    maps = torch.rand(2, 3, 8, 8)
    present = torch.tensor([[True, False, True], [True, True, False]])
    expected = regions.assign_windows(maps, SIZES, present=present)
    hidden = maps.masked_fill(~present[..., None, None], torch.nan)
    assert torch.equal(regions.assign_windows(hidden, SIZES, present=present), expected)
    assert not expected[~present].any() and bool(expected[present][:, 2].all())


@pytest.mark.parametrize("gap", [0, 1, 3])
def test_windows_keep_their_gap(gap: int) -> None:
    windows = regions.assign_windows(torch.rand(16, 3, 12, 12), SIZES, gap=gap)
    grown = windows + torch.tensor([-gap, -gap, 2 * gap, 2 * gap]) * (windows[..., 2:3] > 0)
    masks, grown_masks = (regions.window_masks(one.int(), (12, 12)) for one in (windows, grown))
    for a in range(3):
        for b in range(3):
            if a != b:
                assert not (masks[:, a] & grown_masks[:, b]).any()
    assert int((windows[..., 2] > 0).sum(1).min()) == 3


def test_a_map_of_zeros_finds_nothing() -> None:
    assert not regions.assign_windows(torch.zeros(1, 2, 8, 8), SIZES).any()
    assert regions.assign_windows(torch.zeros(3, 0, 8, 8), SIZES).shape == (3, 0, 4)


def test_orders() -> None:
    cpu = torch.device("cpu")
    assert len(orders(4, cpu)) == 24
    for objects in (1, 4, 5, 16):
        tried = orders(objects, cpu)
        assert tried[0].tolist() == list(range(objects))
        assert torch.equal(tried.sort(1).values, torch.arange(objects).expand_as(tried))
        assert len(tried.unique(dim=0)) == len(tried)
    assert len(orders(16, cpu)) == 32


def test_many_objects_are_never_worse_off_than_in_their_order() -> None:
    maps = torch.rand(4, 7, 16, 16)

    def worth(windows: Tensor) -> Tensor:
        inside = (maps * regions.window_masks(windows, (16, 16))).sum((2, 3)) / maps.sum((2, 3))
        return inside.clamp_min(1e-4).log().sum(1)

    in_turn = regions.best_windows(maps, SIZES, protect_share=0.0)
    assert (worth(regions.assign_windows(maps, SIZES)) >= worth(in_turn) - 1e-5).all()


def test_no_graph_break() -> None:
    maps = torch.rand(2, 3, 8, 8)
    compiled = torch.compile(lambda x: regions.assign_windows(x, SIZES, gap=1), backend="eager", fullgraph=True)
    assert torch.equal(compiled(maps), regions.assign_windows(maps, SIZES, gap=1))


def test_triton_finds_the_same() -> None:
    maps = torch.rand(2, 3, 8, 8)
    assert torch.equal(
        regions.assign_windows(maps, SIZES, gap=1, backend="triton"),
        regions.assign_windows(maps, SIZES, gap=1, backend="reference"),
    )
