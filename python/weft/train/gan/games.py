"""What generator and discriminator want of one another, in either design."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.train.gan.attn import AttnDiscriminator, StageDiscriminator, smaller
from weft.train.gan.drawn import Drawn, Text
from weft.train.gan.ranks import of_all, own_rows
from weft.train.gan.ssa import SsaDiscriminator


class Game(Protocol):
    """A discriminator and both sides' losses."""

    @property
    def discriminator(self) -> nn.Module:
        """What is played against."""

    def discriminator_loss(self, real: Tensor, text: Text, fake: Drawn) -> Tensor:
        """Real pictures with their captions against generated ones, and against captions of others."""

    def generator_loss(self, fake: Drawn, text: Text) -> Tensor:
        """Generated pictures should pass for real ones of their captions."""

    def penalty(self, real: Tensor, text: Text) -> Tensor | None:
        """On the discriminator's slope at real pictures; None where the design has none."""


class SsaGame:
    """Hinge losses, and a penalty on the slope at real pictures that match.

    Source:
        DF-GAN (Tao et al. 2022, arXiv:2008.05865, equations 1 and 2), as SSA-GAN takes it.
    """

    def __init__(self, discriminator: SsaDiscriminator) -> None:
        self._discriminator = discriminator

    @property
    def discriminator(self) -> SsaDiscriminator:
        return self._discriminator

    def discriminator_loss(self, real: Tensor, text: Text, fake: Drawn) -> Tensor:
        judge, features = self.discriminator.judge, self.discriminator.features(real)
        matching = F.relu(1 - judge(features, text.sentence)).mean()
        mismatched = F.relu(1 + judge(features, _of_others(text.sentence))).mean()
        generated = F.relu(1 + judge(self.discriminator.features(fake.image), text.sentence)).mean()
        return matching + (generated + mismatched) / 2

    def generator_loss(self, fake: Drawn, text: Text) -> Tensor:
        return -self.discriminator.judge(self.discriminator.features(fake.image), text.sentence).mean()

    def penalty(self, real: Tensor, text: Text) -> Tensor:
        # a sixth power leaves the range of half precision at once
        with torch.autocast(real.device.type, enabled=False):
            real, sentence = (x.detach().float().requires_grad_() for x in (real, text.sentence))
            judged = self.discriminator.judge(self.discriminator.features(real), sentence)
            return matching_aware_penalty(judged, real, sentence)


def matching_aware_penalty(judged: Tensor, image: Tensor, sentence: Tensor) -> Tensor:
    """2 E |gradient of D(x, s) by (x, s)|^6.

    Args:
        judged: D(x, s), [B], each computed from its own row alone.
        image, sentence: x [B, ...] and s [B, W].

    Source:
        MA-GP of DF-GAN, arXiv:2008.05865, equation 2.
    """
    slopes = torch.autograd.grad(judged.sum(), (image, sentence), create_graph=True)
    square = sum(slope.flatten(1).square().sum(1) for slope in slopes)
    return 2 * torch.as_tensor(square).pow(3).mean()


class AttnGame:
    """Cross-entropy at every stage, of pictures by themselves and with their sentences.

    Source:
        AttnGAN (Xu et al. 2018, arXiv:1711.10485, equations 4 and 5), weighed as in its released code.
    """

    def __init__(self, discriminator: AttnDiscriminator) -> None:
        self._discriminator = discriminator

    @property
    def discriminator(self) -> AttnDiscriminator:
        return self._discriminator

    def discriminator_loss(self, real: Tensor, text: Text, fake: Drawn) -> Tensor:
        stages = self._stages()
        others = _of_others(text.sentence)
        losses = []
        for stage, true, false in zip(stages, smaller(real, len(stages)), fake.images, strict=True):
            of_true, of_false = stage.features(true), stage.features(false)
            real_loss = _real(stage.alone(of_true)) + _real(stage.together(of_true, text.sentence))
            fake_loss = _fake(stage.alone(of_false)) + _fake(stage.together(of_false, text.sentence))
            fake_loss = fake_loss + _fake(stage.together(of_true, others))
            losses.append(real_loss / 2 + fake_loss / 3)
        return torch.stack(losses).sum()

    def generator_loss(self, fake: Drawn, text: Text) -> Tensor:
        losses = []
        for stage, image in zip(self._stages(), fake.images, strict=True):
            features = stage.features(image)
            losses.append(_real(stage.alone(features)) + _real(stage.together(features, text.sentence)))
        return torch.stack(losses).sum()

    def penalty(self, real: Tensor, text: Text) -> None:
        return None

    def _stages(self) -> list[StageDiscriminator]:
        return list(self.discriminator.stages)  # type: ignore[arg-type]


def _of_others(sentence: Tensor) -> Tensor:
    """To each row the sentence of the next, over all processes."""
    return own_rows(of_all(sentence).roll(-1, 0))


def _real(logits: Tensor) -> Tensor:
    return F.softplus(-logits).mean()


def _fake(logits: Tensor) -> Tensor:
    return F.softplus(logits).mean()
