"""What an inpainting network is shown beside the noisy latents, in the conventions of those that are published.

A file of weights does not record its convention; with a wrong one a network paints badly, without an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Part = Literal["noisy", "masked", "mask"]


@dataclass(frozen=True)
class Convention:
    """How noisy latents, latents of the masked picture and mask are put together.

    Attributes:
        order: Of the three among the channels.
        hole: Of the mask where to paint, 0 or 1; elsewhere it is 1 - hole.
        fill: Of the picture's pixels where to paint, which go from -1 (black) to 1; 0 is grey.
    """

    order: tuple[Part, Part, Part]
    hole: int
    fill: float

    def masked(self, pixels: Tensor, hole: Tensor) -> Tensor:
        """The picture [B, 3, h, w] with its hole filled; ``hole`` is 1 where to paint, [B or 1, 1, h, w]."""
        return torch.where(hole > 0.5, torch.full_like(pixels, self.fill), pixels)

    def mask(self, hole: Tensor) -> Tensor:
        """The mask for a ``hole`` of ones and zeros."""
        return hole if self.hole else 1 - hole

    def joined(self, noisy: Tensor, masked: Tensor, hole: Tensor) -> Tensor:
        """[B, 9, h, w] of latents [B, 4, h, w], those of the masked picture, and a hole [B, 1, h, w]."""
        parts = {"noisy": noisy, "masked": masked, "mask": self.mask(hole)}
        return torch.cat([parts[name] for name in self.order], dim=1)


CONVENTIONS: Mapping[str, Convention] = {
    "main-v1": Convention(("noisy", "mask", "masked"), hole=1, fill=0.0),  # also Stable Diffusion inpainting's
    "main-v2": Convention(("noisy", "masked", "mask"), hole=0, fill=-1.0),  # also BrushNet's
    "dev": Convention(("noisy", "mask", "masked"), hole=1, fill=-1.0),
}


@torch.no_grad()
def shown(
    pipe: Any, image: Any, mask: Any, size: tuple[int | None, int | None], convention: Convention, *, who: str
) -> tuple[Tensor, Tensor]:
    """Pictures and masks, as a stock inpainting pipeline takes them, as a network beside it is shown them.

    The latents are the mean of what the VAE says of the masked picture, so that no random number is drawn.

    Args:
        size: (height, width) in pixels, if the call names them.

    Returns:
        Latents of the masked pictures [n, 4, h, w], and their holes [n, 1, h, w] of ones and zeros; a cell is in the
        hole where its first pixel is, as in diffusers.

    Raises:
        ValueError: A picture that is no picture.
    """
    native = pipe.unet.config.sample_size * pipe.vae_scale_factor
    height, width = size[0] or native, size[1] or native
    pixels = pipe.image_processor.preprocess(image, height=height, width=width)
    hole = pipe.mask_processor.preprocess(mask, height=height, width=width)
    if pixels.shape[1] != 3:
        raise ValueError(
            f"{who}: `image` must be a picture of 3 channels, to be shown with a hole; got {list(pixels.shape)}"
        )
    count = max(len(pixels), len(hole))
    pixels, hole = (part.repeat(count // len(part), 1, 1, 1) for part in (pixels, hole))
    vae, device = pipe.vae, pipe._execution_device
    encoded = vae.encode(convention.masked(pixels, hole).to(device, vae.dtype))
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    masked = latents * vae.config.scaling_factor
    return masked, F.interpolate(hole.to(device, masked.dtype), size=masked.shape[-2:])
