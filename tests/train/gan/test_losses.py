"""Losses of the games and of the matching model against plain restatements."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.train.gan.drawn import Drawn, Text
from weft.train.gan.games import AttnGame, SsaGame, matching_aware_penalty
from weft.train.gan.matching_losses import sentence_loss, word_scores, words_loss
from weft.train.gan.ssa import SsaDiscriminator


class Judge(nn.Module):
    """Returns what it is given: features are the pictures, the sentence is added."""

    def features(self, image: Tensor) -> Tensor:
        return image.flatten(1)[:, 0]

    def judge(self, features: Tensor, sentence: Tensor) -> Tensor:
        return features + sentence[:, 0]


def pictures(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 2, 2)


def text(*values: float) -> Text:
    sentence = torch.tensor(values)[:, None]
    return Text(sentence[:, None], sentence, torch.zeros(len(values), 1, dtype=torch.bool))


def test_hinge_losses_by_hand() -> None:
    game = SsaGame(Judge())  # type: ignore[arg-type]
    real, fake = pictures(0.5, 2.0), Drawn((pictures(-3.0, 0.25),))
    captions = text(0.0, 1.0)
    # real 0.5, 3 -> 0.5, 0; with the other's caption 1.5, 2 -> 2.5, 3; generated -3, 1.25 -> 0, 2.25
    expected = 0.25 + (1.125 + 2.75) / 2
    assert game.discriminator_loss(real, captions, fake).item() == pytest.approx(expected)
    assert game.generator_loss(fake, captions).item() == pytest.approx(-(-3.0 + 1.25) / 2)


def test_the_penalty_is_twice_the_mean_sixth_power_of_the_slope() -> None:
    torch.manual_seed(0)
    discriminator = SsaDiscriminator(64, width=2, sentence=3).double()
    with torch.no_grad():
        for block in discriminator.blocks:
            block.gamma.fill_(0.7)  # or the residuals would have no slope
        discriminator.last.weight *= 100  # and a slope near 1
    image = torch.randn(3, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    sentence = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)

    def judged(image: Tensor, sentence: Tensor) -> Tensor:
        return discriminator.judge(discriminator.features(image), sentence)

    norms = []
    for row in range(3):
        jacobians = torch.autograd.functional.jacobian(judged, (image[row : row + 1], sentence[row : row + 1]))
        norms.append(math.sqrt(sum(one.square().sum().item() for one in jacobians)))
    expected = 2 * sum(norm**6 for norm in norms) / 3
    found = matching_aware_penalty(judged(image, sentence), image, sentence)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_the_gradient_of_the_penalty_is_that_of_finite_differences() -> None:
    # of a smooth judge: with rectifiers the slope jumps
    generator = torch.Generator().manual_seed(0)
    image, sentence = (torch.randn(3, width, generator=generator, dtype=torch.float64) for width in (4, 2))
    weight = torch.randn(6, 6, generator=generator, dtype=torch.float64, requires_grad=True)

    def penalty(weight: Tensor) -> Tensor:
        x, s = image.clone().requires_grad_(), sentence.clone().requires_grad_()
        return matching_aware_penalty((torch.cat([x, s], 1) @ weight).tanh().sum(1), x, s)

    assert penalty(weight) > 1
    assert torch.autograd.gradcheck(penalty, (weight,))


def test_the_penalty_of_the_game_is_that_of_matching_pairs() -> None:
    game = SsaGame(Judge())  # type: ignore[arg-type]
    # the slope is 1 by one pixel and 1 by one number of the sentence
    assert game.penalty(pictures(0.5, 2.0), text(0.0, 1.0)).item() == pytest.approx(2 * math.sqrt(2) ** 6)


class Stage(nn.Module):
    """A stage that returns what it is given."""

    def features(self, image: Tensor) -> Tensor:
        return image.flatten(1)[:, 0]

    def alone(self, features: Tensor) -> Tensor:
        return 2 * features

    def together(self, features: Tensor, sentence: Tensor) -> Tensor:
        return features + sentence[:, 0]


class Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Stage()])


def cross_entropy(logits: list[float], is_real: bool) -> float:
    return sum(math.log(1 + math.exp(-x if is_real else x)) for x in logits) / len(logits)


def test_cross_entropies_of_a_stage_by_hand() -> None:
    game = AttnGame(Stages())  # type: ignore[arg-type]
    real, fake, captions = pictures(0.5, 2.0), Drawn((pictures(-3.0, 0.25),)), text(0.0, 1.0)
    truths = cross_entropy([1.0, 4.0], True) + cross_entropy([0.5, 3.0], True)
    lies = cross_entropy([-6.0, 0.5], False) + cross_entropy([-3.0, 1.25], False) + cross_entropy([1.5, 2.0], False)
    assert game.discriminator_loss(real, captions, fake).item() == pytest.approx(truths / 2 + lies / 3)
    wanted = cross_entropy([-6.0, 0.5], True) + cross_entropy([-3.0, 1.25], True)
    assert game.generator_loss(fake, captions).item() == pytest.approx(wanted)
    assert game.penalty(real, captions) is None


# --- the matching model ---------------------------------------------------------------------------------------------

GAMMAS = {"attention": 4.0, "sharpness": 5.0}


def matched(count: int = 5, length: int = 4) -> tuple[Tensor, Text]:
    generator = torch.Generator().manual_seed(0)
    regions = torch.randn(count, 6, 7, generator=generator, dtype=torch.float64)
    words = torch.randn(count, length, 7, generator=generator, dtype=torch.float64)
    padding = torch.arange(length) >= torch.tensor([4, 2, 1, 3, 4])[:count, None]
    return regions, Text(words, words.mean(1), padding)


def plain_score(regions: Tensor, words: Tensor) -> float:
    """Of one picture [R, W] and the words of one caption [T, W], loop by loop."""
    similarity = words @ regions.T  # [T, R]
    near = similarity.softmax(0)
    total = 0.0
    for number, word in enumerate(words):
        context = (GAMMAS["attention"] * near[number]).softmax(0) @ regions
        total += math.exp(GAMMAS["sharpness"] * F.cosine_similarity(context, word, dim=0).item())
    return math.log(total)


def test_word_scores_equal_a_plain_restatement() -> None:
    regions, captions = matched()
    found = word_scores(regions, captions, **GAMMAS)
    for i in range(5):
        for j in range(5):
            words = captions.words[j, ~captions.padding[j]]
            assert found[i, j].item() == pytest.approx(plain_score(regions[i], words), rel=1e-9)


def plain_loss(scores: Tensor, alike: list[int]) -> float:
    """Both directions, added; pairs that are alike but not their own are left out."""
    total = 0.0
    count = len(alike)
    for i in range(count):
        for row in (scores[i], scores[:, i]):
            kept = [row[j].item() for j in range(count) if j == i or alike[j] != alike[i]]
            total += (math.log(sum(math.exp(x) for x in kept)) - row[i].item()) / count
    return total


@pytest.mark.parametrize("alike", [[0, 1, 2, 3, 4], [0, 1, 0, 3, 3]])
def test_matching_losses_equal_a_plain_restatement(alike: list[int]) -> None:
    regions, captions = matched()
    scores = 10 * word_scores(regions, captions, **GAMMAS)
    found = words_loss(regions, captions, torch.tensor(alike), **GAMMAS, temperature=0.1)
    assert found.item() == pytest.approx(plain_loss(scores, alike), rel=1e-9)
    codes = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cosines = F.normalize(codes) @ F.normalize(captions.sentence).T
    found = sentence_loss(codes, captions.sentence, torch.tensor(alike), temperature=0.1)
    assert found.item() == pytest.approx(plain_loss(10 * cosines, alike), rel=1e-9)


def test_padding_takes_no_part_and_gets_no_gradient() -> None:
    regions, captions = matched()
    words = captions.words.clone().requires_grad_()
    given = Text(words, captions.sentence, captions.padding)
    loss = words_loss(regions, given, torch.arange(5), **GAMMAS, temperature=0.1)
    (gradient,) = torch.autograd.grad(loss, words)
    assert gradient.isfinite().all() and not gradient[captions.padding].any()
    changed: Any = torch.where(captions.padding[..., None], 9.0, captions.words)
    again = words_loss(
        regions, Text(changed, captions.sentence, captions.padding), torch.arange(5), **GAMMAS, temperature=0.1
    )
    torch.testing.assert_close(again, loss.detach())
