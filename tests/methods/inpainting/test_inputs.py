"""Conventions of an inpainting network's input: order, mask and hole."""

from __future__ import annotations

import itertools

import pytest
import torch

from weft.methods.inpainting.inputs import CONVENTIONS
from weft.testing import assert_differs

V1, V2, DEV = (CONVENTIONS[name] for name in ("main-v1", "main-v2", "dev"))
PAIRS = list(itertools.permutations(CONVENTIONS, 2))


@pytest.fixture
def parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, latents of the masked picture, a hole."""
    generator = torch.Generator().manual_seed(0)
    noisy, masked = (torch.randn(2, 4, 6, 5, generator=generator) for _ in range(2))
    return noisy, masked, (torch.rand(2, 1, 6, 5, generator=generator) > 0.5).float()


def test_channels_by_hand(parts: tuple[torch.Tensor, ...]) -> None:
    noisy, masked, hole = parts
    first, second = V1.joined(noisy, masked, hole), V2.joined(noisy, masked, hole)
    assert torch.equal(first, torch.cat([noisy, hole, masked], 1)), "mask before the picture, 1 in the hole"
    assert torch.equal(second, torch.cat([noisy, masked, 1 - hole], 1)), "mask behind the picture, 1 where to keep"
    assert torch.equal(DEV.joined(noisy, masked, hole), first)


def test_from_one_to_another_by_hand(parts: tuple[torch.Tensor, ...]) -> None:
    given = V1.joined(*parts)
    swapped = given[:, [0, 1, 2, 3, 5, 6, 7, 8, 4]]
    swapped[:, 8] = 1 - swapped[:, 8]
    assert torch.equal(V2.joined(*parts), swapped)
    assert_differs(given, swapped)  # a wrong convention is another input


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_holes_in_pictures(source: str, target: str) -> None:
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    hole = torch.zeros(1, 1, 8, 8)
    hole[..., 2:5, 3:7] = 1
    first, second = CONVENTIONS[source], CONVENTIONS[target]
    shown = first.masked(pixels, hole)
    assert (shown[..., 2:5, 3:7] == {"main-v1": 0, "main-v2": -1, "dev": -1}[source]).all()
    assert torch.equal(shown * (1 - hole), pixels * (1 - hole))
    assert torch.equal(first.masked(second.masked(shown, hole), hole), shown)


def test_grey_as_diffusers_makes_it() -> None:
    pixels, hole = torch.rand(1, 3, 4, 4) * 2 - 1, torch.eye(4)[None, None]
    assert torch.equal(V1.masked(pixels, hole), pixels * (hole < 0.5))
