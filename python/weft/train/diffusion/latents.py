"""What every fit on a diffusion pipeline needs of it: latents and text encoded once, noise, targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from weft.attach import Host, TextReader
from weft.train.core import shuffled, torch_generator
from weft.train.pictures import View


@dataclass(frozen=True)
class Latents:
    """Posteriors of the autoencoder, one a view, scaled as the denoiser sees them; on the CPU.

    Attributes:
        mean, std: [views, C, h, w] fp32.
        time_ids: [views, 6] fp32, a picture's size and crop as SDXL gets them.
    """

    mean: Tensor
    std: Tensor
    time_ids: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one, [C, h, w]."""
        return tuple(self.mean.shape[1:])

    def part(self, places: Sequence[int]) -> Latents:
        """Those of some views."""
        indices = torch.tensor(places, dtype=torch.int64)
        return Latents(self.mean[indices], self.std[indices], self.time_ids[indices])

    def sample(self, noise: Tensor) -> Tensor:
        """Latents [views, C, h, w], drawn with ``noise`` of the same shape."""
        return self.mean + self.std * noise


def picture_size(host: Host, resolution: int | None, *, who: str) -> int:
    """Side in pixels of the pictures to train on; None for the model's own.

    Raises:
        ValueError: One that the model's cells and patches do not fill.
    """
    size, step = host.native_size if resolution is None else resolution, host.size_step
    if size < step or size % step:
        raise ValueError(f"{who}: `resolution` must be a multiple of {step} pixels; got {size}")
    return size


def check_denoiser(host: Host, *, who: str) -> None:
    """Refuse what is not a pipeline from text to image.

    Raises:
        TypeError: No pipeline.
        ValueError: One that takes more than a latent, as for inpainting, or of a family that nothing is trained on.
    """
    if not host.encodes_prompts:
        given = type(host.pipeline or host.model).__name__
        raise TypeError(f"{who}: needs a pipeline, for its text encoder; got {given}")
    if not host.family.is_trained:
        raise ValueError(
            f"{who}: nothing is trained on models like {type(host.model).__name__} ({host.family.about}) yet; attach "
            "to them what needs no training"
        )
    channels, latent = host.family.latent_channels(host.model), host.pipeline.vae.config.latent_channels
    if channels != latent:
        raise ValueError(
            f"{who}: needs a text-to-image model, which takes the {latent} channels of a latent; this one "
            f"takes {channels}, as for inpainting; train on its text-to-image model, the result fits both"
        )


def check_words(host: Host, words: Mapping[str, str], caption: str, *, who: str) -> None:
    """Refuse words and a caption that do not reach the text encoder.

    Args:
        words: Argument of ``who`` -> its text.

    Raises:
        ValueError: A word without a token, or a caption that would be cut off.
    """
    tokenizers = [tokenizer for reader, tokenizer in host.tokenizers() if not reader.follows]
    for tokenizer in tokenizers:
        for name, word in words.items():
            ids = tokenizer(word, add_special_tokens=False).input_ids
            if not ids or tokenizer.unk_token_id in ids:
                raise ValueError(
                    f"{who}: `{name}` must be text that the model's tokenizer knows; {word!r} has no token; "
                    "use another word"
                )
    if not caption_fits(host, caption):
        limit = min(tokenizer.model_max_length for tokenizer in tokenizers)
        raise ValueError(
            f"{who}: the caption must fit the text encoder's {limit} tokens, start and end included; {caption[:80]!r} "
            "is longer; use a shorter one"
        )


def caption_fits(host: Host, caption: str, text_length: int | None = None) -> bool:
    """Whether no tokenizer would cut ``caption`` off; ``text_length`` as of ``Host.encode_captions``."""

    def fits(reader: TextReader, tokenizer: Any) -> bool:
        limit = tokenizer.model_max_length
        if reader.follows:
            limit = text_length or host.family.text_length
        return len(tokenizer(caption, truncation=False, verbose=False).input_ids) <= limit

    return all(fits(*each) for each in host.tokenizers())


def overflows(vae: Any) -> bool:
    """Whether an autoencoder is in half precision and cannot be run in it, as that of SDXL."""
    return vae.dtype == torch.float16 and bool(vae.config.get("force_upcast", False))


def scaling_of(vae: Any) -> tuple[float, float]:
    """(shift, scale): the denoiser sees (latents - shift) * scale."""
    return vae.config.get("shift_factor") or 0.0, vae.config.scaling_factor


@torch.no_grad()
def encode_views(pipe: Any, found: Iterable[View]) -> Latents:
    """Encode each view once; those that are made as they are asked for are never all in memory.

    An autoencoder that overflows in fp16 (SDXL's) is run in fp32.
    """
    vae = pipe.vae
    is_widened = overflows(vae)
    if is_widened:
        vae.to(torch.float32)
    mean, std, time_ids = [], [], []
    try:
        for view in found:  # one at a time: the autoencoder needs the most memory of all
            posterior = vae.encode(view.pixels[None].to(vae.device, vae.dtype)).latent_dist
            mean.append(posterior.mean.float().cpu())
            std.append(posterior.std.float().cpu())
            time_ids.append([*view.original, *view.corner, *view.pixels.shape[-2:]])
    finally:
        if is_widened:
            vae.to(torch.float16)
    shift, scale = scaling_of(vae)
    ids = torch.tensor(time_ids, dtype=torch.float32)
    return Latents((torch.cat(mean) - shift) * scale, torch.cat(std) * scale, ids)


def latent_batches(
    latents: Latents, timesteps: int, *, batch_size: int, seed: int, process: int
) -> Callable[[int], tuple[Tensor, ...]]:
    """The function from the samples seen to the next batch of a process: latents, noise, timesteps, time ids.

    Every view comes once an epoch, and each time with other noise.
    """
    count, size = len(latents.mean), batch_size

    def batch_at(samples: int) -> tuple[Tensor, ...]:
        first = samples + process * size
        drawn = latents.part([shuffled(count, seed, *divmod(first + i, count)) for i in range(size)])
        generator = torch_generator(seed, 0, first)
        posterior, noise = torch.randn(2, size, *latents.shape, generator=generator)
        times = torch.randint(timesteps, (size,), generator=generator)
        return drawn.sample(posterior), noise, times, drawn.time_ids

    return batch_at


@contextmanager
def frozen(model: Any, gradient_checkpointing: bool = False) -> Iterator[None]:
    """No parameter of ``model`` asks for gradients meanwhile; afterwards all is as before."""
    required = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    turns_on = gradient_checkpointing and not model.is_gradient_checkpointing
    try:
        model.requires_grad_(False)
        if turns_on:
            model.enable_gradient_checkpointing()
        yield
    finally:
        if turns_on:
            model.disable_gradient_checkpointing()
        for parameter, value in required:
            parameter.requires_grad_(value)


def training_scheduler(pipe: Any) -> DDPMScheduler:
    """The noise schedule that the pipeline's own scheduler was made from.

    Raises:
        ValueError: A schedule of another kind, such as flow matching.
    """
    config = pipe.scheduler.config
    kind = config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction", "sample") or "beta_schedule" not in config:
        raise ValueError(
            f"train: needs a denoiser of epsilon, v or sample prediction; {type(pipe.scheduler).__name__}"
        )
    return DDPMScheduler.from_config(config)


def denoising_target(scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the denoiser should give for ``scheduler.add_noise(latents, noise, timesteps)``.

    Source:
        Ho et al. 2020, arXiv:2006.11239 (noise); Salimans and Ho 2022, arXiv:2202.00512 (v).
    """
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    return noise if scheduler.config.prediction_type == "epsilon" else latents


def min_snr_weight(scheduler: Any, timesteps: Tensor, gamma: float) -> Tensor:
    """Loss weights [B] that count an error of the clean picture ``min(snr, gamma)`` times; ones for ``gamma`` = 0.

    Source:
        Hang et al. 2023, arXiv:2303.09556, section 3.4.
    """
    if gamma == 0:
        return torch.ones(len(timesteps), device=timesteps.device)
    kept = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = kept / (1.0 - kept)
    # by how much an error of what is predicted is larger than that of the clean picture, squared
    scale = {"epsilon": snr, "v_prediction": snr + 1.0, "sample": torch.ones_like(snr)}
    return snr.clamp(max=gamma) / scale[scheduler.config.prediction_type]
