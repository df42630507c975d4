"""What one generation of MaskDiffusion keeps for a joint attention: labels of all its tokens, by box and by phrase."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.attach import Generation, LayerInfo, LayerRequest, Step
from weft.methods.maskdiffusion.boxes import BoxRegions
from weft.methods.maskdiffusion.joint_settings import JointSettings
from weft.methods.maskdiffusion.joint_tables import BACKGROUND, LEFT_ALONE, joint_edit
from weft.methods.maskdiffusion.words import Words


class JointRun:
    """The objects of one generation, their boxes, and the requests that layers get for them.

    Attributes:
        words: Per image the objects and their tokens.
        objects: n, the most objects of any image.
        finder: Their boxes.
        first_edited: The first step at which any layer is edited.
        exponent: Strength falls with the noise t, from 1 to 0, as t ** exponent.
        edit: The tables, at the strength of the step.
    """

    first_edited = 0

    def __init__(self, generation: Generation, words: tuple[Words, ...], settings: JointSettings) -> None:
        self.words = words
        self.objects = max(len(one.spans) for one in words)
        self.exponent = settings.exponent
        self._generation = generation
        self.finder = BoxRegions(
            [one.boxes or () for one in words], generation.latent_size, generation.image_size, generation.device
        )
        self.edit = joint_edit(self.finder.inside.to(generation.device, generation.dtype), settings)
        self._labels: _BatchLabels | None = None

    def scale(self, strength: float) -> None:
        """Set how far logits are moved at this step."""
        self.edit.scale(strength)

    def swaps(self, is_edited: bool) -> bool:
        """Whether the conditioning is exchanged at this step."""
        return False

    def replace_text(self, text: Tensor, step: Step) -> Tensor:
        """The conditioning as it is."""
        return text

    def request(self, layer: LayerInfo, step: Step, is_edited: bool) -> LayerRequest | None:
        """What the layer should do; the same object for the same size of layer."""
        if not is_edited:
            return None
        if self._labels is None or not self._labels.fit(step):
            self._labels = _BatchLabels(step, self._text_labels(step.seqlen_k))
        return self._labels.request(layer, self)

    def pixel_labels(self, grid: tuple[int, int]) -> Tensor:
        """Labels of the images' pixels, int32 [images, h * w]."""
        return BACKGROUND + self.finder.labels(grid).flatten(1)

    def _text_labels(self, seqlen_k: int) -> Tensor:
        """Labels of the images' text tokens, int32 [images, Nk]."""
        labels = torch.full((len(self.words), seqlen_k), LEFT_ALONE, dtype=torch.int32)
        for row, one in zip(labels, self.words, strict=True):
            for o, span in enumerate(one.spans):
                row[list(span)] = self.edit.first_word + o
        return labels.to(self._generation.device)


class _BatchLabels:
    """Labels for one size of the denoiser's batch; rows without the prompt are left alone.

    Attributes:
        size: (B, Nk).
        conditional: Rows that carry the prompt.
        text: int32 [B, Nk].
    """

    def __init__(self, step: Step, text: Tensor) -> None:
        self.size, self.conditional = (step.batch, step.seqlen_k), step.conditional
        self.text = self._of_rows(text)
        self._requests: dict[tuple[tuple[int, int], bool], LayerRequest] = {}

    def fit(self, step: Step) -> bool:
        """Whether they are of a pass of these rows."""
        return self.size == (step.batch, step.seqlen_k) and self.conditional == step.conditional

    def request(self, layer: LayerInfo, run: JointRun) -> LayerRequest:
        """Of a joint layer, or of one that sees pixels alone."""
        grid = layer.grid(run._generation.latent_size)
        known = self._requests.get((grid, layer.is_joint))
        if known is None:
            pixels, edit = self._of_rows(run.pixel_labels(grid)), run.edit.edit
            known = LayerRequest(edit, pixels, pixels)
            if layer.is_joint:
                known = LayerRequest(edit, pixels, self.text, pixel_key_labels=pixels, text_query_labels=self.text)
            self._requests[grid, layer.is_joint] = known
        return known

    def _of_rows(self, images: Tensor) -> Tensor:
        """Labels of the images as those of the batch, int32 [B, tokens]."""
        labels = images.new_full((self.size[0], images.shape[1]), LEFT_ALONE)
        labels[self.conditional] = images
        return labels
