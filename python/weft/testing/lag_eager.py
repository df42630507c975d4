"""Localized sampling restated with two whole projections and eager attention, hooked into a stock pipeline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Factors = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]  # down [r, m] and up [m, r] of every layer


class _Recorder:
    """Stock attention that also keeps its probabilities, [B, Nq, Nk], averaged over heads."""

    def __init__(self, kept: list[Tensor]) -> None:
        self.kept = kept

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probabilities = (query @ key.transpose(1, 2) * attn.scale).softmax(-1)
        self.kept.append(probabilities.view(-1, attn.heads, *probabilities.shape[1:]).mean(1))
        out = attn.batch_to_head_dim(probabilities @ value)
        projected: Tensor = attn.to_out[1](attn.to_out[0](out)) / attn.rescale_output_factor
        return projected


def median_mask(values: Tensor) -> Tensor:
    """Strictly above the lower of the two middle values."""
    return values > values.sort().values[(len(values) - 1) // 2]


@contextmanager
def eager_lag(
    unet: Any,
    concepts: Sequence[Factors],
    positions: Sequence[Sequence[Sequence[int]]],
    conditional_only: bool = False,
) -> Iterator[None]:
    """Median masks, of several concepts the larger scaled map, the first of equals; guidance is on.

    Args:
        positions: Of each concept's tokens in the prompt of each image, [images][concepts].
    """
    before, hooks = dict(unet.attn_processors), []
    kept: dict[str, list[Tensor]] = defaultdict(list)  # block -> what its layers saw in this pass

    def blend(name: str) -> Any:
        weight = unet.get_submodule(f"{name}.proj_out").weight
        changes = [up[f"{name}.proj_out"].to(weight) @ down[f"{name}.proj_out"].to(weight) for down, up in concepts]
        merged = [weight + change.view_as(weight) for change in changes]
        project = F.linear if weight.ndim == 2 else F.conv2d

        def hook(module: Any, args: tuple[Tensor], plain: Tensor) -> Tensor:
            maps = torch.stack(kept[name]).mean(0)[len(positions) :]  # rows with the prompt come second
            kept[name].clear()
            masks = torch.zeros(len(maps), maps.shape[1], len(concepts), dtype=maps.dtype)
            for image, named in enumerate(positions):
                columns = {k: maps[image][:, list(places)].sum(1) for k, places in enumerate(named) if places}
                scaled = {k: (column - column.min()) / (column.max() - column.min()) for k, column in columns.items()}
                for k, column in columns.items():
                    beaten = [scaled[k] > x if other < k else scaled[k] >= x for other, x in scaled.items()]
                    masks[image, :, k] = median_mask(column) & torch.stack(beaten).all(0)
            rows = torch.cat([torch.zeros_like(masks) if conditional_only else masks, masks])
            out = plain
            for k, changed in enumerate(merged):
                mask = rows[..., k : k + 1]
                if plain.ndim == 4:
                    mask = mask.transpose(1, 2).reshape(len(mask), 1, *plain.shape[2:])
                out = out + mask * (project(args[0], changed, module.bias) - plain)
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
