"""From a text-to-image model to one for inpainting: five more input channels, whose weights are zero at first."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoPipelineForInpainting


def inpainting_pipeline(pipe: Any) -> Any:
    """An inpainting pipeline with the parts of ``pipe``; its UNet, if it takes latents alone, is a wider copy.

    The wider UNet gives exactly what the narrower gives, whatever mask and masked picture say, until it is trained.
    ``pipe`` keeps its own UNet.

    Args:
        pipe: A Stable Diffusion 1.x, 2.x or XL pipeline of diffusers.

    Raises:
        ValueError: No UNet, or one with another number of channels.
    """
    if getattr(pipe, "unet", None) is None:
        raise ValueError(
            f"train: needs a pipeline of Stable Diffusion 1.x, 2.x or XL; {type(pipe).__name__} has no UNet"
        )
    latent = pipe.vae.config.latent_channels
    channels, wanted = pipe.unet.config.in_channels, 2 * latent + 1
    if channels == wanted:
        unet = pipe.unet
    elif channels == latent:
        unet = widened(pipe.unet, wanted)
    else:
        raise ValueError(
            f"train: needs a UNet with {latent} input channels (text-to-image) or {wanted} (inpainting); this one has "
            f"{channels}"
        )
    made = AutoPipelineForInpainting.from_pipe(pipe, unet=unet)
    made.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return made


@torch.no_grad()
def widened(unet: Any, channels: int) -> Any:
    """A copy of ``unet`` with ``channels`` inputs; what comes in by the new ones has no effect yet.

    Source:
        Zhuang et al. 2024, arXiv:2312.03594: training begins with zeros for the new channels.
    """
    made = type(unet).from_config({**unet.config, "in_channels": channels})
    made.to(unet.device)
    if made.dtype != unet.dtype:  # diffusers warns of every conversion, also of none
        made.to(dtype=unet.dtype)
    state, first = dict(unet.state_dict()), unet.conv_in.weight
    state["conv_in.weight"] = torch.nn.functional.pad(first, (0, 0, 0, 0, 0, channels - first.shape[1]))
    made.load_state_dict(state)
    return made.train(unet.training)
