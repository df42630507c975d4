"""LocalizedResiduals of many small ranks whose places overlap, all of which a kernel computes in one call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import weft
from weft import shapes
from weft.attach import base_model


def residuals_of(pipe: Any, count: int, rank: int) -> list[weft.Residual]:
    base, generator = base_model(pipe), torch.Generator().manual_seed(0)

    def factors(*shape: int) -> Tensor:
        return 0.02 * torch.randn(shape, generator=generator)

    return [
        weft.Residual(
            {p.name: factors(rank, p.width) for p in base.projections},
            {p.name: factors(p.width, rank) for p in base.projections},
            f"V{i}*",
            ("circle", "square", "triangle", "star")[i % 4],
            base.name,
            base.text_width,
            base.projections[0].is_convolution,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("overlap", ["largest", "sum"])
@pytest.mark.parametrize(("count", "rank"), [(4, 4), (8, 1), (3, 10)])
def test_the_kernels_draw_what_the_reference_draws(count: int, rank: int, overlap: str) -> None:
    pipe = shapes.pipeline()
    residuals = residuals_of(pipe, count, rank)
    boxes = [(0, 0, 48, 40) if i % 2 else (16, 24, 64, 64) for i in range(count)]

    def latents(backend: str) -> Tensor:
        control = weft.LocalizedResiduals(residuals, localize=boxes, overlap=overlap)
        prompt = " and ".join(f"a {residual.phrase}" for residual in residuals)
        generator = torch.Generator().manual_seed(1)
        with weft.attach(pipe, control), weft.backend(backend):
            drawn = pipe(prompt, num_inference_steps=2, generator=generator, output_type="latent").images
        assert isinstance(drawn, Tensor)
        return drawn

    torch.testing.assert_close(latents("cpu"), latents("reference"), atol=1e-3, rtol=1e-3)
