"""What lies before the text is computed once a picture, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from weft.attach import resolve
from weft.attach.families.unet import UNET
from weft.train.diffusion.shared_prefix import Repeats, shared_prefix

ORIGINS = {"all": [0, 1, 0, 1, 0, 1], "each": [0, 0, 0, 1, 1, 1]}


def rows_seen(layer: Any, seen: list[int]) -> None:
    """Note how many rows ``layer`` itself is given."""
    inner = layer.forward

    def spy(states: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(states))
        return inner(states, *args, **kwargs)

    layer.forward = spy


def call(unet: Any, origin: list[int], width: int) -> Tensor:
    """Two pictures, each with three captions."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(2, 4, 16, 16, generator=generator)[origin]
    text = torch.randn(len(origin), 7, width, generator=generator)
    added = {}
    if unet.config.addition_embed_type is not None:
        pooled = torch.randn(len(origin), tiny_pooled(unet), generator=generator)
        added = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": torch.ones(len(origin), 6)}}
    return unet(pictures, torch.full((len(origin),), 300), text, **added).sample


def tiny_pooled(unet: Any) -> int:
    return unet.add_embedding.linear_1.in_features - 6 * unet.config.addition_time_embed_dim


@pytest.mark.parametrize("order", ORIGINS)
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_each_picture_goes_through_once(kind: str, order: str, tmp_path: Path) -> None:
    unet, repeats = tiny.build(kind, tmp_path).unet, getattr(Repeats, order)(2, 3, torch.device("cpu"))
    origin = repeats.origin.tolist()
    assert origin == ORIGINS[order] and [origin[row] for row in repeats.firsts] == [0, 1]
    width = unet.config.cross_attention_dim
    with torch.no_grad():
        expected = call(unet, origin, width)
        seen: list[int] = []
        for layer in UNET.layers_before_text(unet):
            rows_seen(layer, seen)
        with shared_prefix(resolve(unet), repeats):
            found = call(unet, origin, width)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert seen == [2] * {"sd1": 3, "sdxl": 1}[kind]
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in unet.modules())


def test_blocks_without_text_are_shared_whole() -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        norm_num_groups=4,
        layers_per_block=2,
        attention_head_dim=4,
    ).eval()
    names = {module: name for name, module in unet.named_modules()}
    assert [names[layer] for layer in UNET.layers_before_text(unet)] == [
        "conv_in",
        "down_blocks.0.resnets.0",
        "down_blocks.0.resnets.1",
        "down_blocks.0.downsamplers.0",
        "down_blocks.1.resnets.0",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1",
    ]
    with torch.no_grad():
        expected = call(unet, ORIGINS["all"], 8)
        with shared_prefix(resolve(unet), Repeats.all(2, 3, torch.device("cpu"))):
            found = call(unet, ORIGINS["all"], 8)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_nothing_is_shared_where_layers_run_again(tmp_path: Path) -> None:
    unet = tiny.sd1(tmp_path).unet
    unet.enable_gradient_checkpointing()
    with shared_prefix(resolve(unet), Repeats.all(2, 3, torch.device("cpu"))):
        assert not unet.conv_in._forward_hooks
    unet.disable_gradient_checkpointing()
    with shared_prefix(resolve(unet), None):
        assert not unet.conv_in._forward_hooks


def test_hooks_go_after_an_error_too(tmp_path: Path) -> None:
    unet = tiny.sd1(tmp_path).unet
    with (
        pytest.raises(RuntimeError, match="on the way"),
        shared_prefix(resolve(unet), Repeats.all(1, 2, torch.device("cpu"))),
    ):
        raise RuntimeError("on the way")
    assert not unet.conv_in._forward_hooks and not unet.conv_in._forward_pre_hooks
