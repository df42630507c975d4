"""The UNet family (Stable Diffusion 1.x, 2.x, XL, refiner): what is taken over, as data.

Tested on diffusers 0.42.1; what is used here reads the same back to 0.35, which was not run. Relied on beyond the
public interface: the UNet keeps the processors it had before ``fuse_qkv_projections`` in
``original_attn_processors``, and names its parts down_blocks, mid_block and up_blocks.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import diffusers
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
)
from torch import Tensor, nn

from weft.attach.control import LayerInfo
from weft.attach.generation import DenoiserCall
from weft.attach.levels import is_in_a_block, level_of

logger = logging.getLogger(__name__)

MODEL = UNet2DConditionModel
FAMILY = "UNet2DConditionModel (Stable Diffusion 1.x, 2.x, XL, also image-to-image, inpainting and ControlNet)"
DIFFUSERS_OLDEST, DIFFUSERS_NEWEST_TESTED = (0, 35), (0, 42)


@dataclass(frozen=True)
class ProcessorRule:
    """How a processor of diffusers computes attention, for the arithmetic that stands in for it.

    Attributes:
        fused: It reads ``to_qkv`` and ``to_kv``. The processor decides this, not ``attn.fused_projections``, which
            stays set after ``unfuse_qkv_projections``.
        uses_layer_scale: Its softmax scale is ``attn.scale``; the others let SDPA take 1 / sqrt(D).
        keeps_text: Its keys and values may come from the text cache, with the attention itself by SDPA.
    """

    fused: bool = False
    uses_layer_scale: bool = False
    keeps_text: bool = True


# matched by exact type: a subclass has its reasons
PROCESSORS: dict[type, ProcessorRule] = {
    AttnProcessor2_0: ProcessorRule(),
    FusedAttnProcessor2_0: ProcessorRule(fused=True),
    AttnProcessor: ProcessorRule(uses_layer_scale=True, keeps_text=False),
}


def attention_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every module that owns an attention processor, with its path."""
    for name, module in model.named_modules():
        if hasattr(module, "get_processor") and hasattr(module, "set_processor"):
            yield name, module


def layer_info(model: Any, name: str, attn: Any) -> LayerInfo:
    """Describe a layer for which ``reason_to_skip`` found nothing."""
    level = level_of(model, name)
    return LayerInfo(name, attn.is_cross_attention, attn.heads, attn.inner_dim // attn.heads, level)


def reason_to_skip(name: str, attn: Any, processor: Any) -> str | None:
    """Why this layer keeps its own processor; None when it can be taken over."""
    if not is_in_a_block(name):
        return "not an attention of the denoiser's blocks"
    if ".fuser." in name:
        return "attends over grounding boxes as well as pixels (GLIGEN)"
    if type(attn) is not Attention:
        return f"its module is {type(attn).__name__}, not diffusers' Attention"
    if type(processor) not in PROCESSORS:
        known = ", ".join(host.__name__ for host in PROCESSORS)
        return f"keeps its own processor {type(processor).__name__}; taken over are {known}"
    if attn.inner_kv_dim != attn.inner_dim:
        return "groups several heads on one key"
    return None


def stored_processors(model: nn.Module) -> dict[str, Any]:
    """The dict of processors that ``unfuse_qkv_projections`` would put back; empty when there is none."""
    return getattr(model, "original_attn_processors", None) or {}


PIXELS_PER_CELL = 8  # along each side, where no pipeline says otherwise
_FORWARD = inspect.signature(UNet2DConditionModel.forward)


def read_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> DenoiserCall:
    """Find latent, timestep and conditioning among the arguments of the denoiser's ``forward``."""
    arguments = _FORWARD.bind_partial(None, *args, **kwargs).arguments
    return DenoiserCall(arguments["sample"], arguments["timestep"], arguments["encoder_hidden_states"])


def with_text(args: tuple[Any, ...], kwargs: dict[str, Any], text: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of the denoiser's ``forward`` with another conditioning."""
    if "encoder_hidden_states" in kwargs:
        return args, {**kwargs, "encoder_hidden_states": text}
    place = list(_FORWARD.parameters).index("encoder_hidden_states") - 1  # self is not among them
    return (*args[:place], text, *args[place + 1 :]), kwargs


def check_diffusers() -> None:
    """Say once when the installed diffusers is outside the versions that this file was checked on.

    Raises:
        ImportError: It is older than what weft supports.
    """
    installed = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
    if installed < DIFFUSERS_OLDEST:
        raise ImportError(f"attach: needs diffusers >= {_dotted(DIFFUSERS_OLDEST)}; found {diffusers.__version__}")
    if installed > DIFFUSERS_NEWEST_TESTED:
        _say_untested(diffusers.__version__)


@functools.cache
def _say_untested(version: str) -> None:
    logger.warning("attach: checked on diffusers up to %s; found %s", _dotted(DIFFUSERS_NEWEST_TESTED), version)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(str(part) for part in version)
