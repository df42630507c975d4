"""Which pictures are no negatives of each other: against a plain restatement, and as the game's losses see them."""

from __future__ import annotations

from typing import Any

import gans
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from weft.train.distribution.kinds import FakeToFake, FakeToReal
from weft.train.distribution.negatives import linked, with_negatives
from weft.train.gan.batches import GanBatch, GanBatches
from weft.train.gan.fit import objective_of
from weft.train.gan.matching_stage import untrained
from weft.train.gan.pictures import read_pictures

ROWS = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 15), min_size=width, max_size=width), min_size=1, max_size=9)
)


@given(ROWS)
def test_rows_are_linked_by_what_they_share(rows: list[list[int]]) -> None:
    sets: list[set[int]] = []  # of numbers that rows share, each apart from the others
    for row in rows:
        met = [one for one in sets if one & set(row)]
        sets = [one for one in sets if one not in met] + [set(row).union(*met)]
    own = [next(one for one in sets if row[0] in one) for row in rows]
    assert linked(torch.tensor(rows)).tolist() == [own.index(one) for one in own]


def test_losses_without_negatives_are_left_out() -> None:
    f2f, f2r = FakeToFake(), FakeToReal(class_mask=False)
    several, one = torch.tensor([3, 4, 3]), torch.tensor([3, 3, 3])
    assert with_negatives([f2f, f2r], several, several) == [f2f, f2r]
    assert with_negatives([f2f, f2r], several, None) == [f2f, f2r]
    assert with_negatives([f2f, f2r], several, one) == [f2r]
    assert with_negatives([f2f, f2r], one, several) == []


@pytest.mark.parametrize("baseline", ["ssa", "attn"])
def test_a_caption_in_common_masks_whichever_view_it_is_of(baseline: Any) -> None:
    Accelerator(cpu=True)
    config = gans.config(baseline, losses="f2f,f2r", dropout=0.0)
    pictures = read_pictures(gans.scenes(), 64, crop=False, flip=False, split="train")
    matching = untrained(pictures, config.chosen_matching, length=18, seed=0)
    objective = objective_of(config, matching)
    batch = GanBatches(pictures, matching.text.numbers, 4, objective.generator.noise_width)(0)  # type: ignore[arg-type]

    def losses(captions: list[list[int]], classes: list[int]) -> Tensor:
        known = GanBatch(*batch)._replace(captions=torch.tensor(captions), classes=torch.tensor(classes))
        torch.manual_seed(0)
        objective("discriminator", *known)
        found = objective("generator", *known)
        return torch.stack([found["f2f"], found["f2r"]])

    apart = [[0, 1], [2, 3], [4, 5], [6, 7]]
    expected = losses(apart, [9, 9, -1, -1])
    torch.testing.assert_close(losses([[0, 1], [2, 0], [4, 5], [6, 7]], [-1] * 4), expected)
    torch.testing.assert_close(losses([[0, 1], [2, 1], [4, 5], [6, 7]], [-1] * 4), expected)
    assert (losses(apart, [-1] * 4) > expected).all(), "fewer negatives, a smaller loss"
