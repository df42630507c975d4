"""The loss of soft tokens by a pass of the stock network for every picture and caption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@contextmanager
def longer_text(unet: Any, shown: Tensor, blocks: tuple[str, ...] = ("down_blocks",)) -> Iterator[None]:
    """The cross-attentions of ``blocks`` see ``shown`` [m, C] after the text."""

    def lengthen(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        text = kwargs["encoder_hidden_states"]
        return args, {**kwargs, "encoder_hidden_states": torch.cat([text, shown.expand(len(text), -1, -1)], 1)}

    layers = [m for name, m in unet.named_modules() if name.startswith(blocks) and name.endswith("attn2")]
    hooks = [layer.register_forward_pre_hook(lengthen, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def errors_by_pairs(unet: Any, scheduler: Any, given: Mapping[str, Tensor]) -> Tensor:
    """[B, B], mean squared errors of a noise prediction; ``given`` as ``SoftTokensObjective.forward`` takes it."""
    rows = []
    for number, (latent, ids) in enumerate(zip(given["latents"], given["time_ids"], strict=True)):
        noise = given["noise"][number % len(given["noise"])][None]
        noisy = scheduler.add_noise(latent[None], noise, given["timestep"])
        errors = []
        for state, pooled in zip(given["states"], given["pooled"], strict=True):
            added = {"added_cond_kwargs": {"text_embeds": pooled[None], "time_ids": ids[None]}} if len(pooled) else {}
            found = unet(noisy, given["timestep"], state[None], **added).sample
            errors.append((found.float() - noise).square().mean())
        rows.append(torch.stack(errors))
    return torch.stack(rows)


def contrastive_loss_of(error: Tensor, weight: float = 10.0, scale: float = 4.0, width: float = 0.07) -> Tensor:
    """The loss of errors [B, B] whose diagonal is that of matching pairs."""
    own = torch.arange(len(error))
    return F.cross_entropy(scale * torch.exp(-error / width), own) + weight * error.diagonal().mean()
