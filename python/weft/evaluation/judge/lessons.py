"""What the judge learns from: rendered scenes, slightly degraded, with right captions and nearly right ones."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from weft.shapes.caption_reader import objects_of
from weft.shapes.captions import caption, near_misses
from weft.shapes.measuring import mixed_scenes
from weft.shapes.rendering import render
from weft.shapes.vocabulary import COLOURS, RELATIONS, SHAPES
from weft.shapes.world import Pair, Scene

# say what is drawn; a text without any of the other words must mean the same
MEANING = frozenset((*COLOURS, *SHAPES, *(word for relation in RELATIONS for word in relation.split())))
WORD_DROPOUT = 0.15
DEGRADED = 0.7  # of the images
MOST_NOISE = 0.12  # standard deviation, of values in [-1, 1]
MOST_CHANGE = 0.08  # of brightness and contrast


class Scenes:
    """Scenes that were drawn once, of everything the world has, for the judge is asked about all of it."""

    def __init__(self, count: int, seed: int) -> None:
        """
        Args:
            count: How many.
            seed: Of the collection.
        """
        self.scenes: list[Scene] = mixed_scenes(count, seed)
        drawn = [render(one) for one in tqdm(self.scenes, desc="scenes", unit="scene", leave=False)]
        self.pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)  # [scenes, 3, h, w] uint8

    def __len__(self) -> int:
        return len(self.scenes)

    def batch(self, chosen: Sequence[int], rng: np.random.Generator) -> tuple[Tensor, list[str], Tensor]:
        """Degraded images, texts and what the texts say.

        Returns:
            Images [B, 3, h, w] in [-1, 1]; 2 B texts: a caption of each image, then a near miss of each; and ids of
            the objects that the texts name, [2 B] int64, equal where these are.
        """
        scenes = [self.scenes[i] for i in chosen]
        texts = [caption(one, rng, is_complete=True) for one in scenes]
        texts += [near_misses(one, rng, 1)[0] for one in scenes]
        images = degraded(self.pixels[list(chosen)].float() / 127.5 - 1, rng)
        return images, [_terser(text, rng) for text in texts], meaning_ids(texts)


def meaning_ids(texts: Sequence[str]) -> Tensor:
    """A number of the objects that each text names, [texts] int64: two that are equal name the same objects."""
    known: dict[tuple[Pair, ...] | None, int] = {}
    return torch.tensor([known.setdefault(objects_of(text), len(known)) for text in texts])


def degraded(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Images [B, 3, h, w] in [-1, 1] as a generator might draw them: softer, noisier, brighter or darker."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))

    def drawn(low: float, high: float) -> Tensor:
        """A number an image, 0 for those that are left as they are."""
        strength = low + (high - low) * torch.rand(len(images), generator=generator)
        return (strength * (torch.rand(len(images), generator=generator) < DEGRADED))[:, None, None, None]

    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    changed = images + drawn(0, 1) * (soft - images)
    changed = changed * (1 + drawn(-MOST_CHANGE, MOST_CHANGE)) + drawn(-MOST_CHANGE, MOST_CHANGE)
    changed = changed + drawn(0, MOST_NOISE) * torch.randn(images.shape, generator=generator)
    return changed.clamp(-1, 1)


def _terser(text: str, rng: np.random.Generator) -> str:
    """The text without some of the words that mean nothing."""
    words = re.findall(r"\w+|,", text)
    return " ".join(word for word in words if word in MEANING or rng.random() >= WORD_DROPOUT)
