"""Localized sampling restated with two whole projections and eager attention, hooked into a stock pipeline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import weft


class _Recorder:
    """Stock attention that also keeps its probabilities, [B, Nq, Nk], averaged over heads."""

    def __init__(self, kept: list[Tensor]) -> None:
        self.kept = kept

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probabilities = (query @ key.transpose(1, 2) * attn.scale).softmax(-1)
        self.kept.append(probabilities.unflatten(0, (-1, attn.heads)).mean(1))
        out = attn.batch_to_head_dim(probabilities @ value)
        return attn.to_out[1](attn.to_out[0](out)) / attn.rescale_output_factor


def median_mask(values: Tensor) -> Tensor:
    """Strictly above the lower of the two middle values."""
    return values > values.sort().values[(len(values) - 1) // 2]


@contextmanager
def eager_lag(
    pipe: Any,
    residuals: Sequence[weft.Residual],
    positions: Sequence[Sequence[Sequence[int]]],
    conditional_only: bool = False,
) -> Iterator[None]:
    """Median masks, of several concepts the larger scaled map, the first of equals; guidance is on.

    Args:
        positions: Of each concept's tokens in the prompt of each image, [images][concepts].
    """
    unet, before, hooks = pipe.unet, dict(pipe.unet.attn_processors), []
    kept: dict[str, list[Tensor]] = defaultdict(list)  # block -> what its layers saw in this pass

    def blend(name: str) -> Any:
        def hook(module: Any, args: tuple[Tensor], plain: Tensor) -> Tensor:
            maps = torch.stack(kept[name]).mean(0)[len(positions) :]  # rows with the prompt come second
            kept[name].clear()
            masks = torch.zeros(len(maps), maps.shape[1], len(residuals), dtype=maps.dtype)
            for image, concepts in enumerate(positions):
                columns = {k: maps[image][:, list(places)].sum(1) for k, places in enumerate(concepts) if places}
                scaled = {k: (column - column.min()) / (column.max() - column.min()) for k, column in columns.items()}
                for k, column in columns.items():
                    beaten = [scaled[k] > x if other < k else scaled[k] >= x for other, x in scaled.items()]
                    masks[image, :, k] = median_mask(column) & torch.stack(beaten).all(0)
            rows = torch.cat([torch.zeros_like(masks) if conditional_only else masks, masks])
            out, weight = plain, module.weight
            for k, residual in enumerate(residuals):
                change = residual.up[f"{name}.proj_out"].to(weight) @ residual.down[f"{name}.proj_out"].to(weight)
                changed = torch.nn.functional.linear if weight.ndim == 2 else torch.nn.functional.conv2d
                other = changed(args[0], weight + change.view_as(weight), module.bias)
                mask = rows[..., k : k + 1]
                if plain.ndim == 4:
                    mask = mask.transpose(1, 2).unflatten(2, plain.shape[2:])
                out = out + mask * (other - plain)
            return out

        return hook

    processors = {}
    for name, processor in before.items():
        block = name.partition(".transformer_blocks.")[0]
        processors[name] = _Recorder(kept[block]) if ".attn2." in name else processor
        if ".attn2." in name and name.endswith("transformer_blocks.0.attn2.processor"):
            hooks.append(unet.get_submodule(f"{block}.proj_out").register_forward_hook(blend(block)))
    unet.set_attn_processor(processors)
    try:
        yield
    finally:
        unet.set_attn_processor(before)
        for hook in hooks:
            hook.remove()
