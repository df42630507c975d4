"""How well captions match pictures: by their words and regions, and as wholes.

Source:
    DAMSM of AttnGAN (Xu et al. 2018, arXiv:1711.10485, equations 7 to 13).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weft import ops
from weft.train.gan.drawn import Text

TINY = 1e-12  # least square of a length


def word_scores(regions: Tensor, text: Text, *, attention: float, sharpness: float) -> Tensor:
    """R of every picture with every caption: how well each word finds its part of the picture.

        s    = words of caption j . regions of picture i,  softmax over words
        c_t  = sum_r softmax_r(attention * s_tr) region_r
        R    = log sum_t exp(sharpness * cos(c_t, word_t))

    Args:
        regions: [N, R, W].
        text: Of M captions; words [M, T, W].
        attention: gamma_1.
        sharpness: gamma_2.

    Returns:
        [N, M].
    """
    words, padding = text.words, text.padding
    products = torch.einsum("nrw,mtw->nmrt", regions, words)
    near = products.masked_fill(padding[:, None], -torch.inf).softmax(-1)
    # the zeros of padding make its weights uniform; what comes of them is left out below
    weights = (attention * near).softmax(2)
    # c_t itself, [N, M, T, W], would be the largest tensor by far: its products with the word and with itself follow
    # from the products of the regions
    with_word = (weights * products).sum(2)
    gram = torch.einsum("nrw,nsw->nrs", regions, regions)
    square = (weights * torch.einsum("nmst,nrs->nmrt", weights, gram)).sum(2)
    lengths = square.clamp_min(TINY).sqrt() * words.square().sum(-1).clamp_min(TINY).sqrt()
    return (sharpness * with_word / lengths).masked_fill(padding, -torch.inf).logsumexp(-1)


def words_loss(
    regions: Tensor, text: Text, alike: Tensor, *, attention: float, sharpness: float, temperature: float
) -> Tensor:
    """Cross-entropy of the right caption among all, and of the right picture, added.

    Args:
        regions: [N, R, W].
        text: Of the N captions.
        alike: Ids [N], equal where a caption fits another's picture too: such a pair is left out.
        attention, sharpness: As of ``word_scores``.
        temperature: 1 / gamma_3.
    """
    scores = word_scores(regions, text, attention=attention, sharpness=sharpness) / temperature
    left_out = (alike[:, None] == alike) & ~torch.eye(len(alike), dtype=torch.bool, device=alike.device)
    scores, right = scores.masked_fill(left_out, -torch.inf), torch.arange(len(alike), device=alike.device)
    return F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)


def sentence_loss(codes: Tensor, sentences: Tensor, alike: Tensor, *, temperature: float) -> Tensor:
    """The same of whole pictures and sentences, [N, W] both, by their cosine."""
    # the published loss adds the directions, the op averages them
    return 2 * ops.contrastive_loss(
        codes, sentences, classes=alike, temperature=temperature, symmetric=True, normalize=True
    )
