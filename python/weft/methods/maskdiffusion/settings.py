"""The constants of MaskDiffusion and the accidents of its released code, as data: two presets, and what is between."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Swap = Literal["never", "edited", "all"]
Choice = Literal["together", "in turn"]
Shape = Literal["window", "top", "median"]
CHOICES = {"swap": get_args(Swap), "choice": get_args(Choice), "shape": get_args(Shape)}

_SHARE, _COUNT, _ANY = (0.0, 1.0), (0, math.inf), (-math.inf, math.inf)
RANGES: dict[str, tuple[float, float]] = {
    "least_objects": _COUNT,
    "share": _SHARE,
    "cross_from": _COUNT,
    "self_from": _COUNT,
    "refreshes": _COUNT,
    "smallest_grid": (1, math.inf),
    "exponent": (0.0, math.inf),
    "self_gain": (0.0, 2.0),
    "head_weight": _SHARE,
    "attribute_weight": _SHARE,
    "tail_weight": (-1.0, 1.0),
    "background_weight": _SHARE,
    "outside_weight": _SHARE,
    "other_weight": _SHARE,
    "tail_from": (0, math.inf),
    "region_share": _SHARE,
    "protect_share": _SHARE,
    "protect_factor": _ANY,
    "search_margin": _COUNT,
    "exclusion": _ANY,
    "gap": _SHARE,
    "momentum": _SHARE,
    "soft_edge": (0.0, math.inf),
}


@dataclass(frozen=True)
class MaskDiffusionSettings:
    """Everything about the method that is a number or a choice.

    Attributes:
        least_objects: Images with fewer objects are left alone, unless these have boxes.
        share: Share of the noise schedule, from its noisy end, in which anything is edited: steps with a timestep
            above 1000 * (1 - share): with 0.3 the first 15 of 50 evenly spaced ones.
        cross_from, self_from: First step, from 0, at which cross-attention and self-attention are edited.
        refreshes: Maps are gathered and regions chosen again after each of so many first steps.
        smallest_grid: Cells a side that a map must have to be read; the coarsest such layers are.
        exponent: Strength falls with the timestep t as (t / 1000) ** exponent.
        self_gain: Strength of the self-attention edit over that of the cross-attention edit.
        head_weight, attribute_weight: How far, from 0 to 1, the logit of a key is pulled to the maximum of its row
            inside the region of its object: the last token of the phrase, and the others of it.
        tail_weight: The same for the end of the text and its padding, everywhere. Those tokens speak of all objects,
            so a negative weight pushes them to the minimum instead, inside all regions.
        background_weight: How much of every edit reaches the pixels of no region, from 0 to 1. Little leaves the model
            a second chance where the regions are wrong.
        outside_weight, other_weight: How far the logit of an object's token outside its region, and of a token that
            belongs to no object, is pushed to the minimum of its row.
        double_logits: Also double the logits of those keys.
        tail_from: The tail starts so many tokens before the first pad: 1 for the end token, 2 for the token before.
        swap: Rows of the conditioning that belong to a phrase are replaced by those of the phrase encoded alone:
            "never", at the "edited" steps, or at "all".
        keep_negative: Leave the unconditional rows alone; otherwise they become the encoding of an empty prompt.
        region_share: Area of a region, as a share of the map; whole cells, so at most that. Where more than three
            objects choose together, three n-ths of it, and of the gap.
        aspects: height / width of the windows that are tried; None for the series of the released code.
        choice: Windows are chosen "together", so that they hold the most of all maps, or by the objects "in turn",
            as in the released code; only there the five settings that follow count.
        protect_share, protect_factor: Share of the map where an object looks most, and what other objects' maps are
            multiplied by there before regions are chosen.
        search_margin: Rows at the bottom and columns at the right that no region may cover.
        exclusion: What happens to cells of a region before the next object's is chosen: all maps are multiplied by
            this number there, or None when no later region may touch them.
        corner_fallback: An object whose map is nowhere positive gets a region in the corner; otherwise none, and
            its tokens are left alone.
        gap: Cells that stay free between two windows which may not overlap, as a share of the shorter side of the
            map, rounded down.
        momentum: None averages the maps of all steps; a number m in [0, 1) weighs them m to 1 - m with each new one.
        shape: "window" for rectangles; "top" for the cells where an object's map is largest, as many as
            ``region_share`` says; "median" for all cells above the median of its map.
        soft_edge: Width of the edge of a region in cells of the map; 0 for a hard one.
    """

    least_objects: int = 2
    share: float = 0.5
    cross_from: int = 1
    self_from: int = 1
    refreshes: int = 4
    smallest_grid: int = 8
    exponent: float = 3.0
    self_gain: float = 0.3
    head_weight: float = 1.0
    attribute_weight: float = 1.0
    tail_weight: float = -1.0
    background_weight: float = 0.3
    outside_weight: float = 1.0
    other_weight: float = 1.0
    double_logits: bool = False
    tail_from: int = 1
    swap: Swap = "edited"
    keep_negative: bool = True
    region_share: float = 0.12
    aspects: tuple[float, ...] | None = (1.0, 0.7, 1.4)
    choice: Choice = "together"
    protect_share: float = 0.15
    protect_factor: float = 0.5
    search_margin: int = 0
    exclusion: float | None = None
    corner_fallback: bool = False
    gap: float = 0.125
    momentum: float | None = None
    shape: Shape = "window"
    soft_edge: float = 0.0

    def __post_init__(self) -> None:
        for name, names in CHOICES.items():
            if getattr(self, name) not in names:
                allowed = ", ".join(map(repr, names))
                raise ValueError(f"MaskDiffusion: `{name}` must be one of {allowed}; got {getattr(self, name)!r}")
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"MaskDiffusion: `{name}` must be from {least:g} to {most:g}; got {value!r}")
        if self.momentum == 1:
            raise ValueError("MaskDiffusion: `momentum` must be below 1, or no map after the first would count; got 1")

    @property
    def overlap(self) -> bool:
        """Whether regions found in maps may overlap."""
        # a region in the corner is given whether it is taken or not
        return (
            self.shape == "window"
            and self.choice == "in turn"
            and (self.exclusion is not None or self.corner_fallback)
        )


CLEAN = MaskDiffusionSettings()
# commit 960b1eb of HVision-NKU/MaskDiffusion
RELEASED = MaskDiffusionSettings(
    least_objects=1,
    share=0.3,
    smallest_grid=16,
    cross_from=2,
    exponent=5.0,
    attribute_weight=0.2,
    tail_weight=0.2,
    background_weight=1.0,
    double_logits=True,
    tail_from=2,
    swap="all",
    keep_negative=False,
    region_share=0.2,
    aspects=None,
    choice="in turn",
    search_margin=2,
    exclusion=-2.0,
    corner_fallback=True,
    gap=0.0,
)
MODES = {"clean": CLEAN, "released": RELEASED}
