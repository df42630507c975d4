"""Masks, thresholds and labels of ``regions``: each against the sentence that defines it, cell by cell."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from weft.ops import attention, regions
from weft.ops.attention.edit import Edit

sides = st.integers(1, 12)
seeds = st.integers(0, 2**20)


def random_maps(shape: tuple[int, ...], seed: int, values: int = 4) -> Tensor:
    """Few distinct values, so that equals are everywhere."""
    return torch.randint(-1, values, shape, generator=torch.Generator().manual_seed(seed)).float()


def random_masks(objects: int, grid: tuple[int, int], seed: int) -> Tensor:
    return random_maps((2, objects, *grid), seed) > 0


@given(st.tuples(sides, sides), seeds)
def test_window_masks_cover_the_cells_inside(grid: tuple[int, int], seed: int) -> None:
    windows = torch.randint(-3, 15, (2, 3, 4), generator=torch.Generator().manual_seed(seed))
    masks = regions.window_masks(windows, grid)
    for b in range(2):
        for o in range(3):
            top, left, height, width = windows[b, o].tolist()
            for y in range(grid[0]):
                for x in range(grid[1]):
                    assert masks[b, o, y, x] == (top <= y < top + height and left <= x < left + width)


def test_an_empty_window_covers_nothing() -> None:
    assert not regions.window_masks(torch.zeros(1, 1, 4, dtype=torch.int32), (5, 7)).any()


@given(st.tuples(sides, sides), st.sampled_from((0.0, 0.15, 0.29, 0.5, 1.0)), seeds)
def test_top_fraction_takes_the_largest_the_earliest_of_equals(grid: tuple[int, int], share: float, seed: int) -> None:
    maps = random_maps((2, 2, *grid), seed)
    found = regions.top_fraction(maps, share).flatten(2)
    count = round(share * 100) * grid[0] * grid[1] // 100
    for b in range(2):
        for o in range(2):
            values = maps[b, o].flatten().tolist()
            ranked = sorted(range(len(values)), key=lambda cell: (-values[cell], cell))
            assert set(found[b, o].nonzero().flatten().tolist()) == set(ranked[:count])


@given(st.tuples(sides, sides), seeds)
def test_above_median_is_above_torchs_median(grid: tuple[int, int], seed: int) -> None:
    maps = random_maps((2, 2, *grid), seed, values=40)
    found = regions.above_median(maps)
    for b in range(2):
        for o in range(2):
            assert torch.equal(found[b, o], maps[b, o] > maps[b, o].median())


def test_a_constant_map_has_nothing_above_its_median() -> None:
    assert not regions.above_median(torch.ones(1, 1, 6, 6)).any()


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_soft_edges_blur_by_a_gaussian(sigma: float) -> None:
    masks = torch.zeros(1, 1, 41, 41, dtype=torch.bool)
    masks[..., 20, 20] = True
    soft = regions.soft_edges(masks, sigma)[0, 0].double()
    distance = (torch.arange(41) - 20.0).double()
    expected = torch.exp(-(distance[:, None] ** 2 + distance**2) / (2 * sigma**2))
    torch.testing.assert_close(soft, expected / expected.sum(), atol=1e-7, rtol=1e-4)


def test_soft_edges_do_not_fade_at_the_border() -> None:
    masks = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    masks[..., :8] = True
    soft = regions.soft_edges(masks, 1.0)
    torch.testing.assert_close(soft[..., 0], torch.ones(1, 1, 16))
    assert float(soft[..., 8].max()) < 0.5 < float(soft[..., 7].min())
    assert torch.equal(regions.soft_edges(torch.ones_like(masks), 2.0).round(decimals=6), torch.ones(1, 1, 16, 16))


@given(st.integers(0, 5), st.tuples(sides, sides), seeds)
def test_bitmask_labels_sum_powers_of_two(objects: int, grid: tuple[int, int], seed: int) -> None:
    masks = random_masks(objects, grid, seed)
    labels = regions.labels_of(masks)
    assert labels.dtype == torch.int32 and labels.shape == (2, *grid)
    for o in range(objects):
        assert torch.equal((labels >> o) & 1, masks[:, o].int())
    assert not (labels >> objects).any()


@given(st.integers(0, 5), st.tuples(sides, sides), seeds)
def test_first_labels_name_the_first_object(objects: int, grid: tuple[int, int], seed: int) -> None:
    masks = random_masks(objects, grid, seed)
    labels = regions.labels_of(masks, overlap="first")
    assert labels.dtype == torch.int32
    for b in range(2):
        for y in range(grid[0]):
            for x in range(grid[1]):
                covering = [o + 1 for o in range(objects) if masks[b, o, y, x]]
                assert labels[b, y, x] == (covering[0] if covering else 0)


def test_31_masks_fill_a_bitmask() -> None:
    labels = regions.labels_of(torch.ones(1, 31, 1, 1, dtype=torch.bool))
    assert labels.item() == 2**31 - 1


def test_labels_resize_as_interpolate_does() -> None:
    """Every pair of sides up to 70: the rounding of its scale is what a formula in integers would miss."""
    for length in range(1, 71):
        labels = torch.arange(length, dtype=torch.int32)[None, None].expand(1, 2, length)
        for new in range(1, 71):
            expected = F.interpolate(labels[:, None].float(), size=(3, new), mode="nearest")[:, 0].int()
            found = regions.resize_labels(labels, (3, new))
            assert torch.equal(found, expected), (length, new)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_resized_labels_keep_their_dtype_and_values(dtype: torch.dtype) -> None:
    largest = torch.iinfo(dtype).max  # float32 would round it, beyond 16 bits
    labels = torch.tensor([[[0, largest], [1, 2]]], dtype=dtype)
    resized = regions.resize_labels(labels, (4, 6))
    assert resized.dtype == dtype and resized.is_contiguous()
    assert resized[0, 0].tolist() == [0, 0, 0, largest, largest, largest]
    assert resized[0, 3].tolist() == [1, 1, 1, 2, 2, 2]


def test_attention_takes_the_labels() -> None:
    windows = torch.tensor([[[0, 0, 2, 4], [2, 1, 2, 2]]])
    labels = regions.labels_of(regions.window_masks(windows, (4, 4))).flatten(1)
    q, k = torch.randn(1, 16, 2, 8), torch.randn(1, 3, 2, 8)
    delta = torch.zeros(1, 4, 3)
    delta[0, 0] = -torch.inf  # background attends to nothing
    out = attention(q, k, k, edit=Edit(delta=delta), query_labels=labels, key_labels=torch.arange(3)[None])
    assert torch.equal(out[0].flatten(1).any(1), labels[0] != 0)
