"""``regions.best_windows`` against three plain loops in exact arithmetic, and the facts of the released code."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import weft
from weft.kernels.regions.reference import largest_cells, list_candidates
from weft.ops import regions
from weft.testing import RegionSearch
from weft.testing.strategies import region_searches

SIZES_16 = ((4, 12), (12, 4), (5, 10), (10, 5), (6, 8), (8, 6))
RELEASED = {"margin": 2, "exclusion": "scale", "fallback": "first"}


Cells = list[list[Fraction]]


def search_by_loops(maps: list[Cells], case: RegionSearch, present: list[bool]) -> list[list[int]]:
    """The windows of one sample, one cell and one window after the other."""
    height, width = case.grid
    maps = [[row[:] for row in cells] for cells in maps]
    factor = {"scale": -2.0, "forbid": None}.get(case.exclusion, case.exclusion)
    count = math.floor(case.protect_share * height * width + 1e-9)
    for o in range(len(maps)):
        reading_order = [(i, j) for i in range(height) for j in range(width)]
        ranked = sorted(reading_order, key=lambda cell: -maps[o][cell[0]][cell[1]])  # sorted keeps equals in order
        for i, j in ranked[:count] if present[o] else ():
            for other in range(len(maps)):
                if other != o:
                    maps[other][i][j] *= Fraction(case.protect_factor)
    chosen: list[list[int]] = []
    taken: set[tuple[int, int]] = set()
    for o in range(len(maps)):
        best, window = Fraction(0), [0, 0, *(case.sizes[0] if case.fallback == "first" else (0, 0))]
        for i in range(height):
            for j in range(width):
                for h, w in case.sizes:
                    if i + h > height - case.margin or j + w > width - case.margin:
                        continue
                    cells = [(y, x) for y in range(i, i + h) for x in range(j, j + w)]
                    if factor is None and taken.intersection(cells):
                        continue
                    mean = sum((maps[o][y][x] for y, x in cells), Fraction(0)) / len(cells)
                    if mean > best:
                        best, window = mean, [i, j, h, w]
        if not present[o]:
            window = [0, 0, 0, 0]
        chosen.append(window)
        top, left, h, w = window
        reach = case.gap if h else 0
        for y in range(top - reach, top + h + reach):
            for x in range(left - reach, left + w + reach):
                taken.add((y, x))
                if factor is not None:
                    for cells in maps:
                        cells[y][x] *= Fraction(factor)
    return chosen


def expected_windows(case: RegionSearch) -> list[list[list[int]]]:
    present = case.present()
    flags = [[True] * case.objects] * case.samples if present is None else present.tolist()
    exact = [[[[Fraction(x) for x in row] for row in m] for m in sample] for sample in case.maps().tolist()]
    return [search_by_loops(maps, case, here) for maps, here in zip(exact, flags, strict=True)]


def check(case: RegionSearch) -> None:
    found = regions.best_windows(case.maps(), case.sizes, present=case.present(), **case.options())
    assert found.dtype == torch.int32 and found.shape == (case.samples, case.objects, 4)
    assert found.tolist() == expected_windows(case)


@given(region_searches(sides=(4, 9)))
def test_windows_are_those_of_plain_loops(case: RegionSearch) -> None:
    check(case)


@pytest.mark.parametrize("exclusion", ["forbid", "scale"])
@pytest.mark.parametrize("grid", [(16, 16), (24, 13), (12, 24)])
def test_windows_of_real_grids_are_those_of_plain_loops(grid: tuple[int, int], exclusion: str) -> None:
    check(RegionSearch(1, 3, grid, regions.window_sizes(grid), margin=2, exclusion=exclusion, fallback="first"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_agree_where_they_hold_the_values(dtype: torch.dtype) -> None:
    maps = torch.randint(0, 9, (2, 3, 16, 16)).float()
    expected = regions.best_windows(maps, SIZES_16)
    assert torch.equal(regions.best_windows(maps.to(dtype), SIZES_16), expected)


def test_samples_do_not_see_each_other() -> None:
    maps = torch.rand(3, 2, 16, 16)
    together = regions.best_windows(maps, SIZES_16, **RELEASED)
    apart = [regions.best_windows(maps[i : i + 1], SIZES_16, **RELEASED) for i in range(3)]
    assert torch.equal(together, torch.cat(apart))


def test_inputs_stay_as_they_are() -> None:
    maps = torch.rand(1, 2, 16, 16)
    before = maps.clone()
    regions.best_windows(maps, SIZES_16, **RELEASED)
    assert torch.equal(maps, before)


# --- facts of the released code -----------------------------------------------------------------------------------


def test_sizes_on_16x16_are_the_released_ones() -> None:
    assert regions.window_sizes((16, 16)) == SIZES_16


def test_292_windows_are_admissible_with_margin_2() -> None:
    candidates = list_candidates((16, 16), SIZES_16, 2, torch.device("cpu"))
    assert len(candidates.areas) == 292
    assert set(candidates.areas.tolist()) == {48.0, 50.0}
    windows = candidates.windows
    assert int((windows[:, 0] + windows[:, 2]).max()) == 14 and int((windows[:, 1] + windows[:, 3]).max()) == 14


def test_38_cells_are_protected_the_earliest_of_equals() -> None:
    maps = torch.ones(1, 2, 16, 16)
    # equal everywhere, so the first protects 38 cells from (0, 0) to (2, 5), and the best left to the second is next
    windows = regions.best_windows(maps, ((1, 1),), exclusion=1.0)
    assert windows[0, 1].tolist() == [2, 6, 1, 1]
    assert int(largest_cells(maps[0].flatten(1), 38)[0].nonzero().max()) == 37


def test_protection_sees_maps_already_protected() -> None:
    """The first protects its peak at cell 0, so the second's largest cell is another one when its turn comes."""
    maps = torch.zeros(1, 3, 4, 4)
    maps[0, 0, 0, 0] = 8.0
    maps[0, 1, 0, 0], maps[0, 1, 1, 1] = 6.0, 5.0
    maps[0, 2, 0, 0], maps[0, 2, 1, 1] = 10.0, 9.0
    windows = regions.best_windows(maps, ((1, 1),), protect_share=1 / 16, exclusion=1.0)
    # 10 and 9 both end at half (5 and 4.5); had the second protected cell 0, they would be 2.5 and 9
    assert windows[0, 2].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_without_a_positive_mean_the_fallback_comes(value: float) -> None:
    maps = torch.full((1, 1, 16, 16), value)
    assert regions.best_windows(maps, SIZES_16, **RELEASED).tolist() == [[[0, 0, 4, 12]]]
    assert regions.best_windows(maps, SIZES_16).tolist() == [[[0, 0, 0, 0]]]


@pytest.mark.parametrize("margin", [0, 2])
def test_margin_bounds_the_reach(margin: int) -> None:
    maps = torch.zeros(1, 1, 16, 16)
    maps[..., 15, 15] = 1.0
    maps[..., 13, 13] = 0.5
    top, left, height, width = regions.best_windows(maps, SIZES_16, margin=margin)[0, 0].tolist()
    assert (top + height, left + width) == (16 - margin, 16 - margin)


def test_head_columns_give_the_windows_of_all_tokens() -> None:
    """Other tokens' maps lose at protected and taken cells too, and never choose: two columns stand for 77."""
    maps = torch.rand(2, 77, 16, 16)
    heads = (3, 7)
    rest = [j for j in range(77) if j not in heads]
    present = torch.zeros(2, 77, dtype=torch.bool)
    present[:, :2] = True
    for options in (RELEASED, {}):
        all_tokens = regions.best_windows(maps[:, [*heads, *rest]], SIZES_16, present=present, **options)
        assert torch.equal(all_tokens[:, :2], regions.best_windows(maps[:, list(heads)], SIZES_16, **options))
        assert not all_tokens[:, 2:].any()


def test_scaled_cells_change_sign_again_under_a_second_window() -> None:
    """-2 twice is +4: the quirk for three objects, which forbidding overlap does not have."""
    maps = torch.zeros(1, 3, 4, 4)
    maps[..., 1, 1] = 1.0
    maps[0, 0, 0, 0] = 0.5
    options = {"protect_share": 0.0, "fallback": "first"}
    corner = ((2, 2), (4, 4))
    scaled = regions.best_windows(maps, corner, exclusion="scale", **options)
    # the second finds only negative means, falls back onto the first's window and turns it positive for the third
    assert scaled.tolist() == [[[0, 0, 2, 2]] * 3]
    third = regions.best_windows(maps, corner, exclusion="scale", protect_share=0.0)
    assert third.tolist() == [[[0, 0, 2, 2], [0, 0, 0, 0], [0, 0, 0, 0]]]


def test_forbidden_windows_share_no_cell() -> None:
    maps = torch.rand(8, 4, 16, 16)
    masks = regions.window_masks(regions.best_windows(maps, SIZES_16), (16, 16))
    assert int(masks.sum(1).max()) == 1
    # a fifth each: four fit in most samples, two in every one
    assert bool(masks[:, :2].flatten(2).any(-1).all())


def test_the_map_of_an_absent_object_is_not_read() -> None:
    maps = torch.rand(1, 3, 16, 16)
    present = torch.tensor([[True, False, True]])
    expected = regions.best_windows(maps[:, [0, 2]], SIZES_16)
    maps[:, 1] = torch.nan
    found = regions.best_windows(maps, SIZES_16, present=present)
    assert torch.equal(found[:, [0, 2]], expected)
    assert found[0, 1].tolist() == [0, 0, 0, 0]


# --- sizes --------------------------------------------------------------------------------------------------------


@given(
    st.tuples(st.integers(1, 80), st.integers(1, 80)), st.floats(0.01, 1.0), st.one_of(st.none(), st.integers(1, 9))
)
@example((2, 46), 0.015625, None)
def test_sizes_fit_and_come_near_their_share(grid: tuple[int, int], share: float, smallest: int | None) -> None:
    sizes = regions.window_sizes(grid, share, smallest)
    assert len(set(sizes)) == len(sizes) > 0
    area = share * grid[0] * grid[1]
    for height, width in sizes:
        assert 1 <= height <= grid[0] and 1 <= width <= grid[1]
        assert height * width <= max(area + 1e-6, smallest or 1, 1)
        # whole rows and columns lose less than one side to rounding
        assert height * width > area - max(height, width) - 1


@pytest.mark.parametrize("side", range(4, 65))
def test_sizes_hold_both_orientations_on_squares(side: int) -> None:
    sizes = regions.window_sizes((side, side))
    assert {(width, height) for height, width in sizes} == set(sizes)
    assert len(sizes) > 1
    shortest = min(min(size) for size in sizes)
    assert abs(shortest - side / 4) <= 0.5


def test_aspects_replace_the_series() -> None:
    assert regions.window_sizes((16, 16), 0.25, aspects=(1, 4, 0.25)) == ((8, 8), (16, 4), (4, 16))


# --- tracing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, RELEASED], ids=["clean", "released"])
def test_compiles_as_one_graph(options: dict[str, object]) -> None:
    def refresh(maps: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        windows = regions.best_windows(maps, regions.window_sizes((16, 16)), present=present, **options)
        masks = regions.window_masks(windows, (16, 16))
        labels = regions.resize_labels(regions.labels_of(masks), (64, 64))
        free = regions.top_fraction(maps, 0.2) & regions.above_median(maps)
        return windows, labels, regions.labels_of(free, overlap="first"), regions.soft_edges(masks, 1.5)

    maps, present = torch.rand(2, 3, 16, 16), torch.tensor([[True, True, False], [True, True, True]])
    compiled = torch.compile(refresh, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(maps, present), refresh(maps, present), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layout", ["contiguous", "permuted"])
def test_operator_is_registered_well(layout: str) -> None:
    maps = torch.rand(2, 2, 8, 6)
    if layout == "permuted":
        maps = maps.permute(1, 0, 3, 2)
    present = torch.ones(2, 2, dtype=torch.bool)
    operator = torch.ops.weft.best_windows.default
    sizes = [2, 3, 3, 2]
    torch.library.opcheck(operator, (maps, sizes, 1, 4, 0.5, -2.0, 0, [2, 3], present, ""))
    torch.library.opcheck(operator, (maps, sizes, 0, 4, 0.5, None, 1, [0, 0], None, "reference"))


def test_nothing_waits_for_the_device() -> None:
    """On meta tensors any read of a value would raise: the whole chain runs without one."""
    maps = torch.empty(2, 3, 16, 16, device="meta")
    masks = regions.window_masks(torch.empty(2, 3, 4, dtype=torch.int32, device="meta"), (16, 16))
    assert regions.resize_labels(regions.labels_of(masks), (64, 64)).shape == (2, 64, 64)
    assert regions.best_windows(maps, SIZES_16).shape == (2, 3, 4)
    assert regions.best_windows(maps, SIZES_16, **RELEASED).device.type == "meta"
    assert regions.soft_edges(regions.top_fraction(maps, 0.2) | regions.above_median(maps), 1.0).shape == maps.shape


# --- backends -----------------------------------------------------------------------------------------------------


def test_a_named_backend_is_an_order() -> None:
    maps = torch.rand(1, 1, 16, 16)
    with pytest.raises(weft.BackendUnavailableError, match=r"best_windows: has no `cuda` backend"):
        regions.best_windows(maps, SIZES_16, backend="cuda")
    with pytest.raises(ValueError, match="must be one of auto"):
        regions.best_windows(maps, SIZES_16, backend="fast")


def test_a_backend_meant_for_other_ops_does_not_stop_this_one() -> None:
    maps = torch.rand(1, 2, 16, 16)
    expected = regions.best_windows(maps, SIZES_16)
    with weft.backend("cpu"):
        assert torch.equal(regions.best_windows(maps, SIZES_16), expected)
