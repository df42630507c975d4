"""Captioned latents as a function of the samples seen: what both denoisers are trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from weft.train.core import Batch, torch_generator

from ..captions import caption
from ..world import scene
from .bank import LatentBank
from .config import CaptionedConfig


def token_ids_of(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """[B, N] int64, padded and cut exactly as the stock pipelines do it."""
    return tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids


def slices(size: int, generator: torch.Generator) -> Tensor:
    """[size] float32 in [0, 1): one number from each of as many equal slices.

    A batch's loss then says less about its luck with the times.
    """
    return (torch.rand(size, generator=generator) + torch.arange(size)) / size


def captioned_batches(
    bank: LatentBank,
    tokenizer: CLIPTokenizer,
    config: CaptionedConfig,
    draw: Callable[[torch.Generator], tuple[Tensor, ...]],
    seed: int,
    process: int,
) -> Callable[[int], Batch]:
    """The function from the samples seen to the next batch of one process.

    Args:
        bank: Latents of the scenes of ``seed``.
        tokenizer: Its length is the length of the captions.
        config: Batch size and the share of empty captions.
        draw: What else a batch has, from the random stream that is the batch's own.
        seed: Non-negative.
        process: Index of the process.

    Returns:
        A batch is clean latents, noise, token ids and what ``draw`` gives.
    """

    def caption_of(index: int, sample: int) -> str:
        rng = np.random.default_rng([seed, sample])
        return "" if rng.random() < config.caption_dropout else caption(scene(seed, index), rng)

    def batch_at(samples: int) -> Batch:
        first = samples + process * config.batch_size
        generator = torch_generator(seed, first)
        indices = torch.randint(len(bank.mean), (config.batch_size,), generator=generator)
        posterior_noise, noise = torch.randn(2, config.batch_size, *bank.mean.shape[1:], generator=generator)
        drawn = draw(generator)
        texts = [caption_of(index, first + i) for i, index in enumerate(indices.tolist())]
        return bank.sample(indices, posterior_noise), noise, token_ids_of(tokenizer, texts), *drawn

    return batch_at
