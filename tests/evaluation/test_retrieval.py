"""R-precision: what it must be where it is known."""

from __future__ import annotations

import pytest
import torch

from weft.evaluation import r_precision


def test_random_features_are_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(2, 3000, 16, generator=generator)
    found = r_precision(images, texts, range(3000))
    # 30 hits are expected; five standard deviations of their number are 27
    assert abs(sum(found.hits) - 30) < 27
    assert found.chance == 0.01
    assert found.mean == pytest.approx(sum(found.hits) / 3000)


def test_perfect_features_find_every_caption() -> None:
    images = torch.randn(400, 32, generator=torch.Generator().manual_seed(0))
    found = r_precision(images, 7 * images, range(400))
    assert (found.mean, found.std, all(found.hits)) == (1.0, 0.0, True)


def test_a_tie_is_lost() -> None:
    found = r_precision(torch.ones(200, 4), torch.ones(200, 4), range(200))
    assert found.mean == 0


def test_captions_of_the_same_meaning_are_no_candidates() -> None:
    images = torch.eye(150).repeat_interleave(2, 0)
    meanings = [number // 2 for number in range(300)]
    assert r_precision(images, images, meanings, candidates=299).mean == 1
    # were the other caption of its meaning a candidate, every image would tie
    assert r_precision(images, images, range(300), candidates=300).mean == 0


def test_folds_and_candidates_follow_the_seed() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(300, 8, generator=generator)
    texts = images + torch.randn(300, 8, generator=generator)
    first = r_precision(images, texts, range(300), seed=1)
    assert r_precision(images, texts, range(300), seed=1) == first
    assert r_precision(images, texts, range(300), seed=2) != first
    assert first.std > 0


def test_messages() -> None:
    x = torch.randn(50, 4)
    with pytest.raises(ValueError, match="needs 99 captions that say something else, at least 1; of 50 captions"):
        r_precision(x, x, range(50))
    with pytest.raises(ValueError, match=r"must be \[N, E\] with N = 50 meanings"):
        r_precision(x, x[:, :2], range(50))
    with pytest.raises(ValueError, match=r"`folds` must be in 1\.\.50"):
        r_precision(x, x, range(50), candidates=10, folds=51)
