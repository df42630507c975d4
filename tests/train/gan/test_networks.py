"""What the sheets say of both designs: shapes, starts that are no change, who looks at what."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.testing import assert_differs
from weft.train.gan.attn import AttnDiscriminator, AttnGenerator, Augmentation, WordAttention, smaller
from weft.train.gan.blocks import ConditionalNorm
from weft.train.gan.config import RESOLUTIONS
from weft.train.gan.drawn import Text
from weft.train.gan.ssa import SsaDiscriminator, SsaGenerator


def text_of(count: int, width: int, length: int = 5, seed: int = 0) -> Text:
    generator = torch.Generator().manual_seed(seed)
    padding = torch.arange(length) >= torch.randint(1, length + 1, (count, 1), generator=generator)
    words = torch.randn(count, length, width, generator=generator)
    return Text(words, torch.randn(count, width, generator=generator), padding)


def ssa(resolution: int = 64, width: int = 2) -> SsaGenerator:
    torch.manual_seed(0)
    return SsaGenerator(resolution, width=width, noise=4, sentence=6, hidden=8, mask_width=5)


@pytest.mark.parametrize("resolution", [64, 128, 256])
def test_an_ssa_generator_has_a_block_and_a_mask_a_size(resolution: int) -> None:
    generator = ssa(resolution)
    sizes: list[int] = []
    for predictor in generator.masks:
        predictor.register_forward_hook(lambda module, given, found: sizes.append(found.shape[2]))
        assert [layer.weight.shape for layer in (predictor.layers[0], predictor.layers[3])] == [
            (5, predictor.layers[0].in_channels, 3, 3),
            (1, 5, 1, 1),
        ]
    drawn = generator(torch.randn(2, 4), text_of(2, 6))
    assert drawn.image.shape == (2, 3, resolution, resolution) and len(drawn.images) == 1
    assert drawn.image.abs().max() <= 1
    # each looks at the map before it is enlarged, and none at the picture itself
    blocks = len(generator.blocks)
    assert blocks == {64: 5, 128: 6, 256: 7}[resolution]
    assert sizes == [4, *(4 * 2**number for number in range(blocks - 1))]


def test_the_published_widths_of_an_ssa_generator() -> None:
    generator = SsaGenerator(256, width=64, noise=100, sentence=256)
    assert [block.first.out_channels for block in generator.blocks] == [512, 512, 512, 512, 256, 128, 64]
    assert generator.first.weight.shape == (8 * 64 * 4 * 4, 100)
    assert generator.masks[0].layers[0].out_channels == 100
    discriminator = SsaDiscriminator(256, width=64, sentence=256)
    assert [block.residual[0].out_channels for block in discriminator.blocks] == [128, 256, 512, 1024, 1024, 1024]


def test_a_residual_begins_as_nothing() -> None:
    generator, noise = ssa(), torch.randn(2, 4)
    assert all(block.gamma.item() == 0 for block in generator.blocks)
    one, other = (generator(noise, text_of(2, 6, seed=seed)).image for seed in (0, 1))
    assert torch.equal(one, other)  # and so does the text
    nn.init.ones_(generator.blocks[0].gamma)
    nn.init.normal_(generator.blocks[0].first_norm.modulation.out.weight)
    one, other = (generator(noise, text_of(2, 6, seed=seed)).image for seed in (0, 1))
    assert (one - other).abs().max() > 1e-3


def test_a_conditional_norm_begins_as_a_plain_one() -> None:
    norm, x = ConditionalNorm(3, 6, 8), torch.randn(4, 3, 5, 5)
    assert not norm.modulation.out.weight.any() and not norm.modulation.out.bias.any()
    plain = F.batch_norm(x, None, None, training=True)
    torch.testing.assert_close(norm(x, torch.randn(4, 6), torch.rand(4, 1, 5, 5)), plain)


def test_a_mask_says_how_much_of_the_text_a_pixel_takes() -> None:
    torch.manual_seed(0)
    norm, x, sentence = ConditionalNorm(3, 6, 8), torch.randn(4, 3, 5, 5), torch.randn(4, 6)
    nn.init.normal_(norm.modulation.out.weight)
    mask = torch.rand(4, 1, 5, 5)
    scale, shift = norm.modulation(sentence)
    plain = F.batch_norm(x, None, None, training=True)
    torch.testing.assert_close(norm(x, sentence, mask), (1 + mask * scale) * plain + mask * shift)
    torch.testing.assert_close(norm(x, sentence, 0 * mask), plain)
    torch.testing.assert_close(norm(x, sentence), norm(x, sentence, torch.ones_like(mask)))


def test_a_one_way_discriminator_says_one_number_of_picture_and_sentence() -> None:
    torch.manual_seed(0)
    discriminator = SsaDiscriminator(64, width=2, sentence=6)
    features = discriminator.features(torch.randn(3, 3, 64, 64))
    assert features.shape == (3, 32, 4, 4)
    one, other = (discriminator.judge(features, torch.randn(3, 6)) for _ in range(2))
    assert one.shape == (3,)
    assert_differs(one, other)
    # no other way from a picture to a number
    assert not [
        name for name, module in discriminator.named_children() if name not in {"first", "blocks", "joint", "last"}
    ]
    assert discriminator.codes((torch.randn(3, 3, 64, 64),)).shape == (3, 32)


def attn(**changes: object) -> AttnGenerator:
    torch.manual_seed(0)
    return AttnGenerator(64, **{"stages": 3, "width": 4, "noise": 5, "words": 6, "residuals": 1, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("style_blocks", [False, True])
def test_an_attn_generator_draws_every_stage(style_blocks: bool) -> None:
    generator = attn(style_blocks=style_blocks)
    drawn = generator(torch.randn(2, generator.noise_width), text_of(2, 6))
    assert [tuple(image.shape) for image in drawn.images] == [(2, 3, size, size) for size in (16, 32, 64)]
    assert drawn.divergence is not None and drawn.divergence > 1e-3
    sizes = [image.shape[-1] for image in smaller(torch.randn(2, 3, 64, 64), 3)]
    assert sizes == [16, 32, 64]


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_every_resolution_is_drawn_and_judged(resolution: int) -> None:
    generator, text = ssa(resolution, width=1), text_of(2, 6)
    discriminator = SsaDiscriminator(resolution, width=1, sentence=6)
    image = generator(torch.randn(2, 4), text).image
    assert image.shape == (2, 3, resolution, resolution)
    assert discriminator.judge(discriminator.features(image), text.sentence).shape == (2,)

    staged = AttnGenerator(resolution, stages=2, width=1, noise=5, words=6, residuals=1)
    stages = AttnDiscriminator(resolution, stages=2, width=1, sentence=6)
    drawn = staged(torch.randn(2, staged.noise_width), text)
    sizes = [resolution // 2, resolution]
    assert [image.shape[-1] for image in drawn.images] == [image.shape[-1] for image in smaller(image, 2)] == sizes
    for stage, image in zip(stages.stages, drawn.images, strict=True):
        features: Tensor = stage.features(image)
        assert stage.alone(features).shape == stage.together(features, text.sentence).shape == (2,)


def test_what_can_be_drawn() -> None:
    assert RESOLUTIONS == (64, 80, 96, 112, 128, 160, 192, 224, 256)


def test_a_style_begins_without_influence_on_the_norms_and_is_learnt() -> None:
    generator = attn(style_blocks=True)
    drawn = generator(torch.randn(2, generator.noise_width), text_of(2, 6))
    drawn.image.square().sum().backward()
    up = generator.ups[0]
    assert not up.norm.modulation.out.weight.any() and up.norm.modulation.out.weight.grad.abs().max() > 1e-2


def test_words_are_attended_to_as_plain_attention_does() -> None:
    torch.manual_seed(0)
    attention, x, text = WordAttention(4, 6), torch.randn(3, 4, 5, 5, requires_grad=True), text_of(3, 6)
    keys = attention.project(text.words)
    scores = torch.einsum("bchw,btc->bhwt", x, keys).masked_fill(text.padding[:, None, None], -torch.inf)
    expected = torch.einsum("bhwt,btc->bchw", scores.softmax(-1), keys)
    found = attention(x, text)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(found)
    torch.testing.assert_close(
        torch.autograd.grad((found * weights).sum(), (x, attention.project.weight)),
        torch.autograd.grad((expected * weights).sum(), (x, attention.project.weight)),
        atol=1e-4,
        rtol=1e-4,
    )


def test_padding_of_one_caption_changes_nothing_for_another() -> None:
    attention, x, text = WordAttention(4, 6), torch.randn(3, 4, 5, 5), text_of(3, 6)
    together = attention(x, text)
    alone = attention(x[1:2], Text(text.words[1:2], text.sentence[1:2], text.padding[1:2]))
    torch.testing.assert_close(together[1:2], alone, atol=1e-6, rtol=1e-5)


def test_an_augmented_condition_diverges_as_its_formula_says() -> None:
    torch.manual_seed(0)
    augmentation, sentence = Augmentation(6, 4), torch.randn(3, 6)
    condition, divergence = augmentation(sentence, torch.zeros(3, 4))
    mean, log_variance = augmentation.layers(sentence).chunk(2, 1)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(divergence, expected)
    assert torch.equal(condition, mean)


def test_an_attn_discriminator_has_two_ways_a_stage() -> None:
    discriminator = AttnDiscriminator(64, stages=3, width=2, sentence=6)
    for stage, size in zip(discriminator.stages, (16, 32, 64), strict=True):
        features: Tensor = stage.features(torch.randn(2, 3, size, size))
        assert features.shape[2:] == (4, 4)
        assert stage.alone(features).shape == stage.together(features, torch.randn(2, 6)).shape == (2,)
    assert discriminator.codes(smaller(torch.randn(2, 3, 64, 64), 3)).shape == (2, 16)
