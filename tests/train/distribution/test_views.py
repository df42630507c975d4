"""What generated views begin from: the second caption, noise and time, drawn beside the objective's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from PIL import Image
from torch import Tensor

from weft.attach import resolve
from weft.testing import assert_differs
from weft.train.diffusion.latents import Latents, latent_batches
from weft.train.diffusion.noising import Flow
from weft.train.distribution.config import DistributionConfig
from weft.train.distribution.kinds import losses_named
from weft.train.distribution.views import ConceptBatches, ViewBatches, Views
from weft.train.encoded.batches import PairBatches
from weft.train.pictures.pairs import Pair, number_of

TEXTS = (("a red circle", "circle", "the circle"), ("a blue square", "square"), ("a ball",), ("red", "a red ball"))
PAIRS = tuple(Pair(Image.new("RGB", (8, 8)), texts, f"row {number}") for number, texts in enumerate(TEXTS))


def latents(count: int = 4) -> Latents:
    return Latents(torch.zeros(count, 4, 2, 2), torch.ones(count, 4, 2, 2), torch.zeros(count, 6))


def config(losses: str = "f2f,f2r", pairing: Any = "two_captions", **options: Any) -> DistributionConfig:
    return DistributionConfig(losses_named(losses, pairing=pairing), **options)


@pytest.fixture
def batches(tmp_path: Path) -> PairBatches:
    return PairBatches(resolve(tiny.sd1(tmp_path)), PAIRS, latents(), None, range(4), 4, 1000, seed=3)


def said_by(batch: tuple[Tensor, ...], pipe: Any) -> list[tuple[str, str]]:
    """First and second caption of every row, found by what they are encoded to."""
    texts = [text for pair in TEXTS for text in pair]
    known = resolve(pipe).encode_captions(texts).states
    views = Views(*batch[-len(Views._fields) :])

    def name(states: Tensor) -> str:
        return texts[int((known - states).abs().sum((1, 2)).argmin())]

    return [(name(first), name(second)) for first, second in zip(batch[3], views.states, strict=True)]


def test_the_second_caption_is_another_of_the_same_picture(batches: PairBatches) -> None:
    seen = set()
    for samples in range(0, 80, 4):
        batch = ViewBatches(batches, config(), Flow())(samples)
        second = [[number_of(second)] for _, second in said_by(batch, batches.host.pipeline)]
        assert Views(*batch[-len(Views._fields) :]).captions.tolist() == second
        for (first, second), number in zip(said_by(batch, batches.host.pipeline), batch[6][:, 1], strict=True):
            texts = next(texts for texts in TEXTS if first in texts)
            assert number_of(first) == number and second in texts
            assert (first == second) == (len(texts) == 1)
            seen.add((first, second))
    assert len(seen) == 6 + 2 + 1 + 2, "every pair of two comes up"


@pytest.mark.parametrize(
    ("given", "shapes"),
    [
        (config(), [1, 4]),
        (config(pairing="two_noises"), [2, 0]),
        (config("f2r"), [1, 0]),
    ],
    ids=["two captions", "two noises", "one view"],
)
def test_what_comes_after_the_batch(given: DistributionConfig, shapes: list[int], batches: PairBatches) -> None:
    """The fields of the batch are the bits that they are without; the same samples give the same views."""
    found, plain = ViewBatches(batches, given, Flow())(8), batches(8)
    assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=False))
    views = Views(*found[len(plain) :])
    assert [len(views.noise), len(views.states)] == shapes and views.captions.shape == (4, shapes[1] // 4)
    assert views.views == (1 if shapes == [1, 0] else 2)
    assert views.noise.shape[1:] == (4, 4, 2, 2)
    assert_differs(views.noise[0], found[1].expand(4, -1, -1, -1))
    again, later = ViewBatches(batches, given, Flow())(8), ViewBatches(batches, given, Flow())(12)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    assert_differs(later[len(plain)], views.noise)
    assert torch.equal(views.noise_of(1), views.noise[-1])


def test_times_lie_where_they_are_asked_for(batches: PairBatches) -> None:
    given = config(times=(0.25, 0.5))
    drawn = [int(ViewBatches(batches, given, Flow())(samples)[-4]) for samples in range(0, 1200, 4)]
    assert 250 <= min(drawn) < 260 and 490 < max(drawn) < 500
    fixed = config(times=(0.5, 0.5001))
    assert int(ViewBatches(batches, fixed, Flow())(0)[-4]) == 500


@pytest.mark.parametrize("pairing", ["two_captions", "two_noises"])
def test_views_of_a_concept(pairing: Any) -> None:
    """Crops of a picture have its number; second captions are never the first."""
    plain = latent_batches(latents(6), 1000, batch_size=6, seed=1, process=0)
    of = {"views": 6, "of_each": 2, "captions": 3, "seed": 1, "process": 0}
    concept = ConceptBatches(plain, config(pairing=pairing), Flow(), **of)
    fields = [concept(samples) for samples in range(0, 60, 6)]
    for found, samples in zip(fields, range(0, 60, 6), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(found, plain(samples), strict=False))
        assert sorted(found[4].flatten().tolist()) == [0, 0, 1, 1, 2, 2], "every view comes once an epoch"
    captions = torch.cat([found[-1] for found in fields])
    assert set(captions.tolist()) == ({1, 2} if pairing == "two_captions" else set())
    assert len(fields[0][5]) == (1 if pairing == "two_captions" else 2)
