"""Regions of objects, from their averaged maps, and their labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.methods.maskdiffusion.boxes import overlapping_inside
from weft.methods.maskdiffusion.settings import MaskDiffusionSettings
from weft.methods.maskdiffusion.tables import disjoint_labels
from weft.ops import regions

_EDGE_LEVELS = 4  # steps of a soft edge
_FULL_SIZE_OBJECTS = 3  # objects; windows of more are smaller and closer, in proportion, so that all fit


@dataclass(frozen=True, eq=False)
class _Group:
    """Images with equally many objects, whose windows are chosen in one go: none depends on what else is drawn.

    Attributes:
        objects: Of each image.
        images: Their numbers, on the device of the maps.
        sizes, gap: Of their windows, in cells.
    """

    objects: int
    images: Tensor
    sizes: tuple[tuple[int, int], ...]
    gap: int


def _equally_many(present: Tensor, settings: MaskDiffusionSettings, grid: tuple[int, int]) -> tuple[_Group, ...]:
    """The groups of a batch; ``present`` [images, n] is read on the host, before the first step."""
    counts = present.sum(1).tolist()
    groups = []
    for objects in sorted(set(counts) - {0}):
        shrink = min(1.0, _FULL_SIZE_OBJECTS / objects)
        images = torch.tensor([image for image, count in enumerate(counts) if count == objects])
        sizes = regions.window_sizes(grid, settings.region_share * shrink, aspects=settings.aspects)
        groups.append(_Group(objects, images.to(present.device), sizes, int(settings.gap * shrink * min(grid))))
    return tuple(groups)


class RegionFinder:
    """Averages maps and chooses regions without waiting for the device.

    Attributes:
        inside: How far each region label lies inside each object, [L, n]; see ``_region_tables``.
        maps: [images, n, h, w], averaged over layers and steps; None before the first.
        windows: int32 [images, n, 4] (top, left, height, width) in cells of the maps; None before the first.
        steering: The windows that an edited step was the last to follow; None if there was none.
        found: bool [images, n], whether an object has a region.
    """

    def __init__(self, settings: MaskDiffusionSettings, grid: tuple[int, int], present: Tensor) -> None:
        self.maps: Tensor | None = None
        self.windows: Tensor | None = None
        self.steering: Tensor | None = None
        self.found = present
        self._present = present
        self._settings = settings
        self._grid = grid
        self._groups = _equally_many(present, settings, grid)
        self._overlap = settings.overlap
        self._pass: Tensor | None = None
        self._layers = 0
        self._passes = 0
        images, objects = present.shape
        self._labels = torch.zeros(images, *grid, dtype=torch.int32, device=present.device)
        self._steering_labels = self._labels
        levels = _EDGE_LEVELS if settings.soft_edge else 1
        self.inside = overlapping_inside(objects) if self._overlap else disjoint_labels(objects, levels)

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

    def steer(self) -> None:
        """Remember that an edited step follows the regions as they are."""
        self.steering, self._steering_labels = self.windows, self._labels

    def masks(self) -> Tensor:
        """The cells of every object that the last edited step followed, however far inside, bool [images, n, h, w]."""
        inside = F.pad(self.inside > 0, (0, 0, 1, 0)).to(self._labels.device)  # background first
        return inside[self._steering_labels.long()].movedim(-1, 1)

    def _choose(self, maps: Tensor) -> None:
        if self._settings.shape == "window":
            self.windows = self._best_windows(maps)
            self.found = self.windows[..., 2] > 0
            masks = regions.window_masks(self.windows, self._grid)
        else:
            masks = self._largest(maps)
            self.found = self._present & masks.flatten(2).any(-1)
        self._labels = self._soft(masks) if self._settings.soft_edge and not self._overlap else self._labels_of(masks)

    def _labels_of(self, masks: Tensor) -> Tensor:
        return regions.labels_of(masks, overlap="bitmask" if self._overlap else "first")

    def _best_windows(self, maps: Tensor) -> Tensor:
        settings = self._settings
        if settings.choice == "together":
            return self._assigned(maps)
        sizes = regions.window_sizes(self._grid, settings.region_share, aspects=settings.aspects)
        gap = 0 if settings.exclusion is not None else int(settings.gap * min(self._grid))
        return regions.best_windows(
            maps,
            sizes,
            margin=settings.search_margin,
            protect_share=settings.protect_share,
            protect_factor=settings.protect_factor,
            exclusion="forbid" if settings.exclusion is None else settings.exclusion,
            gap=gap,
            fallback="first" if settings.corner_fallback else "empty",
            present=self._present,
        )

    def _assigned(self, maps: Tensor) -> Tensor:
        windows = torch.zeros(*maps.shape[:2], 4, dtype=torch.int32, device=maps.device)
        for group in self._groups:
            here = maps[group.images, : group.objects]
            windows[group.images, : group.objects] = regions.assign_windows(here, group.sizes, gap=group.gap)
        return windows

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
        is_first = torch.zeros_like(large).scatter_(1, first, True)
        return large & is_first & self._present[..., None, None]

    def _soft(self, masks: Tensor) -> Tensor:
        depth = regions.soft_edges(masks, self._settings.soft_edge)  # [images, n, h, w] in [0, 1]
        deepest, owner = depth.max(1)
        level = (deepest * _EDGE_LEVELS).round().to(torch.int32)
        return torch.where(level > 0, owner.to(torch.int32) * _EDGE_LEVELS + level, 0)
