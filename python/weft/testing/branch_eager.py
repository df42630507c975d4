"""A UNet of Stable Diffusion walked module by module in plain PyTorch: what a branch taps, and where it is added.

The order is that of BrushNet's released code: the skip behind the first convolution starts before anything is added
to it, every other one behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def walk(
    unet: Any, sample: Tensor, timestep: Tensor, text: Tensor, residuals: Sequence[Tensor] | None = None
) -> tuple[list[Tensor], Tensor]:
    """Run the blocks of ``unet``, with ``residuals`` added at its places.

    Args:
        unet: Of Stable Diffusion 1.x; its modules are called one by one, its own ``forward`` is not.
        sample: [B, C, h, w], C as its first convolution takes it.
        timestep: One for all rows.
        text: [B, Nk, C].
        residuals: One for each place, in the order in which they run; None for none.

    Returns:
        The features at every place before something is added to them, and the last of all.

    Source:
        Ju et al. 2024, arXiv:2403.06976, equation 2, as in its released code.
    """
    taps: list[Tensor] = []

    def at_place(x: Tensor) -> Tensor:
        taps.append(x)
        return x if residuals is None else x + residuals[len(taps) - 1]

    emb = unet.time_embedding(unet.time_proj(timestep.expand(len(sample))).to(sample.dtype))
    x = unet.conv_in(sample)
    skips = [x]
    x = at_place(x)
    for block in unet.down_blocks:
        for index, resnet in enumerate(block.resnets):
            x = at_place(_attended(block, index, resnet(x, emb), text))
            skips.append(x)
        for sampler in block.downsamplers or ():
            x = at_place(sampler(x))
            skips.append(x)
    x = unet.mid_block.resnets[0](x, emb)
    for index, resnet in enumerate(unet.mid_block.resnets[1:]):
        x = resnet(_attended(unet.mid_block, index, x, text), emb)
    x = at_place(x)
    for block in unet.up_blocks:
        for index, resnet in enumerate(block.resnets):
            x = torch.cat([x, skips.pop()], dim=1)
            x = at_place(_attended(block, index, resnet(x, emb), text))
        for sampler in block.upsamplers or ():
            # an odd side was rounded up on the way down
            x = at_place(sampler(x, skips[-1].shape[-2:]))
    return taps, x


def branch_residuals(branch: Any, sample: Tensor, timestep: Tensor, text: Tensor) -> list[Tensor]:
    """What a branch adds at every place: a 1x1 convolution of what its own UNet has there."""
    taps, _ = walk(branch.unet, sample, timestep, text)
    convolutions = [*branch.down, branch.mid, *branch.up]
    return [
        torch.einsum("oi,bihw->bohw", convolution.weight[:, :, 0, 0], tap) + convolution.bias[:, None, None]
        for convolution, tap in zip(convolutions, taps, strict=True)
    ]


def denoised(unet: Any, sample: Tensor, timestep: Tensor, text: Tensor, residuals: Sequence[Tensor]) -> Tensor:
    """The noise that ``unet`` finds with ``residuals`` added at its places."""
    _, x = walk(unet, sample, timestep, text, residuals)
    found: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
    return found


def _attended(block: Any, index: int, x: Tensor, text: Tensor) -> Tensor:
    attentions = getattr(block, "attentions", None)
    if not attentions:
        return x
    found: Tensor = attentions[index](x, encoder_hidden_states=text, return_dict=False)[0]
    return found
