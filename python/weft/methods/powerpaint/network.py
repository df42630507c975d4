"""A network beside a UNet: a UNet of its own that sees more than the latent, and adds to the other at every place.

As BrushNet with its attention to text kept, which is what PowerPaint v2 is: nine channels in, and a 1x1 convolution
that starts at zero behind every place of ``weft.attach.places``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from weft.attach import MIDDLE, place_widths, places

CHANNELS = 9  # noisy latents, those of the masked picture, mask: 4 + 4 + 1
_LATENT = 4
# of diffusers' configuration: what no tensor's shape gives, with the values of Stable Diffusion 1.5
UNKNOWN_FROM_SHAPES: Mapping[str, Any] = {
    "attention_head_dim": 8,  # the number of heads, by its older name
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
}
# our name -> the one in released files
_INPUT = ("unet.conv_in.", "conv_in_condition.")
_PARTS = (("down.", "brushnet_down_blocks."), ("mid.", "brushnet_mid_block."), ("up.", "brushnet_up_blocks."))

Shapes = Mapping[str, tuple[int, ...]]


class Branch(nn.Module):
    """A network beside a UNet.

    Attributes:
        config: What it was made of: arguments of diffusers' ``UNet2DConditionModel``.
        unet: A stock one, without what makes noise of its last features.
        down, mid, up: The 1x1 convolutions of the places before, in and behind the middle.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = {**config, "in_channels": CHANNELS}
        self.unet = UNet2DConditionModel(**self.config)
        self.unet.conv_norm_out, self.unet.conv_out = None, nn.Identity()
        self.places = places(self.unet)
        middle = self.places.index(MIDDLE)
        convolutions = [_zero_convolution(width) for width in place_widths(self.unet).values()]
        self.down, self.up = nn.ModuleList(convolutions[:middle]), nn.ModuleList(convolutions[middle + 1 :])
        self.mid = convolutions[middle]
        self._taps: dict[str, Tensor] = {}
        for name in self.places:
            self.unet.get_submodule(name).register_forward_hook(_Tap(name, self._taps))

    def forward(self, sample: Tensor, timestep: Tensor | float, text: Tensor) -> tuple[Tensor, ...]:
        """What to add at each of ``places``.

        Args:
            sample: [B, 9, h, w].
            timestep: One, or one a row.
            text: [B, Nk, C].
        """
        try:
            self.unet(sample, timestep, encoder_hidden_states=text, return_dict=False)
            found = [self._taps[name] for name in self.places]
        finally:
            self._taps.clear()
        convolutions = (*self.down, self.mid, *self.up)
        return tuple(convolution(tap) for convolution, tap in zip(convolutions, found, strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies are made of configuration and weights: without hooks, and without an attachment to the original."""
        frozen = [name for name, parameter in self.named_parameters() if not parameter.requires_grad]
        return _rebuilt, (self.config, self.state_dict(), self.training, frozen)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.parameters()).device

    def mismatch(self, unet: Any) -> str | None:
        """Why this cannot be used with ``unet``; None when it can."""
        widths, unet_widths = place_widths(self.unet), place_widths(unet)
        if widths.keys() != unet_widths.keys():
            return f"it adds at {len(widths)} places and this UNet has {len(unet_widths)}, or others"
        for name, width in widths.items():
            if width != unet_widths[name]:
                return f"it has {width} channels at {name}, this UNet {unet_widths[name]}"
        if self.config["cross_attention_dim"] != unet.config.cross_attention_dim:
            known = (self.config["cross_attention_dim"], unet.config.cross_attention_dim)
            return f"it reads text of width {known[0]}, this UNet {known[1]}"
        return None

    def released_names(self) -> dict[str, str]:
        """The name of a tensor in released files -> in ``state_dict``."""
        return {_released(name): name for name in self.state_dict()}


def _rebuilt(config: Mapping[str, Any], state: Mapping[str, Tensor], training: bool, frozen: list[str]) -> Branch:
    """A branch with these weights, as they are."""
    branch = Branch(config)
    branch.load_state_dict(state, assign=True)
    for name, parameter in branch.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return branch.train(training)


def beside(unet: Any, masked_latents_at: int = _LATENT) -> Branch:
    """A branch that begins as a copy of ``unet`` and adds nothing.

    Args:
        unet: Of four input channels.
        masked_latents_at: The first channel of the masked picture's latents, which the first convolution reads as it
            does the noisy ones.
    """
    config = {name: unet.config[name] for name in (*UNKNOWN_FROM_SHAPES, *_KNOWN_FROM_SHAPES)}
    branch = Branch(config).to(unet.device, unet.dtype).eval()
    state = unet.state_dict()
    wide = torch.zeros_like(branch.unet.conv_in.weight)
    wide[:, :_LATENT] = state["conv_in.weight"]
    wide[:, masked_latents_at : masked_latents_at + _LATENT] = state["conv_in.weight"]
    ours = {name: state[name] for name in branch.unet.state_dict()} | {"conv_in.weight": wide}
    branch.unet.load_state_dict(ours)
    return branch.requires_grad_(False)


def empty_branch(config: Mapping[str, Any]) -> Branch:
    """A branch without weights, to compare with a file and to be filled by ``filled``."""
    with torch.device("meta"):
        return Branch(config).eval().requires_grad_(False)


def filled(branch: Branch, tensors: Mapping[str, Tensor]) -> Branch:
    """``branch`` with weights by their released names."""
    branch.load_state_dict({ours: tensors[name] for name, ours in branch.released_names().items()}, assign=True)
    return branch.requires_grad_(False)


_KNOWN_FROM_SHAPES = (
    "block_out_channels",
    "layers_per_block",
    "down_block_types",
    "up_block_types",
    "cross_attention_dim",
    "use_linear_projection",
)


def config_from_shapes(shapes: Shapes) -> dict[str, Any]:
    """The part of the configuration that the shapes of released tensors give.

    Raises:
        KeyError: A tensor needed for it is missing.
    """
    levels = range(_count(shapes, "down_blocks."))
    down = [f"down_blocks.{level}.attentions.0.norm.weight" in shapes for level in levels]
    up = [f"up_blocks.{level}.attentions.0.norm.weight" in shapes for level in levels]
    return {
        "block_out_channels": tuple(shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0] for level in levels),
        "layers_per_block": _count(shapes, "down_blocks.0.resnets."),
        "down_block_types": tuple("CrossAttnDownBlock2D" if reads else "DownBlock2D" for reads in down),
        "up_block_types": tuple("CrossAttnUpBlock2D" if reads else "UpBlock2D" for reads in up),
        "cross_attention_dim": shapes["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"][1],
        "use_linear_projection": len(shapes["mid_block.attentions.0.proj_in.weight"]) == 2,
    }


def _count(shapes: Shapes, start: str) -> int:
    return len({name[len(start) :].split(".")[0] for name in shapes if name.startswith(start)})


def _released(name: str) -> str:
    if name.startswith(_INPUT[0]):
        return name.replace(*_INPUT, 1)
    for own, released in _PARTS:
        if name.startswith(own):
            return name.replace(own, released, 1)
    return name.removeprefix("unet.")


def _zero_convolution(width: int) -> nn.Conv2d:
    convolution = nn.Conv2d(width, width, kernel_size=1)
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
    return convolution


class _Tap:
    """Notes what a module gives."""

    def __init__(self, name: str, taps: dict[str, Tensor]) -> None:
        self.name = name
        self.taps = taps

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.taps[self.name] = output[0] if isinstance(output, tuple) else output
