"""A concept taught to the shapes model in two ways: as a residual of weft, and as a LoRA of peft beside it.

Both see the same pictures, captions, batches and noise, in the same loop, for as many steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import weft
from weft._files import whole_file
from weft.attach import TextStates, resolve
from weft.shapes.concepts import Concept, references
from weft.train import LoopConfig, ResidualConfig, fit_residual
from weft.train.core import fit, make_accelerator
from weft.train.diffusion import (
    denoising_target,
    encode_views,
    latent_batches,
    training_scheduler,
)
from weft.train.pictures import views
from weft.train.residual import CAPTION

IDENTIFIER = "sks"  # one token, never trained
PICTURES = 6
REFERENCE_SEED = 100
# chosen on other concepts, pictures and noise: 1e-2 learnt more than 5e-3, 300 steps of 8 more than 300 of 4 or 150
LOOP = LoopConfig(steps=300, learning_rate=1e-2, batch_size=8)
LORA_LEARNING_RATE = 1e-2
LORA = LoraConfig(r=1, lora_alpha=1, target_modules=["to_q", "to_k", "to_v", "to_out.0"])  # the smallest there is


def class_word(concept: Concept) -> str:
    """What the concept is one of: "red circle".

    With its colour, for in prompts of several objects the model draws none that has no colour.
    """
    return " ".join(concept.nearest)


def phrase(concept: Concept) -> str:
    """How prompts name the concept: "sks red circle"."""
    return f"{IDENTIFIER} {class_word(concept)}"


def residual_of(pipe: DiffusionPipeline, concept: Concept, path: Path) -> weft.Residual:
    """The residual in ``path``; taught and kept there if it is not."""
    if not path.exists():
        config = ResidualConfig(loop=LOOP)
        fit_residual(pipe, _pictures(concept), class_word(concept), IDENTIFIER, config=config).save(path)
    return weft.Residual.load(path)


def lora_of(pipe: DiffusionPipeline, concept: Concept, path: Path) -> dict[str, Tensor]:
    """The LoRA in ``path``; taught and kept there if it is not."""
    if not path.exists():
        with whole_file(path) as temporary:
            save_file(_fit_lora(pipe, concept), temporary)
    return load_file(path)


@contextmanager
def lora_attached(pipe: DiffusionPipeline, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Stock diffusers drawing with a LoRA."""
    pipe.unet.add_adapter(LORA)
    try:
        set_peft_model_state_dict(pipe.unet, tensors)
        yield
    finally:
        pipe.unet.unload_lora()


def numbers(tensors: Any) -> int:
    """How many numbers some tensors hold."""
    return sum(tensor.numel() for tensor in tensors)


def _pictures(concept: Concept) -> list[Any]:
    return list(references(concept, PICTURES, REFERENCE_SEED))


class LoraObjective(nn.Module):
    """The loss of ``fit_residual`` for adapters that the UNet itself holds."""

    def __init__(self, unet: Any, scheduler: Any, text: TextStates) -> None:
        super().__init__()
        self.unet, self.scheduler, self.states = unet, scheduler, text.states

    def forward(self, latents: Tensor, noise: Tensor, timesteps: Tensor, time_ids: Tensor) -> dict[str, Tensor]:
        """Mean squared error of the prediction; arguments as in ``weft.train.residual.objective``."""
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        predicted = self.unet(noisy, timesteps, self.states.expand(len(latents), -1, -1)).sample
        return {"loss": F.mse_loss(predicted, denoising_target(self.scheduler, latents, noise, timesteps))}


def _fit_lora(pipe: DiffusionPipeline, concept: Concept) -> dict[str, Tensor]:
    loop = replace(LOOP, learning_rate=LORA_LEARNING_RATE)
    caption = CAPTION.format(identifier=IDENTIFIER, class_word=class_word(concept))
    latents = encode_views(pipe, views(_pictures(concept), resolve(pipe).native_size))
    scheduler, text = training_scheduler(pipe), resolve(pipe).encode_captions([caption])
    seed = ResidualConfig.seed
    batches = latent_batches(
        latents, scheduler.config.num_train_timesteps, batch_size=loop.batch_size, seed=seed, process=0
    )
    pipe.unet.requires_grad_(False)
    torch.manual_seed(seed)  # peft draws the first factors from the global stream
    pipe.unet.add_adapter(LORA)
    try:
        fit("lora", LoraObjective(pipe.unet, scheduler, text), batches, loop, make_accelerator(pipe.device))
        return {name: tensor.detach().clone() for name, tensor in get_peft_model_state_dict(pipe.unet).items()}
    finally:
        pipe.unet.unload_lora()
