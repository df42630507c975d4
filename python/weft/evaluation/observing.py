"""Images looked at once: their features, and of the shapes world what the reader sees. The images are then let go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from PIL import Image
from torch import Tensor

from weft.evaluation.extractors import Extractor
from weft.evaluation.planning import Request
from weft.shapes.caption_reader import prompt_of
from weft.shapes.reader import Detection, read
from weft.shapes.vocabulary import IMAGE_SIZE

Report = Callable[[int], object]  # called with the number of images just finished


@dataclass(frozen=True, eq=False)
class Observed:
    """What is known of drawn images.

    Attributes:
        requests: What each was drawn from.
        features: [N, D] fp32.
        seen: What the reader found in each; None where it did not look, or captions or images are not of the shapes
            world.
    """

    requests: list[Request]
    features: Tensor
    seen: list[list[Detection]] | None


def observe(
    images: Iterable[Image.Image],
    requests: Sequence[Request],
    extractor: Extractor,
    *,
    batch_size: int = 64,
    with_reader: bool = True,
    report: Report = lambda images: None,
) -> Observed:
    """Look at drawn images.

    Args:
        images: One a request, in their order; may be drawn as they are taken.
        requests: What each was drawn from.
        extractor: Of features.
        batch_size: Images at a time.
        with_reader: Whether the reader is to look, too; it takes longer than the extractor.
        report: See ``Report``.
    """
    is_shapes = with_reader and all(prompt_of(request.caption) is not None for request in requests)
    features, seen = [], list[list[Detection]]()
    for batch in _batches(images, batch_size):
        features.append(extractor.features(batch))
        is_shapes = is_shapes and all(image.size == (IMAGE_SIZE, IMAGE_SIZE) for image in batch)
        if is_shapes:
            seen += map(read, batch)
        report(len(batch))
    return Observed(list(requests), torch.cat(features), seen if is_shapes else None)


def features_of(
    images: Iterable[Image.Image],
    extractor: Extractor,
    *,
    batch_size: int = 64,
    report: Report = lambda images: None,
) -> Tensor:
    """[N, D] of images that no model drew."""
    found = []
    for batch in _batches(images, batch_size):
        found.append(extractor.features(batch))
        report(len(batch))
    return torch.cat(found)


def _batches(images: Iterable[Image.Image], size: int) -> Iterator[list[Image.Image]]:
    rest = iter(images)
    while batch := list(islice(rest, size)):
        yield batch
