"""``soft_tokens_step``: a training step of SoftREPA on the embedded model, each caption of a batch with each picture.

Everybody finds the same loss and the same gradients. The others: a pass of the stock network for every pair, and one
pass of B x B rows with each text as often as there are pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

import weft
from benchmarks.registry import Benchmark, Call, Mode, Provider, Shape
from weft import shapes
from weft.attach import attach, resolve
from weft.testing import relative_l2
from weft.testing.soft_tokens_eager import contrastive_loss_of, errors_by_pairs, longer_text
from weft.train.diffusion import Schedule, encode_views, training_scheduler
from weft.train.pictures import views
from weft.train.soft_tokens import ContrastObjective, FrozenDenoiser, TrainedTokens

Found = tuple[Tensor, Tensor]  # the loss, and its gradient with respect to the tokens


@dataclass
class Step:
    """What everybody shares: the pipeline, the tokens, and a batch as the objective takes it."""

    pipe: Any
    scheduler: Any
    soft: weft.SoftTokens
    batch: dict[str, Tensor]
    expected: Found | None = None


def make_step(shape: Shape, dtype: torch.dtype, mode: Mode | None = None) -> Step:
    generator, count = torch.Generator().manual_seed(0), shape.sizes["B"]
    pipe = shapes.pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.requires_grad_(False)
    # what the model knows well: of latents that it has never seen it predicts nothing, every logit is 0, and no way's
    # gradient depends on the captions of others
    scenes = [shapes.scene(0, index, objects=2) for index in range(count)]
    pictures = [Image.fromarray(shapes.render(scene)) for scene in scenes]
    captions = [shapes.caption(scene, np.random.default_rng(0)) for scene in scenes]
    latents, states = (
        encode_views(pipe, views(pictures, pictures[0].width)),
        resolve(pipe).encode_captions(captions).states,
    )
    soft = weft.SoftTokens(states[0, :1] + 0.02 * torch.randn(4, states.shape[2], generator=generator))
    batch = {
        "latents": latents.mean,
        "noise": torch.randn(1, *latents.shape, generator=generator),
        "timestep": torch.tensor([300]),
        "states": states,
        "pooled": states.new_empty(count, 0),
        "time_ids": torch.zeros(count, 6),
        "alike": torch.arange(2 * count).view(count, 2),
    }
    return Step(pipe, training_scheduler(pipe), soft, batch)


def prepare_weft(step: Step, rows_at_once: int | None = None) -> Call:
    unet, control = _untouched(step), TrainedTokens(step.soft.blocks)
    attach(unet, control)
    accelerator = Accelerator(cpu=True)
    denoiser = FrozenDenoiser(resolve(step.pipe), control, Schedule(step.scheduler))
    objective = ContrastObjective(denoiser, step.soft, accelerator=accelerator, rows_at_once=rows_at_once)

    def call() -> Found:
        objective.bank.tokens.grad = None
        loss = objective(*step.batch.values())["loss"]
        loss.backward()
        assert objective.bank.tokens.grad is not None
        return loss.detach(), objective.bank.tokens.grad

    return call


def prepare_pairs(step: Step) -> Call:
    unet = _untouched(step)

    def call() -> Found:
        tokens = step.soft.tokens.clone().requires_grad_()
        with longer_text(unet, tokens):
            loss = contrastive_loss_of(errors_by_pairs(unet, step.scheduler, step.batch))
        return loss.detach(), torch.autograd.grad(loss, tokens)[0]

    return call


def prepare_rows(step: Step) -> Call:
    unet, given = _untouched(step), step.batch
    count = len(given["latents"])

    def call() -> Found:
        tokens = step.soft.tokens.clone().requires_grad_()
        noise = given["noise"].expand_as(given["latents"])
        noisy = step.scheduler.add_noise(given["latents"], noise, given["timestep"].expand(count))
        with longer_text(unet, tokens):
            text = given["states"].repeat(count, 1, 1)
            found = unet(noisy.repeat_interleave(count, 0), given["timestep"].expand(count**2), text).sample
        error = (found - noise.repeat_interleave(count, 0)).square().mean((1, 2, 3)).view(count, count)
        loss = contrastive_loss_of(error)
        return loss.detach(), torch.autograd.grad(loss, tokens)[0]

    return call


def _untouched(step: Step) -> Any:
    """The network without weft."""
    unet = shapes.pipeline().unet
    unet.requires_grad_(False)
    unet.load_state_dict(step.pipe.unet.state_dict())
    return unet


def verify(step: Step, provider: Provider, found: Found) -> None:
    """Everybody finds the same loss and the same gradient; this runs before anything is timed.

    Raises:
        AssertionError: They do not.
    """
    if step.expected is None:
        step.expected = found
    for name, value, expected, bound in zip(("loss", "gradient"), found, step.expected, (1e-5, 1e-3), strict=True):
        error = relative_l2(value, expected)
        assert error < bound, f"{provider.name}: its {name} is off by {error:.2g}, relative"


BENCHMARK = Benchmark(
    op="soft_tokens_step",
    shapes=(
        Shape("embedded_8", {"B": 8}, "the embedded model, 8 pictures and captions"),
        Shape("embedded_4", {"B": 4}, "the same with 4", optional=True),
    ),
    modes=(
        Mode(
            "step",
            (
                Provider("weft", prepare_weft, ours=True),
                Provider("weft_rows", lambda step: prepare_weft(step, 1), ours=True, note="a picture at a time"),
                Provider("pairs", prepare_pairs),
                Provider("rows", prepare_rows),
            ),
        ),
    ),
    dtypes={"fp32": torch.float32},
    make_inputs=make_step,
    verify=verify,
    result_bytes=lambda step: step.soft.tokens.numel() * 4 + 4,
    gate=("tests/train/soft_tokens/test_fit.py",),
)
