"""UNets of two levels with attention in the upper one."""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DConditionModel

from .encoders import WIDTH
from .weights import shown

_SIZES: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
}
# added keys of text beside those of the image, in one attention (DeepFloyd, Kandinsky 2)
_ADDED: dict[str, Any] = {
    **_SIZES,
    "down_block_types": ("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
    "cross_attention_dim": WIDTH,
    "encoder_hid_dim": WIDTH,
    "resnet_time_scale_shift": "scale_shift",
}
_TIME = 8  # channels of each of the six numbers of SDXL


def sdxl_unet(text: int, pooled: int = WIDTH, numbers: int = 6, **changes: Any) -> UNet2DConditionModel:
    config = {
        **_SIZES,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": (2, 2),
        "use_linear_projection": True,
        "cross_attention_dim": text,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": _TIME,
        "projection_class_embeddings_input_dim": numbers * _TIME + pooled,
        **changes,
    }
    return shown(UNet2DConditionModel(**config), sharpness=2.5)


def added_unet(**changes: Any) -> UNet2DConditionModel:
    return shown(UNet2DConditionModel(**{**_ADDED, **changes}))
