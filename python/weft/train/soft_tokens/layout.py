"""Where in a model soft tokens lie, and how they begin: as they were released, and as we have it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from weft.attach import Host
from weft.methods.soft_tokens import SoftTokens, Space
from weft.train.core import torch_generator
from weft.train.soft_tokens.config import Init, Layout

SPREAD = 0.02  # standard deviation of what is drawn at the start
JOINT_BLOCKS = 5  # of the blocks of a joint model, the first


@dataclass(frozen=True)
class TokenLayout:
    """Where tokens lie, and how they begin.

    Attributes:
        blocks, space, text_length: As of ``SoftTokens``.
        init, time_buckets, denoising_weight: As of ``SoftTokensConfig``.
        each_its_own: Every one of ``blocks`` has tokens of its own.
    """

    blocks: tuple[str, ...]
    init: Init
    time_buckets: int | None
    denoising_weight: float
    text_length: int | None = None
    space: Space = "conditioning"
    each_its_own: bool = False

    def start(self, host: Host, tokens: int, *, seed: int, base_name: str) -> SoftTokens:
        """The tokens that training begins with."""
        generator = torch_generator(seed, 0)
        sets = (len(self.blocks),) if self.each_its_own else ()
        width = self._width(host)
        begun = SPREAD * torch.randn(*sets, tokens, width, generator=generator)
        if self.init != "normal":
            first = host.encode_captions([""], self.text_length).states[0, 0].float().cpu()
            begun = first + begun if self.init == "start" else first.expand_as(begun).clone()
        offsets = None
        if self.time_buckets is not None:
            offsets = SPREAD * torch.randn(self.time_buckets, *sets, width, generator=generator)
        return SoftTokens(begun, offsets, self.blocks, base_name, self.space, self.text_length)

    def _width(self, host: Host) -> int:
        widths = host.family.widths(host.model)
        width = widths.text if self.space == "conditioning" else widths.block
        assert width is not None
        return width


# for Stable Diffusion 1.x and 2.x (released for 1.5), XL, and 3, whose blocks are counted when there is a model
_UNET = TokenLayout(("down_blocks",), "copies", 100, denoising_weight=10.0)
_XL = TokenLayout(("down_blocks", "mid_block"), "normal", None, denoising_weight=10.0)
_JOINT = TokenLayout((), "normal", 100, denoising_weight=0.0, text_length=512, space="block", each_its_own=True)
_LAYOUTS: dict[Layout, dict[str, TokenLayout]] = {
    "released": {"unet": _UNET, "xl": _XL, "joint": _JOINT},
    "default": {
        # copies can never differ from each other
        "unet": replace(_UNET, init="start"),
        "xl": replace(_XL, init="start"),
        # the pipeline's own length
        "joint": replace(_JOINT, text_length=256),
    },
}


def layout_of(host: Host, name: Layout) -> TokenLayout:
    """That of a model.

    Raises:
        ValueError: Its text cannot be made longer.
    """
    if not host.family.takes_tokens:
        raise ValueError(
            f"fit_soft_tokens: the text of {type(host.model).__name__} takes no further tokens; soft tokens are "
            "served on Stable Diffusion 1.x, 2.x, XL and 3"
        )
    blocks = host.family.text_blocks(host.model)
    if not blocks:
        return _LAYOUTS[name]["xl" if host.family.is_large(host.model) else "unet"]
    # not the last, which hands no text on; but for a model of one block
    return replace(_LAYOUTS[name]["joint"], blocks=blocks[: min(JOINT_BLOCKS, max(len(blocks) - 1, 1))])
