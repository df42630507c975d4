"""What a model was trained on: schedules and flows against diffusers' own schedulers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from weft.attach import Host, resolve
from weft.attach.families.family import Family
from weft.attach.families.sd3 import SD3
from weft.attach.families.unet import UNET
from weft.train.diffusion.noising import Flow, Schedule, noising_of


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=generator)
    return latents, noise


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_is_the_scheduler_s(shift: float) -> None:
    scheduler, noising = FlowMatchEulerDiscreteScheduler(shift=shift), Flow(1000, shift)
    drawn = torch.tensor([1, 300, 999])
    timestep = noising.timestep(drawn)
    torch.testing.assert_close(timestep / 1000, scheduler.sigmas.flip(0)[drawn - 1])
    latents, noise = pair()
    expected = scheduler.scale_noise(latents, scheduler.timesteps.flip(0)[drawn - 1], noise)
    torch.testing.assert_close(noising.noisy(latents, noise, timestep), expected)
    # from the noise at the velocity, for as long as it takes, to the picture
    torch.testing.assert_close(noise - noising.target(latents, noise, timestep), latents)


def test_a_flow_begins_at_the_picture_and_stays_below_noise() -> None:
    drawn = torch.tensor([0, 999])
    assert Flow().timestep(drawn).tolist() == [0.0, 999.0]
    latents, noise = pair()
    assert torch.equal(Flow().noisy(latents, noise, torch.zeros(3)), latents)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_schedule_is_the_scheduler_s(kind: str, tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    noising = noising_of(resolve(pipe))
    assert isinstance(noising, Schedule) and noising.times == 1000
    drawn, (latents, noise) = torch.tensor([0, 300, 999]), pair()
    assert torch.equal(noising.timestep(drawn), drawn)
    torch.testing.assert_close(noising.noisy(latents, noise, drawn), pipe.scheduler.add_noise(latents, noise, drawn))
    expected = {"epsilon": noise, "sample": latents}.get(kind)
    if expected is None:
        expected = pipe.scheduler.get_velocity(latents, noise, drawn)
    torch.testing.assert_close(noising.target(latents, noise, drawn), expected)


@pytest.mark.parametrize(
    ("family", "scheduler"),
    [
        (UNET, EulerDiscreteScheduler()),
        (SD3, EulerDiscreteScheduler()),
        (SD3, FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)),
    ],
)
def test_there_must_be_one_shift(family: Family, scheduler: Any) -> None:
    with pytest.raises(ValueError, match="`shifted_time` needs a flow-matching scheduler with one shift"):
        noising_of(Host(SimpleNamespace(scheduler=scheduler), None, family), shifted=True)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_a_right_prediction_is_taken_apart_into_picture_and_noise(kind: str, tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    noising = Flow() if kind == "flow" else noising_of(resolve(pipe))
    latents, noise = (part.double() for part in pair())
    timestep = noising.timestep(torch.tensor([1, 300, 900]))
    noisy = noising.noisy(latents, noise, timestep)
    clean, found = noising.split(noisy, noising.target(latents, noise, timestep), timestep)
    torch.testing.assert_close(clean, latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found, noise, atol=1e-4, rtol=1e-4)
