"""LAG sampling: concepts that a model was taught act only where the model is drawing them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from weft.attach import BaseModel, Control, Generation, LayerInfo, LayerRequest, ProjectionInfo, ProjectionTerms, Step
from weft.methods._call_text import call_text
from weft.methods.attention_maps import TokenMaps
from weft.methods.residuals.factors import Factors, stack_factors
from weft.methods.residuals.gates import Workspace
from weft.methods.residuals.regions import Region, checked_regions, region_masks
from weft.methods.residuals.residual import Residual
from weft.methods.residuals.run import LocalizedRun, Rules, Sources, Table
from weft.methods.residuals.words import find_concepts

if TYPE_CHECKING:
    from PIL import Image

RULES = ("median", "otsu")
OVERLAPS = ("largest", "sum")
ROWS = ("both", "conditional")
INNER = ("mean", "last")
MOST_CONCEPTS = 64

Scale = float | Sequence[float] | Sequence[Sequence[float]]


class LocalizedResiduals(Control):
    """Draw concepts that ``weft.train.fit_residual`` taught the model, each in its own part of the image.

    Inside every block, at every step, the block's own cross-attention to a concept's words is thresholded, and where
    it is above, the concept's residual is added to the projection at the end of the same block:

        y = W x + b + sum over concepts k of  scale_k * mask_k * up_k down_k x

    So the rest of the image is drawn as the model draws it by itself. There are no further passes of the network.

    Args:
        residuals: What was taught, one or several, of the model that is attached; up to 64. A prompt names a concept
            as ``residual.phrase`` says ("V* dog"). Those that a prompt does not name do not act in its image, so the
            images of a batch may have different concepts.
        localize: "attention", as above. "none" for everywhere, which is what an ordinary LoRA does. Or a region for
            each concept, listed or by phrase: a mask (PIL image, array or tensor [h, w] of the image's size,
            booleans, bytes with 255 or 1 for all, or numbers from 0 to 1) or a box (left, top, right, bottom) in
            pixels. Where regions overlap, concepts add up. With "none" and regions a concept acts in every image,
            whatever its prompt. Flux takes these two alone; regions leave its text to the model, and "none" does not.
        threshold: "median", the paper's rule, opens the upper half of the pixels, wherever the concept is and however
            small; "otsu" finds the area by itself; a number t in [0, 1) opens what exceeds least + t * (largest -
            least) of the map.
        scale: How strongly concepts act, 1 as they were trained: one number, one for each concept, or one for each
            image and concept, [images][concepts]. It may be set between calls and steps, ``control.scale = 0.7``;
            nothing is recompiled.
        cfg: "conditional" lets residuals act in the rows that carry the prompt, and leaves the others (those without
            it, and those that PAG perturbs) to the model, so that guidance strengthens what they draw. "both" lets
            them act in all rows, under the masks of those that carry the prompt, as an ordinary LoRA does. None is
            "both" for localize="none" and "conditional" elsewhere: on the embedded model guidance takes most of a
            localized concept away again with "both" (benchmarks/results/residuals_efficacy_shapes.md).
        overlap: Which concept a pixel belongs to where masks from attention overlap: "largest" gives it to the one
            whose map, scaled to [0, 1], is largest there; "sum" adds all up.
        inner: Blocks with several layers (SDXL) take the "mean" of their maps, or the map of the "last".
        exact: Pixels outside every mask get the very bits of the model's own projection in each block, for the price
            of one addition; otherwise its value within rounding.

    Raises:
        TypeError, ValueError: An argument that is not as above. A residual of another model is refused when
            attaching; a prompt that names no concept, or a region that does not fit the image, before the first step.

    Source:
        Ham et al. 2024, arXiv:2405.12978, section 4. The rule for several concepts, "otsu", regions and the rows
        without the prompt are not stated there and are weft's own.

    Example:
        >>> dog = weft.Residual.load("dog.safetensors")
        >>> with weft.attach(pipe, weft.LocalizedResiduals(dog)):
        ...     image = pipe("a V* dog in front of the Eiffel tower").images[0]
    """

    adds_to_projections = True

    def __init__(
        self,
        residuals: Residual | Sequence[Residual],
        localize: str | Region | Sequence[Region] | Mapping[str, Region] = "attention",
        *,
        threshold: str | float = "median",
        scale: Scale = 1.0,
        cfg: str | None = None,
        overlap: str = "largest",
        inner: str = "mean",
        exact: bool = True,
    ) -> None:
        self.residuals = _checked_residuals(residuals)
        self.phrases = tuple(residual.phrase for residual in self.residuals)
        self._by_attention = isinstance(localize, str) and localize == "attention"
        if isinstance(localize, str):
            _check_choice("localize", localize, ("attention", "none"))
            self._regions = None
        else:
            self._regions = checked_regions(localize, self.phrases)
        everywhere = self._regions is None and not self._by_attention
        cfg_given = cfg
        cfg = ("both" if everywhere else "conditional") if cfg is None else cfg
        _check_choice("cfg", cfg, ROWS)
        _check_choice("overlap", overlap, OVERLAPS)
        _check_choice("inner", inner, INNER)
        self._inner = inner
        self._rules = Rules(_checked_threshold(threshold), overlap, conditional_only=cfg == "conditional", exact=exact)
        self._strengths, self._scale = _checked_scale(scale, len(self.residuals)), scale
        self._given = {"localize": localize, "threshold": threshold, "cfg": cfg_given, "overlap": overlap}
        self._given |= {"inner": inner, "exact": exact}
        self.start_blank()

    def start_blank(self) -> None:
        self._is_rescaled = False
        self._workspace = Workspace()
        self._factors: dict[str, Factors] = {}
        self._factors_of: tuple[torch.device, torch.dtype] | None = None
        self._base: BaseModel | None = None
        self._feeders: dict[str, tuple[str, ...]] = {}  # block -> the layers whose maps make its gate
        self._run: LocalizedRun | None = None
        self._last_shares: Tensor | None = None  # of the last pass before it was detached

    def __repr__(self) -> str:
        return call_text(LocalizedResiduals, residuals=list(self.residuals), scale=self._scale, **self._given)

    @property
    def scale(self) -> Scale:
        """How strongly concepts act; see above."""
        return self._scale

    @scale.setter
    def scale(self, scale: Scale) -> None:
        self._strengths, self._scale, self._is_rescaled = _checked_scale(scale, len(self.residuals)), scale, True

    @property
    def masks(self) -> TokenMaps:
        """Where each concept acted in the last pass: the share of blocks whose gate was open there, [images, h, w].

        Raises:
            ValueError: No image was made yet, or nothing acted in it.
        """
        shares = self._last_shares if self._run is None else self._run.open_shares()
        if shares is None:
            raise ValueError("LocalizedResiduals.masks: no image was made since attaching; call the pipeline first")
        return TokenMaps(dict(zip(self.phrases, shares, strict=True)))

    def settings(self) -> dict[str, Any]:
        where = "attention" if self._by_attention else "none" if self._regions is None else "regions"
        return {"concepts": self.phrases, "localize": where, "scale": self._strengths, **asdict(self._rules)}

    def image(self, over: Any, phrase: str | None = None, index: int = 0) -> Image.Image:
        """Draw where a concept acted over the image that was made.

        Args:
            over: The image, as ``masks.image`` takes it.
            phrase: Which concept; None for the first.
            index: Which image of the batch it is.

        Raises:
            ValueError: As ``masks``.
            KeyError, IndexError: No such concept or image.
        """
        return self.masks.image(phrase or self.phrases[0], over, index)

    def pictures(self, over: Image.Image, index: int = 0) -> dict[str, Image.Image]:
        return {f"where: {phrase}": self.image(over, phrase, index) for phrase in self.phrases}

    def recommended(self) -> dict[str, Any]:
        """The guidance of the first residual that recommends one."""
        scales = (residual.sampling.guidance_scale for residual in self.residuals)
        scale = next((scale for scale in scales if scale is not None), None)
        return {} if scale is None else {"guidance_scale": scale}

    def check_model(self, model: BaseModel) -> None:
        for residual in self.residuals:
            residual.check_fits(model)
        self._base = model

    def attached(self, layers: tuple[LayerInfo, ...]) -> None:
        assert self._base is not None
        if not self._by_attention:
            return
        if any(layer.is_joint for layer in layers):
            raise ValueError(
                "LocalizedResiduals: localize='attention' reads the cross-attention of a UNet's blocks; this model "
                "attends to image and text at once; use localize='none', masks or boxes"
            )
        feeders = {}
        for projection in self._base.projections:
            # ".transformer_blocks.10." comes after ".transformer_blocks.9.": layers are in the order of the model
            names = [x.name for x in layers if x.is_cross and x.name.startswith(projection.block + ".")]
            if not names and any(projection.name in residual.down for residual in self.residuals):
                raise ValueError(
                    f"LocalizedResiduals: weft does not serve the cross-attention of {projection.block}, whose maps "
                    "are to gate it (see `.skipped` of an attachment); use localize='none', masks or boxes"
                )
            feeders[projection.block] = tuple(names[-1:] if self._inner == "last" else names)
        self._feeders = feeders

    def begin_generation(self, generation: Generation) -> None:
        self._run = None
        self._workspace.begin()
        place = (generation.device, generation.model_dtype)
        if self._factors_of != place:
            with torch.inference_mode(False):  # they serve later generations too
                self._factors, self._factors_of = stack_factors(self.residuals, *place), place
        named = find_concepts(generation, self.residuals) if self._by_attention else None
        masks = None
        if self._regions is not None:
            masks = region_masks(self._regions, self.phrases, generation.image_size)
        sources = Sources(named, self._feeders if self._by_attention else None, masks)
        run = LocalizedRun(generation, sources, self._rules, self._factors, self._workspace)
        run.scale(self._table(generation.images))
        self._run = run

    def begin_step(self, step: Step) -> None:
        if self._is_rescaled:
            assert self._run is not None
            self._run.scale(self._table(step.generation.images))
            self._is_rescaled = False

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        assert self._run is not None
        return self._run.request_layer(layer, step) if layer.is_cross and self._by_attention else None

    def add_to_projection(self, projection: ProjectionInfo, step: Step) -> ProjectionTerms | None:
        assert self._run is not None
        return self._run.terms(projection, step)

    def detached(self) -> None:
        self._last_shares = None if self._run is None else self._run.open_shares()
        self._run = None
        self._workspace.clear()
        self._factors, self._factors_of = {}, None

    def _table(self, images: int) -> Table:
        if len(self._strengths) not in (1, images):
            raise ValueError(
                f"LocalizedResiduals: `scale` must have one row for each of {images} images; got "
                f"{len(self._strengths)} rows"
            )
        return self._strengths * images if len(self._strengths) == 1 else self._strengths


def _checked_residuals(residuals: Any) -> tuple[Residual, ...]:
    listed = tuple(residuals) if isinstance(residuals, Iterable) else (residuals,)
    for residual in listed:
        if not isinstance(residual, Residual):
            raise TypeError(f"LocalizedResiduals: `residuals` must be weft.Residual; got {type(residual).__name__}")
    if not 1 <= len(listed) <= MOST_CONCEPTS:
        raise ValueError(f"LocalizedResiduals: takes 1 to {MOST_CONCEPTS} residuals; got {len(listed)}")
    phrases = [residual.phrase for residual in listed]
    repeated = [phrase for phrase in dict.fromkeys(phrases) if phrases.count(phrase) > 1]
    if repeated:
        raise ValueError(
            f"LocalizedResiduals: concepts must be named differently; {repeated[0]!r} is the name of several; give "
            "one of them another identifier: dataclasses.replace(residual, identifier=...)"
        )
    return listed


def _check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"LocalizedResiduals: `{name}` must be {' or '.join(map(repr, allowed))}; got {value!r}")


def _checked_threshold(threshold: Any) -> str | float:
    if isinstance(threshold, str) and threshold in RULES:
        return threshold
    if isinstance(threshold, Real) and not isinstance(threshold, bool) and 0 <= float(threshold) < 1:
        return float(threshold)
    raise ValueError(
        f"LocalizedResiduals: `threshold` must be {', '.join(map(repr, RULES))} or a number in [0, 1); "
        f"got {threshold!r}"
    )


def _checked_scale(scale: Any, concepts: int) -> Table:
    """Strengths as [1 or images][concepts]."""
    if hasattr(scale, "tolist"):  # an array or tensor
        scale = scale.tolist()
    if not isinstance(scale, Sequence) or isinstance(scale, str):
        return ((_checked_strength(scale),) * concepts,)
    per_image = len(scale) > 0 and all(isinstance(row, Sequence) and not isinstance(row, str) for row in scale)
    rows = scale if per_image else [scale]
    for row in rows:
        if len(row) != concepts:
            raise ValueError(
                f"LocalizedResiduals: `scale` must have a number for each of {concepts} concepts; got {list(row)}"
            )
    return tuple(tuple(_checked_strength(strength) for strength in row) for row in rows)


def _checked_strength(strength: Any) -> float:
    if isinstance(strength, bool) or not isinstance(strength, Real) or not math.isfinite(strength):
        raise TypeError(f"LocalizedResiduals: `scale` must be finite numbers; got {strength!r}")
    return float(strength)
