"""What every fit on a diffusion pipeline needs of it: latents and text encoded once, noise, targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from weft.attach import PIXELS_PER_CELL, denoiser_of
from weft.train.core import shuffled, torch_generator
from weft.train.pictures import View

T5_LENGTH = 256  # of the text of Stable Diffusion 3, where its pipeline is told nothing


@dataclass(frozen=True)
class Latents:
    """Posteriors of the autoencoder, one a view, scaled as the denoiser sees them; on the CPU.

    Attributes:
        mean, std: [views, C, h, w] fp32.
        time_ids: [views, 6] fp32, what SDXL is told of a picture's size and crop.
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


@dataclass(frozen=True)
class TextStates:
    """Encoded captions.

    Attributes:
        states: [texts, Nk, C].
        pooled: [texts, Cp] for SDXL and SD3, else None.
    """

    states: Tensor
    pooled: Tensor | None

    def repeated(self, times: int) -> TextStates:
        """A single caption, ``times`` times."""
        pooled = None if self.pooled is None else self.pooled.expand(times, -1)
        return TextStates(self.states.expand(times, -1, -1), pooled)

    def part(self, rows: Tensor) -> TextStates:
        """Some of them."""
        return TextStates(self.states[rows], None if self.pooled is None else self.pooled[rows])

    def gathered(self, accelerator: Any) -> TextStates:
        """Those of all processes, one after the other."""
        pooled = None if self.pooled is None else accelerator.gather(self.pooled.contiguous())
        return TextStates(accelerator.gather(self.states.contiguous()), pooled)


def native_size(pipe: Any) -> int:
    """Side in pixels of the pictures that the model was made for."""
    cells = denoiser_of(pipe)[1].config.sample_size
    return int(cells if isinstance(cells, int) else min(cells)) * int(pipe.vae_scale_factor)


def picture_size(pipe: Any, resolution: int | None, *, who: str) -> int:
    """Side in pixels of the pictures to train on; None for the model's own.

    Raises:
        ValueError: One that the model's cells and patches do not fill.
    """
    size = native_size(pipe) if resolution is None else resolution
    step = max(8, int(pipe.vae_scale_factor) * int(getattr(denoiser_of(pipe)[1].config, "patch_size", None) or 1))
    if size < step or size % step:
        raise ValueError(f"{who}: `resolution` must be a multiple of {step} pixels; got {size}")
    return size


def plain_time_ids(latents: Tensor) -> Tensor:
    """What SDXL is told of pictures that it makes: as large as ``latents`` [P, C, h, w], nothing cut off; [P, 6]."""
    height, width = (PIXELS_PER_CELL * cells for cells in latents.shape[-2:])
    return torch.tensor([height, width, 0, 0, height, width], device=latents.device).expand(len(latents), -1).float()


def check_denoiser(pipe: Any, *, who: str) -> None:
    """Refuse what is not a pipeline from text to image.

    Raises:
        TypeError: No pipeline.
        ValueError: One that takes more than a latent, as for inpainting.
    """
    if not hasattr(pipe, "encode_prompt"):
        raise TypeError(f"{who}: needs a pipeline, for its text encoder; got {type(pipe).__name__}")
    channels, latent = denoiser_of(pipe)[1].config.in_channels, pipe.vae.config.latent_channels
    if channels != latent:
        raise ValueError(
            f"{who}: needs a text-to-image model, which takes the {latent} channels of a latent; this one "
            f"takes {channels}, as for inpainting; train on its text-to-image model, the result fits both"
        )


def check_words(pipe: Any, words: Mapping[str, str], caption: str, *, who: str) -> None:
    """Refuse words and a caption that do not reach the text encoder.

    Args:
        words: Argument of ``who`` -> its text.

    Raises:
        ValueError: A word without a token, or a caption that would be cut off.
    """
    for tokenizer in _tokenizers(pipe):
        for name, word in words.items():
            ids = tokenizer(word, add_special_tokens=False).input_ids
            if not ids or tokenizer.unk_token_id in ids:
                raise ValueError(
                    f"{who}: `{name}` must be text that the model's tokenizer knows; {word!r} has no token; "
                    "use another word"
                )
    if not caption_fits(pipe, caption):
        limit = min(tokenizer.model_max_length for tokenizer in _tokenizers(pipe))
        raise ValueError(
            f"{who}: the caption must fit the text encoder's {limit} tokens, start and end included; {caption[:80]!r} "
            "is longer; use a shorter one"
        )


def caption_fits(pipe: Any, caption: str, text_length: int | None = None) -> bool:
    """Whether no tokenizer of ``pipe`` would cut ``caption`` off; ``text_length`` as of ``encode_captions``."""

    def fits(tokenizer: Any, limit: int) -> bool:
        return len(tokenizer(caption, truncation=False, verbose=False).input_ids) <= limit

    t5 = getattr(pipe, "tokenizer_3", None)
    return all(fits(tokenizer, tokenizer.model_max_length) for tokenizer in _tokenizers(pipe)) and (
        t5 is None or fits(t5, text_length or T5_LENGTH)
    )


def _tokenizers(pipe: Any) -> list[Any]:
    """Those of CLIP's kind."""
    found = (getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2"))
    return [tokenizer for tokenizer in found if tokenizer is not None]


@torch.no_grad()
def encode_views(pipe: Any, found: Iterable[View]) -> Latents:
    """Encode each view once; those that are made as they are asked for are never all in memory.

    An autoencoder that overflows in fp16 (SDXL's) is run in fp32.
    """
    vae = pipe.vae
    is_widened = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
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
    shift, scale = getattr(vae.config, "shift_factor", None) or 0.0, vae.config.scaling_factor
    ids = torch.tensor(time_ids, dtype=torch.float32)
    return Latents((torch.cat(mean) - shift) * scale, torch.cat(std) * scale, ids)


@torch.no_grad()
def encode_captions(pipe: Any, captions: Sequence[str], text_length: int | None = None) -> TextStates:
    """Encode captions as the pipeline encodes prompts.

    Args:
        text_length: Tokens of T5, or of the zeros in its place; None for what the pipeline has. Read by Stable
            Diffusion 3 alone.
    """
    more: dict[str, Any] = {}
    if hasattr(pipe, "text_encoder_3"):
        more = {"prompt_2": None, "prompt_3": None, "max_sequence_length": text_length or T5_LENGTH}
    encoded = pipe.encode_prompt(
        prompt=list(captions), device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False, **more
    )
    # Stable Diffusion gives (states, negative), XL and 3 (states, negative, pooled, negative pooled)
    return TextStates(encoded[0], encoded[2] if len(encoded) > 2 else None)


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
