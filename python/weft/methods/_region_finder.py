"""Regions of objects, from their averaged maps or from boxes, and the labels that stand for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.methods._maskdiffusion_settings import MaskDiffusionSettings
from weft.methods._maskdiffusion_words import Box
from weft.methods._region_tables import disjoint_labels, overlapping_labels
from weft.ops import regions

MOST_OVERLAPPING = 5  # every set of objects needs a label of its own
_EDGE_LEVELS = 4  # steps of a soft edge


class RegionFinder:
    """Averages maps and chooses regions without waiting for the device.

    Attributes:
        fixed: Regions came from boxes; no map is wanted.
        inside: How far each region label lies inside each object, [L, n]; see ``_region_tables``.
        maps: [images, n, h, w], averaged over layers and steps; None before the first.
        windows: int32 [images, n, 4] (top, left, height, width) in cells of the maps; None before the first.
        found: bool [images, n], whether an object has a region.
    """

    def __init__(self, settings: MaskDiffusionSettings, grid: tuple[int, int], present: Tensor) -> None:
        self.fixed = False
        self.maps: Tensor | None = None
        self.windows: Tensor | None = None
        self.found = present
        self._present = present
        self._settings = settings
        self._grid = grid
        self._sizes = regions.window_sizes(grid, settings.region_share, aspects=settings.aspects)
        self._overlap = settings.overlap
        self._pass: Tensor | None = None
        self._layers = 0
        self._passes = 0
        images, objects = present.shape
        self._labels = torch.zeros(images, *grid, dtype=torch.int32, device=present.device)
        self._set_inside(objects)

    def _set_inside(self, objects: int) -> None:
        if not self._overlap:
            levels = _EDGE_LEVELS if self._settings.soft_edge else 1
            self.inside = disjoint_labels(objects, levels)
            return
        if objects > MOST_OVERLAPPING:
            raise ValueError(
                f"MaskDiffusion: at most {MOST_OVERLAPPING} objects may have regions that overlap (boxes, or mode "
                f'"released"); got {objects}; use mode "clean" without boxes'
            )
        self.inside = overlapping_labels(objects)

    def fix(
        self, boxes: Sequence[tuple[Box, ...] | None], latent_size: tuple[int, int], image_size: tuple[int, int]
    ) -> None:
        """Take the regions from boxes in pixels, [images][objects]; whole cells of the latent, rounded down."""
        self.fixed = self._overlap = True
        self._set_inside(self._present.shape[1])
        rows, columns = (latent / image for latent, image in zip(latent_size, image_size, strict=True))
        windows = torch.zeros(*self._present.shape, 4, dtype=torch.int32)
        for image, row in enumerate(boxes):
            for o, (left, top, right, bottom) in enumerate(row or ()):
                first, start = int(top * rows), int(left * columns)
                # a box thinner than a cell still covers one
                last, stop = max(int(bottom * rows), first + 1), max(int(right * columns), start + 1)
                windows[image, o] = torch.tensor([first, start, last - first, stop - start])
        masks = regions.window_masks(windows.to(self._present.device), latent_size)
        self._labels = regions.labels_of(masks, overlap="bitmask")

    def gather(self, maps: Tensor) -> None:
        """Add the maps of one layer, [images, h * w, n]."""
        self._pass = maps if self._pass is None else self._pass + maps
        self._layers += 1

    def average(self) -> bool:
        """Take what one pass has gathered into the mean, and choose regions. Returns whether anything was gathered."""
        if self._pass is None:
            return False
        maps = (self._pass / self._layers).transpose(1, 2)
        maps = maps.reshape(*maps.shape[:2], *self._grid)
        self._pass, self._layers = None, 0
        momentum = self._settings.momentum
        self._passes += 1
        if self.maps is None:
            self.maps = maps
        else:
            self.maps = self.maps + (maps - self.maps) * (1 / self._passes if momentum is None else 1 - momentum)
        self._choose(self.maps)
        return True

    def labels(self, grid: tuple[int, int]) -> Tensor:
        """Region of every pixel on a grid, [images, h, w] int32: 0 for background, else 1 + a row of ``inside``."""
        return regions.resize_labels(self._labels, grid)

    def masks(self) -> Tensor:
        """The cells of every object, however far inside they lie, bool [images, n, h, w]."""
        inside = F.pad(self.inside > 0, (0, 0, 1, 0)).to(self._labels.device)  # background first
        return inside[self._labels.long()].movedim(-1, 1)

    def _choose(self, maps: Tensor) -> None:
        if self._settings.shape == "window":
            self.windows = self._best_windows(maps)
            self.found = self.windows[..., 2] > 0
            masks = regions.window_masks(self.windows, self._grid)
        else:
            masks = self._largest(maps)
            self.found = self._present & masks.flatten(2).any(-1)
        if self._overlap:
            self._labels = regions.labels_of(masks, overlap="bitmask")
        elif self._settings.soft_edge:
            self._labels = self._soft(masks)
        else:
            self._labels = regions.labels_of(masks, overlap="first")

    def _best_windows(self, maps: Tensor) -> Tensor:
        settings = self._settings
        gap = 0 if self._overlap else int(settings.gap * min(self._grid))
        if settings.choice == "together":
            return regions.assign_windows(maps, self._sizes, gap=gap, present=self._present)
        return regions.best_windows(
            maps,
            self._sizes,
            margin=settings.search_margin,
            protect_share=settings.protect_share,
            protect_factor=settings.protect_factor,
            exclusion="forbid" if settings.exclusion is None else settings.exclusion,
            gap=gap,
            fallback="first" if settings.corner_fallback else "empty",
            present=self._present,
        )

    def _largest(self, maps: Tensor) -> Tensor:
        """Where a map is large and larger, by its own measure, than those of the other objects."""
        maps = maps.masked_fill(~self._present[..., None, None], 0.0)
        relative = maps / maps.flatten(2).amax(-1)[..., None, None].clamp_min(torch.finfo(maps.dtype).tiny)
        settings = self._settings
        large = (
            regions.above_median(maps)
            if settings.shape == "median"
            else regions.top_fraction(maps, settings.region_share)
        )
        first = relative.argmax(1, keepdim=True)
        mine = torch.zeros_like(large).scatter_(1, first, True)
        return large & mine & self._present[..., None, None]

    def _soft(self, masks: Tensor) -> Tensor:
        depth = regions.soft_edges(masks, self._settings.soft_edge)  # [images, n, h, w] in [0, 1]
        deepest, owner = depth.max(1)
        level = (deepest * _EDGE_LEVELS).round().to(torch.int32)
        return torch.where(level > 0, owner.to(torch.int32) * _EDGE_LEVELS + level, 0)
