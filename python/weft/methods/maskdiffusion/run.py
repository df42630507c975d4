"""What one generation of MaskDiffusion keeps on the device, at addresses that do not change from step to step."""

from __future__ import annotations

import weakref

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.attach import Generation, LayerInfo, LayerRequest, Step
from weft.methods.maskdiffusion.boxes import BoxRegions
from weft.methods.maskdiffusion.regions import RegionFinder
from weft.methods.maskdiffusion.settings import MaskDiffusionSettings
from weft.methods.maskdiffusion.tables import (
    BACKGROUND,
    FIRST_OBJECT,
    LEFT_ALONE,
    NEUTRAL,
    TAIL,
    Pull,
    cross_edit,
    self_edit,
)
from weft.methods.maskdiffusion.words import Words


class Run:
    """The objects of one generation, their regions, and the requests that layers get for them.

    Attributes:
        words: Per image the objects and their tokens.
        objects: n, the most objects of any image.
        finder: Their regions.
        first_edited: The first step at which any layer is edited.
        exponent: Strength falls with the noise t, from 1 to 0, as t ** exponent.
        cross_edit, self_edit: The tables, at the strength of the step.
    """

    def __init__(
        self,
        generation: Generation,
        words: tuple[Words, ...],
        settings: MaskDiffusionSettings,
        layers: tuple[LayerInfo, ...],
    ) -> None:
        self.words = words
        self.objects = max(len(one.spans) for one in words)
        self.first_edited = min(settings.cross_from, settings.self_from)
        self.exponent = settings.exponent
        self._settings = settings
        self._generation = generation
        self._tapped = tapped_layers(layers, generation.latent_size, settings.smallest_grid)
        present = torch.tensor([[o < len(one.spans) for o in range(self.objects)] for one in words])
        self._present = present.to(generation.device)
        self.finder: RegionFinder | BoxRegions
        if words[0].boxes is None:
            grid = self._tapped[0].grid(generation.latent_size)
            self.finder = RegionFinder(settings, grid, self._present)
        else:
            boxes = [one.boxes or () for one in words]
            self.finder = BoxRegions(boxes, generation.latent_size, generation.image_size, generation.device)
        inside = self.finder.inside.to(generation.device, generation.dtype)
        gain = 2.0 if settings.double_logits else 1.0
        self.cross_edit = cross_edit(
            inside,
            head=Pull(settings.head_weight, gain),
            attribute=Pull(settings.attribute_weight, gain),
            tail=Pull(settings.tail_weight, gain),
            outside=settings.outside_weight,
            other=settings.other_weight,
            background=settings.background_weight,
        )
        self.self_edit = self_edit(inside, settings.background_weight)
        self._encoded = self._encode()
        self._replaced_text: tuple[weakref.ref[Tensor], int, Tensor] | None = None
        self._tensors: _BatchTensors | None = None

    def scale(self, strength: float) -> None:
        """Set how far logits are moved at this step, which follows the regions as they are."""
        self.finder.steer()
        self.cross_edit.scale(strength)
        self.self_edit.scale(strength * self._settings.self_gain)

    def swaps(self, is_edited: bool) -> bool:
        """Whether the conditioning is exchanged at this step."""
        return self._settings.swap == "all" or (self._settings.swap == "edited" and is_edited)

    def request(self, layer: LayerInfo, step: Step, is_edited: bool) -> LayerRequest | None:
        """What the layer should do; the same object for the same layer size and flags."""
        first = self._settings.cross_from if layer.is_cross else self._settings.self_from
        edits = is_edited and step.index >= first
        reads = self._reads(layer) and step.index < self._settings.refreshes
        if not edits and not reads:
            return None
        tensors = self._fit(step)
        key = (layer.level, layer.is_cross, edits, reads)
        known = tensors.requests.get(key)
        if known is None:
            scaled = self.cross_edit if layer.is_cross else self.self_edit
            pixels = self._pixel_labels(tensors, layer) if edits else None
            known = tensors.requests[key] = LayerRequest(
                edit=scaled.edit if edits else None,
                query_labels=pixels,
                key_labels=tensors.token_labels if layer.is_cross and edits else pixels,
                readout=tensors.readout if reads else None,
            )
        return known

    def _reads(self, layer: LayerInfo) -> bool:
        """Whether maps of this layer are wanted."""
        return isinstance(self.finder, RegionFinder) and layer in self._tapped

    def place_regions(self, step: Step) -> None:
        """Write new regions into the labels that the requests hold."""
        tensors = self._tensors
        if tensors is None:
            return
        for grid, labels in tensors.pixel_labels.items():
            labels[tensors.conditional] = self._regions(grid)
        tensors.token_labels[tensors.conditional] = self._token_labels(tensors)

    def replace_text(self, text: Tensor, step: Step) -> Tensor:
        """``text`` [B, Nk, C] with the rows of each phrase taken from the phrase encoded alone."""
        known = self._replaced_text
        if known is not None and known[0]() is text and known[1] == _version(text):
            return known[2]
        result = text.clone()
        if not self._settings.keep_negative:
            result[:] = self._encoded[""].to(text)
            result[step.conditional] = text[step.conditional]
        for row, one in zip(result[step.conditional], self.words, strict=step.has_rows):
            for span, alone in zip(one.spans, one.texts, strict=True):
                row[span[0] : span[-1] + 1] = self._encoded[alone][1 : 1 + len(span)].to(text)
        self._replaced_text = (weakref.ref(text), _version(text), result)
        return result

    def _encode(self) -> dict[str, Tensor]:
        """Every phrase encoded alone, and the empty prompt, [Nk, C] each; nothing where nothing is exchanged."""
        if self._settings.swap == "never" or not self.objects:
            return {}
        texts = list(dict.fromkeys(text for one in self.words for text in one.texts))
        texts += [] if self._settings.keep_negative else [""]
        assert self._generation.prompt is not None
        return dict(zip(texts, self._generation.prompt.encode(texts), strict=True))

    def _fit(self, step: Step) -> _BatchTensors:
        """What depends on the denoiser's batch, rebuilt when a callback changes it midway."""
        if self._tensors is None or not self._tensors.fit(step):
            self._tensors = _BatchTensors(self.words, self.objects, step)
            self._tensors.token_labels[step.conditional] = self._token_labels(self._tensors)
        return self._tensors

    def _token_labels(self, tensors: _BatchTensors) -> Tensor:
        """Key labels of the images, int32 [images, Nk]; the tokens of an object without a region are left alone."""
        found = F.pad(self.finder.found, (1, 0), value=True)  # a token without an owner is what it is
        return torch.where(found.gather(1, tensors.owners), tensors.classes, NEUTRAL)

    def _regions(self, grid: tuple[int, int]) -> Tensor:
        """Query labels of the images, int32 [images, h * w]; images without objects are left alone."""
        labels = BACKGROUND + self.finder.labels(grid).flatten(1)
        return torch.where(self._present.any(1, keepdim=True), labels, LEFT_ALONE)

    def _pixel_labels(self, tensors: _BatchTensors, layer: LayerInfo) -> Tensor:
        """Query labels of a layer's size, int32 [B, Nq]; rows without the prompt are left alone."""
        grid = layer.grid(self._generation.latent_size)
        known = tensors.pixel_labels.get(grid)
        if known is None:
            rows = (tensors.size[0], grid[0] * grid[1])
            known = torch.full(rows, LEFT_ALONE, dtype=torch.int32, device=self._generation.device)
            known[tensors.conditional] = self._regions(grid)
            tensors.pixel_labels[grid] = known
        return known


class _BatchTensors:
    """Labels and read-out for one size of the denoiser's batch.

    Attributes:
        size: (B, Nk).
        conditional: Rows that carry the prompt.
        owners: int64 [images, Nk], 1 + the object that a token belongs to, 0 for none.
        classes: int32 [images, Nk], the key class of each token while its object has a region.
        token_labels: int32 [B, Nk].
        pixel_labels: int32 [B, h * w] by grid (h, w).
        readout: [B, Nk, n], one column a head word; zeros in rows without the prompt.
        requests: What layers were given; they hold the tensors above.
    """

    def __init__(self, words: tuple[Words, ...], objects: int, step: Step) -> None:
        device, dtype = step.generation.device, step.generation.dtype
        self.size = (step.batch, step.seqlen_k)
        self.conditional = step.conditional
        owners, classes = token_classes(words, step.seqlen_k)
        self.owners, self.classes = owners.to(device), classes.to(device)
        self.token_labels = torch.full(self.size, NEUTRAL, dtype=torch.int32, device=device)
        self.pixel_labels: dict[tuple[int, int], Tensor] = {}
        self.requests: dict[tuple[int, bool, bool, bool], LayerRequest] = {}
        readout = torch.zeros(*self.size, objects, dtype=dtype)
        for row, one in zip(readout[self.conditional], words, strict=True):
            for column, span in enumerate(one.spans):
                row[span[-1], column] = 1.0
        self.readout = readout.to(device)

    def fit(self, step: Step) -> bool:
        """Whether they are of a pass of these rows."""
        return self.size == (step.batch, step.seqlen_k) and self.conditional == step.conditional


def token_classes(words: tuple[Words, ...], seqlen_k: int) -> tuple[Tensor, Tensor]:
    """Owner (0 for none, 1 + o) and key class of every token, [images, Nk] int64 and int32; see ``_region_tables``."""
    owners = torch.zeros(len(words), seqlen_k, dtype=torch.int64)
    classes = torch.zeros(len(words), seqlen_k, dtype=torch.int32)
    for row, one in enumerate(words):
        classes[row, 0] = NEUTRAL
        classes[row, one.tail :] = TAIL
        for o, span in enumerate(one.spans):
            owners[row, list(span)] = 1 + o
            classes[row, list(span)] = FIRST_OBJECT + 2 * o
            classes[row, span[-1]] = FIRST_OBJECT + 2 * o + 1
    return owners, classes


def tapped_layers(layers: tuple[LayerInfo, ...], latent_size: tuple[int, int], smallest: int) -> tuple[LayerInfo, ...]:
    """Cross-attention layers whose maps are read: the coarsest outside the middle with ``smallest`` cells a side.

    These see a quarter of the latent in Stable Diffusion 1.x, 2.x and XL at the sizes they were made for; where no
    layer has so many cells, the finest are read.
    """
    cross = [layer for layer in layers if layer.is_cross]
    outer = [layer for layer in cross if not layer.name.startswith("mid_block")] or cross
    fine = [layer.level for layer in outer if min(layer.grid(latent_size)) >= smallest]
    level = max(fine) if fine else min(layer.level for layer in outer)
    return tuple(layer for layer in outer if layer.level == level)


def _version(text: Tensor) -> int:
    """Version counter of a tensor; 0 where it has none (made under inference_mode)."""
    return 0 if text.is_inference() else text._version
