"""Regions that are given as boxes or masks, and the labels that stand for them on grids of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.methods.maskdiffusion.tables import disjoint_labels, overlapping_labels
from weft.methods.maskdiffusion.words import Region
from weft.ops import regions

MOST_OVERLAPPING = 5  # every set of objects needs a label of its own


def overlapping_inside(objects: int) -> Tensor:
    """``overlapping_labels`` of so many objects.

    Raises:
        ValueError: There are too many of them.
    """
    if objects > MOST_OVERLAPPING:
        raise ValueError(
            f"MaskDiffusion: at most {MOST_OVERLAPPING} objects may have regions that overlap (boxes, or mode "
            f'"released"); got {objects}; use mode "clean" without boxes'
        )
    return overlapping_labels(objects)


class BoxRegions:
    """What ``RegionFinder`` is where there is nothing to find.

    Attributes:
        inside: Whether each region label lies inside each object, [L, n].
        found: bool [images, n], whether an object has a box.
        maps, windows, steering: None; they are of regions that were found.
    """

    maps: None = None
    windows: None = None
    steering: None = None

    def __init__(
        self,
        boxes: Sequence[Sequence[Region]],
        latent_size: tuple[int, int],
        image_size: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        """Take boxes or masks in pixels, [images][objects]; whole cells of the latent, boxes rounded down."""
        objects = max(map(len, boxes))
        rows, columns = (latent / image for latent, image in zip(latent_size, image_size, strict=True))
        windows = torch.zeros(len(boxes), objects, 4, dtype=torch.int32)
        given: dict[tuple[int, int], Tensor] = {}
        for image, row in enumerate(boxes):
            for o, region in enumerate(row):
                if isinstance(region, Tensor):
                    given[image, o] = _cells(region, latent_size)
                    continue
                left, top, right, bottom = region
                first, start = int(top * rows), int(left * columns)
                # a box thinner than a cell still covers one
                last, stop = max(int(bottom * rows), first + 1), max(int(right * columns), start + 1)
                windows[image, o] = torch.tensor([first, start, last - first, stop - start])
        masks = regions.window_masks(windows, latent_size)
        for place, mask in given.items():
            masks[place] = mask
        self._overlap = bool((masks.sum(1) > 1).any())
        self.inside = overlapping_inside(objects) if self._overlap else disjoint_labels(objects, 1)
        self.found = torch.tensor([[o < len(row) for o in range(objects)] for row in boxes]).to(device)
        self._masks = masks.to(device)  # bool [images, n, h, w] on the latent

    def gather(self, maps: Tensor) -> None:
        """No map is wanted."""

    def average(self) -> bool:
        """Nothing was gathered."""
        return False

    def steer(self) -> None:
        """Every step follows the boxes."""

    def labels(self, grid: tuple[int, int]) -> Tensor:
        """Region of every pixel on a grid, [images, h, w] int32: 0 for background, else 1 + a row of ``inside``."""
        # a box between the cells of a coarse grid would be lost, and its object pushed away everywhere
        kept = F.interpolate(self._masks.float(), grid, mode="nearest") > 0
        touched = F.adaptive_max_pool2d(self._masks.float(), grid) > 0
        kept = torch.where(kept.flatten(2).any(-1)[..., None, None], kept, touched)
        return regions.labels_of(kept, overlap="bitmask" if self._overlap else "first")

    def masks(self) -> Tensor:
        """The cells of every object, bool [images, n, h, w]."""
        return self._masks


def _cells(mask: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """The cells of the latent that a mask covers by half or more; those that it touches, where it covers none."""
    covered = F.adaptive_avg_pool2d(mask[None].float(), latent_size)[0]
    return covered >= 0.5 if bool((covered >= 0.5).any()) else covered > 0
