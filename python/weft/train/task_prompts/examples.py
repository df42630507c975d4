"""What one sample of training shows and says: a function of its number alone, so that nothing has to be remembered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.methods.powerpaint import RECIPES, PromptName
from weft.train.core import torch_generator
from weft.train.diffusion import encode_views
from weft.train.pictures import View
from weft.train.task_prompts import masks
from weft.train.task_prompts.masks import Hole
from weft.train.task_prompts.mixture import OF_OBJECTS, Kind, Mixture
from weft.train.task_prompts.pictures import MaskedPicture

REMEMBERED = 4096  # texts of the samples made last
DRAWS = 8  # of a random hole; when all of them hide a whole object, it is cut out of the last


@dataclass(frozen=True)
class LearntPrompt:
    """The text of a sample.

    Attributes:
        text: What the user would write.
        prompt: The task prompt beside it; None for none.
        fit: Weight of that, beside the context prompt, which has the rest.
    """

    text: str
    prompt: PromptName | None
    fit: float = 1.0


@dataclass(frozen=True, eq=False)
class Example:
    """One sample: a picture, the hole in it, and its prompt."""

    pixels: NDArray[np.uint8]
    hole: Hole
    prompt: LearntPrompt


@dataclass(frozen=True, eq=False)
class Examples:
    """Samples by their numbers.

    Attributes:
        pictures: What they are made of.
        size: Side of a square, in pixels.
        mixture: Of kinds.
    """

    pictures: Sequence[MaskedPicture]
    size: int
    mixture: Mixture
    seed: int = 0
    _texts: dict[int, LearntPrompt] = field(default_factory=dict, init=False, repr=False)

    def at(self, number: int) -> Example:
        """The sample of that number."""
        made = self._made(number)
        self._texts[number] = made.prompt
        while len(self._texts) > REMEMBERED:
            self._texts.pop(next(iter(self._texts)))
        return made

    def prompt(self, number: int) -> LearntPrompt:
        """What the sample of that number says; its picture is not made again for it."""
        return self._texts.get(number) or self.at(number).prompt

    def _made(self, number: int) -> Example:
        rng = np.random.default_rng([self.seed, number])
        picture = self.pictures[int(rng.integers(len(self.pictures)))]
        kind = self._kind(picture, rng)
        pixels = picture.square(self.size)
        if kind in OF_OBJECTS:
            which = int(rng.integers(len(picture.objects)))
            mask = picture.mask(which, self.size)
            if mask.any():
                return self._of_object(kind, pixels, mask, picture.objects[which].caption, rng)
            kind = "context"  # the object lies outside the square
        return self._of_picture(kind, picture, pixels, rng)

    def _kind(self, picture: MaskedPicture, rng: np.random.Generator) -> Kind:
        shares = {
            kind: share
            for kind, share in self.mixture.shares.items()
            if share > 0 and (picture.objects or kind not in OF_OBJECTS)
        }
        weights = np.array(list(shares.values()))
        return list(shares)[int(rng.choice(len(shares), p=weights / weights.sum()))]

    def _of_object(self, kind: Kind, pixels: Any, mask: Hole, caption: str, rng: np.random.Generator) -> Example:
        text = "" if rng.random() < self.mixture.caption_dropout else caption
        if kind == "object":
            return Example(pixels, masks.box(mask, rng), LearntPrompt(text, "object"))
        hole = masks.grown(mask, rng)
        return Example(pixels, hole, LearntPrompt(text, "shape", masks.fit(mask, hole)))

    def _of_picture(self, kind: Kind, picture: MaskedPicture, pixels: Any, rng: np.random.Generator) -> Example:
        nothing, with_caption = rng.random() < self.mixture.dropout, rng.random() < self.mixture.context_caption
        words = RECIPES["removal"].words if self.mixture.worded > 0 and rng.random() < self.mixture.worded else ""
        if kind == "image":
            hole, text = masks.everything(self.size), picture.caption
        elif kind == "outpaint":
            hole, text = self._hole(picture, masks.sides, rng), words
        else:
            is_like_an_object = self.mixture.borrowed > 0 and rng.random() < self.mixture.borrowed
            draw = self._hole_like_an_object if is_like_an_object else masks.strokes
            hole, text = self._hole(picture, draw, rng), picture.caption if with_caption else words
        return Example(pixels, hole, LearntPrompt("", None) if nothing else LearntPrompt(text, "context"))

    def _hole_like_an_object(self, size: int, rng: np.random.Generator) -> Hole:
        other = self.pictures[int(rng.integers(len(self.pictures)))]
        if not other.objects:
            return masks.strokes(size, rng)
        mask = other.mask(int(rng.integers(len(other.objects))), size)
        if not mask.any():
            return masks.strokes(size, rng)
        return masks.box(mask, rng) if rng.random() < 0.5 else masks.grown(mask, rng)

    def _hole(
        self, picture: MaskedPicture, draw: Callable[[int, np.random.Generator], Hole], rng: np.random.Generator
    ) -> Hole:
        if not self.mixture.spares_objects:
            return draw(self.size, rng)
        masks_of_objects = [picture.mask(number, self.size) for number in range(len(picture.objects))]
        for _ in range(DRAWS):
            hole = draw(self.size, rng)
            hidden = [mask for mask in masks_of_objects if mask.any() and not (mask & ~hole).any()]
            if not hidden:
                return hole
        left = hole & ~np.any(hidden, axis=0)
        return left if left.any() else hole


@dataclass(frozen=True, eq=False)
class MaskedBatches:
    """The function from the samples seen to the next batch of a process.

    Attributes:
        pipe: Its autoencoder encodes pictures, whole and with their holes, as they come.
        examples: Where they come from.
        size: Samples in a batch.
        timesteps: Of the training schedule.
        process: Number of this one.
        offset_noise: Standard deviation of a further noise that is one number for a whole channel of a sample.
            Without, what is left of a picture in the noisiest latents shows its mean colour, and a model that trusts
            it instead of the surroundings of the hole is misled by pure noise, most of all in plain pictures.
        timestep_power: Times are ``timesteps * u ** timestep_power`` with u uniform; below one favours high noise.
    """

    pipe: Any
    examples: Examples
    size: int
    timesteps: int
    process: int = 0
    offset_noise: float = 0.0
    timestep_power: float = 1.0

    def __call__(self, samples: int) -> tuple[Tensor, ...]:
        """The arguments of ``TaskPromptsObjective.forward``."""
        first = samples + self.process * self.size
        numbers = range(first, first + self.size)
        made = [self.examples.at(number) for number in numbers]
        multiple = int(self.pipe.vae_scale_factor)
        cells = torch.stack([torch.from_numpy(covered(example.hole, multiple)) for example in made])[:, None].float()
        pixels = torch.stack([torch.from_numpy(np.array(e.pixels)) for e in made]).permute(0, 3, 1, 2) / 127.5 - 1.0
        whole = torch.nn.functional.interpolate(cells, scale_factor=multiple)
        side = (self.examples.size, self.examples.size)
        # the hole is mid grey in what the model is shown, as diffusers has it
        shown = [View(one, side, (0, 0)) for one in (*pixels, *(pixels * (1 - whole)))]
        encoded = encode_views(self.pipe, shown)
        generator = torch_generator(self.examples.seed, 3, first)
        posterior = torch.randn(encoded.mean.shape, generator=generator)
        latents, masked = (encoded.mean + encoded.std * posterior).chunk(2)
        noise = torch.randn(latents.shape, generator=generator)
        shares = torch.rand(self.size, generator=generator) ** self.timestep_power
        times = (shares * self.timesteps).long().clamp(max=self.timesteps - 1)
        if self.offset_noise:
            noise += self.offset_noise * torch.randn(*noise.shape[:2], 1, 1, generator=generator)
        return torch.tensor(list(numbers)), latents, noise, times, cells, masked, encoded.time_ids[: self.size]


def covered(hole: Hole, multiple: int) -> Hole:
    """The cells [h / multiple, w / multiple] of the latent that a hole touches."""
    rows, columns = (side // multiple for side in hole.shape)
    return np.asarray(hole.reshape(rows, multiple, columns, multiple).any((1, 3)))
