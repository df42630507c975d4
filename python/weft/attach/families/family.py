"""What an attachment must know of a family of models: one record, which ``unet.py`` and ``sd3.py`` fill in.

Relied on beyond the public interface: models keep the processors they had before ``fuse_qkv_projections`` in
``original_attn_processors``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from weft.attach.processors.stand_in import StandIn
from weft.attach.processors.text_cache import TextCache
from weft.attach.records import DenoiserCall, LayerInfo, ProjectionInfo

# (processor of diffusers, its layer, keys and values of the text, backend of weft.ops.attention)
MakeStandIn = Callable[[Any, LayerInfo, TextCache, str | None], StandIn]


@dataclass(frozen=True)
class Widths:
    """Channels of the text: of the conditioning, and of the stream within the blocks where there is one."""

    text: int
    block: int | None = None


def _nothing(*of_what: Any) -> tuple[()]:
    return ()


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        model: Class of its denoisers.
        about: What it is, for messages.
        part: The denoiser's name in a pipeline.
        latent: The latent's name among the arguments of the denoiser's ``forward``.
        perturbs: Name of the argument that leaves a part of the denoiser out, for guidance away from that; if any.
        stand_ins: What makes the stand-in, by the class of the processor it stands in for; matched exactly, since a
            subclass has its reasons.
        refuse_layer: Why an attention layer, by (model, name, module), keeps its own processor; None for no reason.
        layer_info: Describes a layer, by the same, for which there is none.
        widths: Of a model.
        projections: The ``proj_out`` layers of a model; raises ValueError where it lacks what its family has.
        hooks: Puts hooks into a model, beside the processors, and gives what removes them.
    """

    model: type[nn.Module]
    about: str
    part: str
    latent: str
    stand_ins: Mapping[type, MakeStandIn]
    refuse_layer: Callable[[nn.Module, str, Any], str | None]
    layer_info: Callable[[nn.Module, str, Any], LayerInfo]
    widths: Callable[[nn.Module], Widths]
    projections: Callable[[nn.Module], tuple[ProjectionInfo, ...]] = _nothing
    hooks: Callable[[nn.Module], tuple[Any, ...]] = _nothing
    perturbs: str | None = None

    @functools.cached_property
    def _forward(self) -> inspect.Signature:
        return inspect.signature(self.model.forward)

    def reason_to_skip(self, model: nn.Module, name: str, attn: Any, processor: Any) -> str | None:
        """Why this layer keeps its own ``processor``; None when it can be taken over."""
        if type(attn) is not Attention:
            return f"its module is {type(attn).__name__}, not diffusers' Attention"
        reason = self.refuse_layer(model, name, attn)
        if reason is None and type(processor) not in self.stand_ins:
            known = ", ".join(host.__name__ for host in self.stand_ins)
            reason = f"keeps its own processor {type(processor).__name__}; taken over are {known}"
        return reason

    def read_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DenoiserCall:
        """Find what matters among the arguments of the denoiser's ``forward``."""
        arguments = self._forward.bind_partial(None, *args, **kwargs).arguments
        return DenoiserCall(
            arguments[self.latent],
            arguments["timestep"],
            arguments["encoder_hidden_states"],
            is_perturbed=self.perturbs is not None and arguments.get(self.perturbs) is not None,
        )

    def with_text(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], text: Tensor
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the denoiser's ``forward`` with another conditioning."""
        if "encoder_hidden_states" in kwargs:
            return args, {**kwargs, "encoder_hidden_states": text}
        place = list(self._forward.parameters).index("encoder_hidden_states") - 1  # self is not among them
        return (*args[:place], text, *args[place + 1 :]), kwargs


def attention_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every module that owns an attention processor, with its path."""
    for name, module in model.named_modules():
        if hasattr(module, "get_processor") and hasattr(module, "set_processor"):
            yield name, module


def stored_processors(model: nn.Module) -> dict[str, Any]:
    """The dict of processors that ``unfuse_qkv_projections`` would put back; empty when there is none."""
    return getattr(model, "original_attn_processors", None) or {}
