"""R-precision: does an encoder find the caption that an image was drawn from among those of other images?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

CANDIDATES = 100  # captions an image is compared with, its own among them
FOLDS = 10


@dataclass(frozen=True)
class RPrecision:
    """Share of images whose own caption is nearest.

    Attributes:
        mean, std: Over folds of the images.
        hits: Of every image, in their order.
        candidates, folds, seed: How it was measured.
    """

    mean: float
    std: float
    hits: tuple[bool, ...]
    candidates: int
    folds: int
    seed: int

    @property
    def chance(self) -> float:
        return 1 / self.candidates


def r_precision(
    images: Tensor,
    texts: Tensor,
    meanings: Sequence[Hashable],
    *,
    candidates: int = CANDIDATES,
    folds: int = FOLDS,
    seed: int = 0,
) -> RPrecision:
    """Compare every image with its own caption and with those of ``candidates`` - 1 others, by cosine.

    Args:
        images: [N, E] embeddings.
        texts: [N, E] of the caption of each image, by the same encoder.
        meanings: What each caption says, equal where two say the same: another caption of the same meaning, or of the
            same class or picture, is never a wrong one.
        candidates: How many captions, the own among them.
        folds: Parts of the images, over which the mean and the spread are taken.
        seed: Of the folds and of the captions drawn.

    Raises:
        ValueError: Shapes that do not fit, too few images for the folds, or too few captions of another meaning.

    Source:
        AttnGAN (Xu et al. 2018, arXiv:1711.10485), section 4: one of 100, mean and standard deviation over ten folds.
        A tie is lost.
    """
    count = len(meanings)
    if images.shape != texts.shape or images.ndim != 2 or len(images) != count:
        raise ValueError(
            f"r_precision: `images` and `texts` must be [N, E] with N = {count} meanings; got {tuple(images.shape)} "
            f"and {tuple(texts.shape)}"
        )
    if not 1 <= folds <= count:
        raise ValueError(f"r_precision: `folds` must be in 1..{count}, the number of images; got {folds}")
    number: dict[Hashable, int] = {}
    ids = np.array([number.setdefault(meaning, len(number)) for meaning in meanings])
    most = int(np.bincount(ids).max())
    if count - most < candidates - 1 or candidates < 2:
        raise ValueError(
            f"r_precision: needs {candidates - 1} captions that say something else, at least 1; of {count} captions "
            f"{most} say the same; evaluate more images, or fewer `candidates`"
        )
    unit_images, unit_texts = (_unit(x) for x in (images, texts))
    rng, hits = np.random.default_rng(seed), np.zeros(count, bool)
    order = rng.permutation(count)
    for i in order:
        others = rng.choice(np.flatnonzero(ids != ids[i]), candidates - 1, replace=False)
        hits[i] = unit_texts[i] @ unit_images[i] > (unit_texts[others] @ unit_images[i]).max()
    shares = [hits[part].mean() for part in np.array_split(order, folds)]
    return RPrecision(float(np.mean(shares)), float(np.std(shares)), tuple(map(bool, hits)), candidates, folds, seed)


def _unit(x: Tensor) -> np.ndarray:
    wide = x.detach().cpu().double().numpy()
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
