"""What all diffusion objectives share: targets, and how much an error counts."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from weft.train.diffusion.latents import denoising_target, min_snr_weight

TIMESTEPS = torch.tensor([10, 400, 900])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_counts_an_error_of_the_clean_picture_alike_whatever_is_predicted(kind: str) -> None:
    scheduler = DDPMScheduler(prediction_type=kind)
    clean, noise = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64).unbind()
    wrong = clean + 0.1
    noisy = scheduler.add_noise(clean, noise, TIMESTEPS)
    kept = scheduler.alphas_cumprod[TIMESTEPS].double().view(-1, 1, 1, 1)
    # the same mistake said in the terms of each prediction
    other = (noisy - kept.sqrt() * wrong) / (1 - kept).sqrt()
    predicted = denoising_target(scheduler, wrong, other, TIMESTEPS)
    target = denoising_target(scheduler, clean, noise, TIMESTEPS)
    counted = min_snr_weight(scheduler, TIMESTEPS, 5.0) * (predicted - target).square().mean((1, 2, 3))
    snr = (kept / (1 - kept)).flatten()
    assert snr[0] > 5 > snr[1]
    torch.testing.assert_close(counted, 0.01 * snr.clamp(max=5.0), rtol=1e-4, atol=0)


def test_without_gamma_all_count_alike() -> None:
    assert min_snr_weight(DDPMScheduler(), TIMESTEPS, 0.0).tolist() == [1.0, 1.0, 1.0]
