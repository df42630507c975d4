"""DAAM: where in the image each word of the prompt was looked at."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.attach import Control, Generation, LayerInfo, LayerRequest, Prompt, Step
from weft.methods._call_text import call_text
from weft.methods.attention_maps.layer_choice import LayerChoice, StepChoice
from weft.methods.attention_maps.token_maps import Token, TokenMaps
from weft.methods.attention_maps.word_places import MISSING, find_places

if TYPE_CHECKING:
    from PIL import Image

AXES = ("layers", "steps")


class AttentionMaps(Control):
    """Read the cross-attention of chosen tokens while images are made; the images stay what they are.

        map[m] = mean over steps and layers of  max(0, resize(mean over heads of mean over pieces j of P[:, j]))

    with P the softmax of a layer's cross-attention in the rows that carry the prompt (unconditional rows are not
    read). ``maps`` holds the last generation; a new one replaces it.

    In a joint attention (Stable Diffusion 3) a pixel attends to all other pixels too, and what is left for the text
    differs from layer to layer. There P[:, j] is its share of that: mean over heads of P[:, j], divided by the mean
    over heads of the sum of P over all text tokens. So heads count by how much they look at the text, and maps of
    all tokens sum to 1 as those of a cross-attention do. Flux and its kin fill the text up with padding that takes
    part in attention without a mask: there maps are shares of the tokens that are no padding, and ``maps.padding`` is
    the share of the padding. Passes with layers left out (``skip_guidance_layers``) are
    not read.

    Args:
        tokens: What to read: words or phrases of the prompt as they are written there ("circle", "red circle"), the
            n-th of several as "circle#2", or token positions (the start token is 0, the first word 1). The pieces of
            a word or phrase are averaged, with a T5 those of both texts.
        layers: None for every cross-attention layer; or names: a regular expression searched in them ("up_blocks",
            r"down_blocks\\.1"), a predicate of the ``LayerInfo``, or an integer for the layers whose larger side, in
            queries, it is; or a sequence of these, any of which may hold.
        steps: None for every step, one index, a range, a slice or any iterable of indices, from 0.
        reduce: The axes to average over, of "layers" and "steps". What is left out stays an axis of the maps.
        size: Rows and columns of the maps, or one number for both; None for the size of the latent.
        missing: What to do for an image of a batch whose prompt lacks a word, or is cut off before it. "warn": its
            map is empty, and one warning names the words and prompts; a word that no prompt of the batch has is an
            error. "zero": its map is empty, even if none has it. "raise": an error.

    Raises:
        TypeError, ValueError: An argument that is not as above; tokens that are repeated or none at all. Whatever
            depends on the prompt or the model is raised before the first step or when attaching.

    Source:
        Tang et al. 2022, arXiv:2210.04885, section 3: bicubic resizing, values below 0 cut off, mean over layers and
        steps. Departure: heads are averaged before the resize rather than after it, which makes a difference only
        where the cut-off acts.
    """

    def __init__(
        self,
        tokens: str | int | Sequence[str | int],
        *,
        layers: Any = None,
        steps: int | range | slice | Iterable[int] | None = None,
        reduce: str | Sequence[str] = AXES,
        size: int | tuple[int, int] | None = None,
        missing: str = "warn",
    ) -> None:
        self.tokens = _checked_tokens(tokens)
        self.reduce = _checked_reduce(reduce)
        self._size = _checked_size(size)
        if missing not in MISSING:
            raise ValueError(f'AttentionMaps: `missing` must be "warn", "zero" or "raise"; got {missing!r}')
        self._missing = missing
        self._layers = LayerChoice(layers)
        self._wants_step = StepChoice(steps)
        self.start_blank()

    def start_blank(self) -> None:
        self._cross_layers: tuple[LayerInfo, ...] = ()
        self._run: _Run | None = None
        self._found: dict[Token, tuple[bool, ...]] | None = None

    def __repr__(self) -> str:
        return call_text(
            AttentionMaps,
            tokens=list(self.tokens),
            layers=self._layers.given,
            steps=self._wants_step.given,
            reduce=self.reduce,
            size=self._size,
            missing=self._missing,
        )

    @property
    def maps(self) -> TokenMaps:
        """The maps of the last generation, complete or still running.

        Raises:
            ValueError: Nothing was read yet, or no layer and step was both chosen and run.
        """
        if self._run is None:
            raise ValueError("AttentionMaps.maps: no image was made since attaching; call the pipeline first")
        return self._run.result(self.tokens, self.reduce)

    @property
    def found(self) -> dict[Token, tuple[bool, ...]]:
        """Whether the prompt of each image of the last generation has the word, by token.

        Raises:
            ValueError: No image was made since attaching.
        """
        if self._found is None:
            raise ValueError("AttentionMaps.found: no image was made since attaching; call the pipeline first")
        return self._found

    def settings(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "reduce": self.reduce, "size": self._size, "missing": self._missing}

    def pictures(self, over: Image.Image, index: int = 0) -> dict[str, Image.Image]:
        maps = self.maps
        return {f"map: {token}": maps.image(token, over, index) for token in maps}

    def attached(self, layers: tuple[LayerInfo, ...]) -> None:
        self._cross_layers = tuple(layer for layer in layers if layer.is_cross)
        self._layers.check_layers(self._cross_layers)

    def begin_generation(self, generation: Generation) -> None:
        size = self._size or generation.latent_size
        places = find_places(generation, self.tokens, self._missing)
        self._found = {token: tuple(map(bool, images)) for token, images in zip(self.tokens, places, strict=True)}
        self._layers.check_resolutions(self._cross_layers, generation.latent_size)
        self._run = _Run(size, generation, self.tokens, places)

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        run = self._run
        if run is None or not layer.is_cross or step.is_perturbed or not self._wants_step(step.index):
            return None
        if not step.has_rows or not run.knows(step.prompt):
            return None
        if not self._layers.chooses(layer, step.generation.latent_size):
            return None
        return run.request(step, layer.is_joint)

    def read_maps(self, layer: LayerInfo, step: Step, maps: Tensor) -> None:
        assert self._run is not None
        kept_layer = layer.name if "layers" not in self.reduce else None
        kept_step = step.index if "steps" not in self.reduce else None
        self._run.add((kept_layer, kept_step), layer, step, maps[step.conditional])


@dataclass
class _Places:
    """The words in one prompt.

    Attributes:
        places: Positions, [M][images].
        is_known: The prompt is one for the images of the generation.
        requests: The read-outs for it, by the form of a pass.
    """

    places: list[list[tuple[int, ...]]]
    is_known: bool
    requests: dict[tuple[int, int, int, bool], LayerRequest] = field(default_factory=dict)


@dataclass
class _Sum:
    """A running mean on the device: the sum, and how often each word of each image went into it."""

    total: Tensor
    counts: Tensor  # [images, M] on the CPU

    def mean(self) -> Tensor:
        return self.total / self.counts.clamp_min(1)[..., None, None].to(self.total)


class _Run:
    """What one generation has gathered: sums [images, M, h, w] fp32, one for each place of the axes that are kept."""

    def __init__(
        self,
        size: tuple[int, int],
        generation: Generation,
        tokens: tuple[Token, ...],
        places: list[list[tuple[int, ...]]],
    ) -> None:
        self._size = size
        self._latent_size = generation.latent_size
        self._images = generation.images
        self._tokens = tokens
        prompt = generation.prompt
        self._splits_padding = prompt is not None and prompt.shares_real and prompt.texts is not None
        self._own = _Places(places, is_known=True)
        # prompts hold their pipeline, which results must not keep alive
        self._places: weakref.WeakKeyDictionary[Prompt, _Places] = weakref.WeakKeyDictionary()
        if prompt is not None:
            self._places[prompt] = self._own
        self._has_prompt = prompt is not None
        self._sums: dict[tuple[str | None, int | None], _Sum] = {}
        self._reads: dict[str, set[int]] = {}  # layer -> steps in which it was read

    def knows(self, prompt: Prompt | None) -> bool:
        """Whether ``prompt`` is one for the images of this generation, with any of the words."""
        return self._placed(prompt).is_known

    def _placed(self, prompt: Prompt | None) -> _Places:
        if prompt is None:
            return _Places([], is_known=False) if self._has_prompt else self._own
        if prompt not in self._places:
            found: list[list[tuple[int, ...]]] = []
            if prompt.images == self._images and (prompt.texts or not self._splits_padding):
                found = [self._found(token, prompt) for token in self._tokens]
            self._places[prompt] = _Places(found, any(places for images in found for places in images))
        return self._places[prompt]

    def _found(self, token: Token, prompt: Prompt) -> list[tuple[int, ...]]:
        """Positions of ``token`` in a prompt that came midway; none where it cannot be found."""
        if isinstance(token, int):
            return [(token,)] * self._images
        places: list[tuple[int, ...]] = []
        for image in range(self._images):
            try:
                places.append(prompt.find(token, image))
            except (LookupError, ValueError):  # the picture goes on; steps with the word have read it
                places.append(())
        return places

    def request(self, step: Step, is_joint: bool) -> LayerRequest:
        """The read-out, [B, Nk, M] with zero rows for samples that do not carry the prompt.

        In a joint attention there is one column more, of ones: the attention to the text. Where shares are of tokens
        that are no padding, these have that column, and the padding has another.
        """
        placed = self._placed(step.prompt)
        key = (step.batch, step.conditional.start, step.seqlen_k, is_joint)
        if key not in placed.requests:
            words = len(self._tokens)
            readout = torch.zeros(step.batch, step.seqlen_k, words + is_joint * (1 + self._splits_padding))
            rows = readout[step.conditional]
            if is_joint:
                rows[..., words:] = self._text_columns(step)
            for column, images in enumerate(placed.places):
                for image, positions in enumerate(images):
                    if positions and positions[-1] >= step.seqlen_k:
                        raise ValueError(
                            f"AttentionMaps: `tokens` has position {positions[-1]}; the prompt has positions 0 to "
                            f"{step.seqlen_k - 1}"
                        )
                    for position in positions:
                        rows[image, position, column] = 1 / len(positions)
            placed.requests[key] = LayerRequest(readout=readout.to(step.generation.device, step.generation.dtype))
        return placed.requests[key]

    def _text_columns(self, step: Step) -> Tensor:
        """Ones for the tokens that shares are of, and for padding where it is not among them, [images, Nk, 1 or 2]."""
        if not self._splits_padding:
            return torch.ones(self._images, step.seqlen_k, 1)
        assert step.prompt is not None
        real = torch.zeros(self._images, step.seqlen_k)
        for image, row in enumerate(real):
            row[[place for place in step.prompt.real(image) if place < step.seqlen_k]] = 1
        return torch.stack([real, 1 - real], -1)

    def add(self, key: tuple[str | None, int | None], layer: LayerInfo, step: Step, maps: Tensor) -> None:
        """Add the maps of one layer, [images, Nq, M], in a joint attention with those of the text behind them."""
        self._reads.setdefault(layer.name, set()).add(step.index)
        if layer.is_joint:
            maps = self._shares(maps)
        h, w = layer.grid(self._latent_size)
        if maps.shape[1] != h * w:
            raise ValueError(
                f"AttentionMaps: expected {h} x {w} queries in {layer.name}; got {maps.shape[1]}; something (token "
                "merging, for one) changed them, leave it out or choose other layers"
            )
        grids = maps.detach().float().transpose(1, 2).reshape(maps.shape[0], -1, h, w)  # [images, M, h, w]
        if (h, w) != self._size:
            grids = F.interpolate(grids, self._size, mode="bicubic", align_corners=False).clamp_(min=0)
        counts = torch.tensor(
            [[bool(positions) for positions in images] for images in self._placed(step.prompt).places]
        ).T
        if self._splits_padding and layer.is_joint:
            counts = F.pad(counts, (0, 1), value=True)
        known = self._sums.get(key)
        if known is None:
            # contiguous() also makes it ours when nothing was resized
            self._sums[key] = _Sum(grids.contiguous().clone(), counts.int())
        else:
            known.total += grids
            known.counts += counts

    def _shares(self, maps: Tensor) -> Tensor:
        """Shares of the text, [images, Nq, M], and that of padding behind them where it is kept apart."""
        words = maps[..., : len(self._tokens)]
        text = maps[..., len(self._tokens) :]
        smallest = torch.finfo(maps.dtype).tiny  # a pixel may look at nothing but pixels
        shares = words / text[..., :1].clamp_min(smallest)
        if not self._splits_padding:
            return shares
        return torch.cat([shares, text[..., 1:] / text.sum(-1, keepdim=True).clamp_min(smallest)], -1)

    def result(self, tokens: tuple[Token, ...], reduce: tuple[str, ...]) -> TokenMaps:
        if not self._sums:
            raise ValueError("AttentionMaps.maps: nothing was read; no chosen step has run in a chosen layer so far")
        layers = list(dict.fromkeys(layer for layer, _ in self._sums))
        steps = list(dict.fromkeys(step for _, step in self._sums))
        means = {key: known.mean() for key, known in self._sums.items()}
        for layer in layers:
            for step in steps:
                if (layer, step) not in means:
                    raise ValueError(f"AttentionMaps.maps: step {step} did not run {layer}; average over one of them")
        stacked = torch.stack([torch.stack([means[layer, step] for step in steps]) for layer in layers])
        # [layers, steps, images, M, h, w], with M first and the averaged axes gone
        stacked = stacked.movedim(3, 0)
        if "steps" in reduce:
            stacked = stacked[:, :, 0]
        if "layers" in reduce:
            stacked = stacked[:, 0]
        padding = stacked[len(tokens)] if len(stacked) > len(tokens) else None
        return TokenMaps(
            dict(zip(tokens, stacked, strict=padding is None)),
            layers=tuple(layer for layer in layers if layer is not None),
            steps=tuple(step for step in steps if step is not None),
            padding=padding,
            reads={layer: len(steps) for layer, steps in self._reads.items()},
        )


def _checked_tokens(tokens: Any) -> tuple[Token, ...]:
    listed = list(tokens) if isinstance(tokens, Iterable) and not isinstance(tokens, str) else [tokens]
    if not listed:
        raise ValueError("AttentionMaps: `tokens` must name at least one word or position; got none")
    for token in listed:
        if isinstance(token, bool) or not isinstance(token, (str, int)):
            raise TypeError(f"AttentionMaps: `tokens` must be words or positions; got {token!r}")
        if isinstance(token, int) and token < 0:
            raise ValueError(f"AttentionMaps: a position in `tokens` must be 0 or more; got {token}")
        if isinstance(token, str) and not token.strip():
            raise ValueError(f"AttentionMaps: a word in `tokens` must not be empty; got {token!r}")
    repeated = [token for token in dict.fromkeys(listed) if listed.count(token) > 1]
    if repeated:
        raise ValueError(f"AttentionMaps: `tokens` must differ; got {repeated[0]!r} more than once")
    return tuple(listed)


def _checked_reduce(reduce: Any) -> tuple[str, ...]:
    named = tuple(reduce) if isinstance(reduce, Iterable) and not isinstance(reduce, str) else (reduce,)
    for axis in named:
        if axis not in AXES:
            raise ValueError(f"AttentionMaps: `reduce` takes {', '.join(map(repr, AXES))}; got {axis!r}")
    return tuple(axis for axis in AXES if axis in named)


def _checked_size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, Iterable) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"AttentionMaps: `size` must be one or two positive integers, rows and columns; got {size!r}")
    return sides
