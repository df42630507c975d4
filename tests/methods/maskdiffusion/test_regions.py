"""Regions of many objects, of batches, and of boxes between the cells of coarse grids."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from weft.methods.maskdiffusion.boxes import BoxRegions
from weft.methods.maskdiffusion.picture import draw_regions
from weft.methods.maskdiffusion.regions import RegionFinder
from weft.methods.maskdiffusion.settings import CLEAN


def maps_of(images: int, objects: int, grid: tuple[int, int], seed: int = 0) -> Tensor:
    """Smooth maps with a few peaks, [images, h * w, n]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(images, objects, *grid, generator=generator) ** 4
    return F.avg_pool2d(noise, 3, stride=1, padding=1).flatten(2).transpose(1, 2)


def find(maps: Tensor, counts: list[int], grid: tuple[int, int]) -> RegionFinder:
    present = torch.arange(maps.shape[2]) < torch.tensor(counts)[:, None]
    finder = RegionFinder(CLEAN, grid, present)
    finder.gather(maps)
    assert finder.average()
    return finder


@pytest.mark.parametrize("grid", [(8, 8), (16, 16), (16, 24)])
@pytest.mark.parametrize("objects", [3, 5, 8, 16])
def test_all_of_many_objects_fit(objects: int, grid: tuple[int, int]) -> None:
    finder = find(maps_of(16, objects, grid), [objects] * 16, grid)
    assert finder.found.float().mean() > 0.97
    assert finder.windows is not None
    small = finder.windows[..., 2] * finder.windows[..., 3]
    assert int(small.max()) <= max(1, int(CLEAN.region_share * min(1, 3 / objects) * grid[0] * grid[1] + 1e-6))


def test_an_image_does_not_know_its_batch() -> None:
    """Of five objects not all orders are tried; the four of another image still get the best of all theirs."""
    counts, grid = [4, 5, 4, 1, 4, 0], (8, 8)
    maps = maps_of(len(counts), 5, grid)
    together = find(maps, counts, grid).windows
    assert together is not None
    for image, count in enumerate(counts):
        if count:
            alone = find(maps[image : image + 1, :, :count], [count], grid).windows
            assert alone is not None
            assert torch.equal(together[image, :count], alone[0])
        assert not together[image, count:].any()


def fixed(boxes: tuple[tuple[float, float, float, float], ...]) -> BoxRegions:
    return BoxRegions([boxes], (64, 64), (512, 512))


@pytest.mark.parametrize("grid", [(64, 64), (32, 32), (16, 16), (8, 8)])
def test_a_small_box_is_on_every_grid(grid: tuple[int, int]) -> None:
    finder = fixed(((8, 8, 64, 64), (256, 256, 512, 512)))
    labels = finder.labels(grid)[0]
    assert set(labels.unique().tolist()) == {0, 1, 2}
    rows, columns = (labels == 1).nonzero(as_tuple=True)
    scale = grid[0] / 512
    assert int(rows.min()) >= int(8 * scale) and int(rows.max()) <= 64 * scale, "where the box is, and nowhere else"
    assert int(columns.min()) >= int(8 * scale) and int(columns.max()) <= 64 * scale


def test_boxes_that_do_not_overlap_may_be_many() -> None:
    boxes = tuple((64.0 * i, 0.0, 64.0 * i + 64, 512.0) for i in range(8))
    finder = fixed(boxes)
    assert finder.inside.shape == (8, 8)
    assert set(finder.labels((32, 32)).unique().tolist()) == set(range(1, 9))
    with pytest.raises(ValueError, match="at most 5 objects may have regions that overlap"):
        fixed((*boxes, (0.0, 0.0, 65.0, 512.0)))


def test_only_regions_that_steered_are_reported() -> None:
    maps = maps_of(1, 2, (8, 8))
    finder = find(maps, [2], (8, 8))
    assert finder.steering is None and not finder.masks().any()
    finder.steer()
    first = finder.windows
    finder.gather(maps.flip(1))
    finder._settings = dataclasses.replace(CLEAN, momentum=0.0)
    finder.average()
    assert finder.steering is first and not torch.equal(finder.windows, first)  # type: ignore[arg-type]


def ground_of_name(left: int, top: int) -> tuple[int, int]:
    """Rows and columns of the black ground that a name has, for a region at that cell of 8 x 8."""
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, top:, left:] = True
    drawn = np.asarray(draw_regions(np.full((64, 64, 3), 255, np.uint8), mask, ("a very long name",)))
    rows, columns = (drawn == 0).all(-1).nonzero()
    return int(np.ptp(rows)), int(np.ptp(columns))


def test_a_name_stays_within_the_picture() -> None:
    assert ground_of_name(7, 0) == ground_of_name(0, 7) == ground_of_name(0, 0)
