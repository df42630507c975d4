"""What weft must know of a family of models, to attach to it and to train on it: one object, as of ``unet.py``.

Relied on beyond the public interface: models keep the processors they had before ``fuse_qkv_projections`` in
``original_attn_processors``.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from weft.attach.processors.seam import Seam
from weft.attach.processors.text_cache import TextCache
from weft.attach.records import DenoiserCall, LayerInfo, ProjectionInfo, Ranges, TextReader, TextStates


@dataclass(frozen=True)
class Widths:
    """Channels of the text: of the conditioning, and of the stream within the blocks where there is one."""

    text: int
    block: int | None = None


class Family(ABC):
    """A family of models.

    Attributes:
        about: What it is, for messages.
        part: The denoiser's name in a pipeline.
        latent: The latent's name among the arguments of the denoiser's ``forward``.
        text: That of the conditioning.
        timestep: That of the timestep.
        perturbs: Name of the argument that leaves a part of the denoiser out, for guidance away from that; if any.
        readers: What its pipelines read a prompt with, in their order; a pipeline may lack some.
        text_length: Tokens of the reader that ``follows``, where a call says nothing; None where there is none.
        noisiest: The timestep of pure noise, as the denoiser is given it.
        is_flow: Trained by flow matching, on the straight path between picture and noise; otherwise along a schedule.
        cells_in_scale: Cells of the latent along each side of what the pipeline calls its ``vae_scale_factor``.
        takes_tokens: Further tokens can be added behind the text of its layers.
        is_trained: ``run`` and ``encode_captions`` serve its models, so that something can be trained on them.
        shares_real: Maps are shares of the text tokens that are no padding; otherwise of all.
    """

    about: str
    part: str
    latent: str
    text: str = "encoder_hidden_states"
    timestep: str = "timestep"
    perturbs: str | None = None
    readers: tuple[TextReader, ...] = ()
    text_length: int | None = None
    noisiest: float = 1000.0
    is_flow: bool = False
    takes_tokens: bool = True
    is_trained: bool = True
    cells_in_scale: int = 1
    shares_real: bool = False

    @property
    @abstractmethod
    def model_names(self) -> tuple[str, ...]:
        """Names of the classes of its denoisers."""

    def is_of(self, model: Any) -> bool:
        """Whether ``model`` is one of its denoisers, or of a class derived from one."""
        return any(kind.__name__ in self.model_names for kind in type(model).__mro__)

    # --- to attach ------------------------------------------------------------------------------------------------

    @abstractmethod
    def refuse_layer(self, model: Any, name: str, attn: Any) -> str | None:
        """Why an attention layer keeps its own processor; None for no reason."""

    @abstractmethod
    def layer_info(self, model: Any, name: str, attn: Any) -> LayerInfo:
        """Describes a layer for which there is no such reason."""

    @abstractmethod
    def refuse_processor(self, attn: Any, processor: type) -> str | None:
        """Why a processor of this class cannot be replaced; None for no reason."""

    @abstractmethod
    def stand_in(self, processor: Any, layer: LayerInfo, cache: TextCache, backend: str | None) -> Seam:
        """What stands in for ``processor``, for which there is no such reason.

        Args:
            cache: Keys and values of the text.
            backend: Of ``weft.ops.attention``; None to let the library choose.
        """

    def latent_size(self, model: Any, call: DenoiserCall) -> tuple[int, int]:
        """(h, w) of the latent of a pass; asked once a generation, so it may wait for the device."""
        height, width = call.sample.shape[-2:]
        return height, width

    def ranges(self, model: Any, call: DenoiserCall, latent_size: tuple[int, int]) -> Ranges | None:
        """Where text and image are in its joint attentions in a pass; None where it has none."""
        return None

    @abstractmethod
    def widths(self, model: Any) -> Widths:
        """Channels of the text."""

    def projections(self, model: Any) -> tuple[ProjectionInfo, ...]:
        """The layers that end its blocks, in which residuals sit; none where weft knows of none.

        Raises:
            ValueError: The model lacks what its family has.
        """
        return ()

    def hooks(self, model: Any) -> tuple[Any, ...]:
        """Put hooks into a model, beside the processors, and give what removes them."""
        return ()

    # --- to train -------------------------------------------------------------------------------------------------

    def run(
        self, denoiser: Any, latents: Tensor, timestep: Tensor, text: TextStates, time_ids: Tensor | None = None
    ) -> Tensor:
        """Predictions [P, C, h, w] of ``denoiser``: a model, or what a compiler made of it.

        Args:
            latents: [P, C', h, w], noisy, in the dtype of the model.
            timestep: [P or 1].
            text: Captions, each for as many pictures, which lie together.
            time_ids: [P, 6], sizes and crops of the pictures, read by Stable Diffusion XL alone; None for pictures as
                large as their latents, with nothing cut off.

        Raises:
            ValueError: Nothing is trained on models of this family.
        """
        raise ValueError(f"weft.train: nothing is trained on {self._names} yet")

    def feature_layer(self, model: Any) -> nn.Module:
        """The layer whose output describes a picture best, wherever its objects are.

        Raises:
            ValueError: No layer of this family is known for that.
        """
        raise self._no_features()

    def feature_map(self, output: Any) -> Tensor:
        """[P, C', pixels] of the output of that layer. Raises as that."""
        raise self._no_features()

    def _no_features(self) -> ValueError:
        return ValueError(
            f"weft.train: losses that compare pictures look through a layer of the denoiser; weft knows none of "
            f"{self._names} for that; train without these losses"
        )

    @property
    def _names(self) -> str:
        return f"{' or '.join(self.model_names)} ({self.about})"

    def latent_channels(self, model: Any) -> int:
        """Channels of what ``run`` takes."""
        return int(model.config.in_channels)

    def native_cells(self, model: Any) -> int:
        """Side of the latents that the model was made for."""
        cells = model.config.sample_size
        return int(cells if isinstance(cells, int) else min(cells))

    def layers_before_text(self, model: Any) -> list[nn.Module]:
        """The costly layers that a picture goes through before the model reads any text."""
        return []

    def text_blocks(self, model: Any) -> tuple[str, ...]:
        """Names of the blocks that hold a stream of text of their own, in the order in which they run."""
        return ()

    def is_large(self, model: Any) -> bool:
        """Whether it is of the larger kind of its family, with settings of its own: Stable Diffusion XL."""
        return False

    def patch(self, model: Any) -> int:
        """Cells of the latent along each side of what its layers see as one pixel at their finest."""
        return 1

    def encode_captions(self, pipeline: Any, captions: Sequence[str], text_length: int | None = None) -> TextStates:
        """Encode captions as the pipeline encodes prompts; ``text_length`` as of the family, None for that."""
        encoded = pipeline.encode_prompt(
            prompt=list(captions),
            device=pipeline.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            **self.encode_arguments(text_length),
        )
        # (states, negative), or with pooled states (states, negative, pooled, negative pooled)
        return TextStates(encoded[0], encoded[2] if len(encoded) > 2 else None)

    def encode_arguments(self, text_length: int | None) -> dict[str, Any]:
        """Further arguments of ``encode_prompt``, for captions that all readers read alike."""
        return {}

    # --- around a pass --------------------------------------------------------------------------------------------

    def read_call(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DenoiserCall:
        """Find what matters among the arguments of the denoiser's ``forward``."""
        kind: Any = type(model)
        arguments = _forward(kind).bind_partial(None, *args, **kwargs).arguments
        return DenoiserCall(
            arguments[self.latent],
            arguments[self.timestep],
            arguments[self.text],
            arguments=arguments,
            is_perturbed=self.perturbs is not None and arguments.get(self.perturbs) is not None,
        )

    def with_text(
        self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], text: Tensor
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the denoiser's ``forward`` with another conditioning."""
        if self.text in kwargs:
            return args, {**kwargs, self.text: text}
        kind: Any = type(model)
        place = list(_forward(kind).parameters).index(self.text) - 1  # self is not among them
        return (*args[:place], text, *args[place + 1 :]), kwargs


@functools.cache
def _forward(kind: Any) -> inspect.Signature:
    return inspect.signature(kind.forward)


def attention_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every module that owns an attention processor, with its path."""
    for name, module in model.named_modules():
        if hasattr(module, "get_processor") and hasattr(module, "set_processor"):
            yield name, module


def bare_layer(model: nn.Module, name: str) -> Any:
    """The layer of this path; of one that peft wraps, what is inside the wrapping, which stays as it is."""
    layer: Any = model.get_submodule(name)
    while hasattr(layer, "base_layer"):
        layer = layer.base_layer
    return layer


def set_processor(attn: Any, processor: Any) -> None:
    """Give an attention module another processor."""
    attn.set_processor(processor)


def stored_processors(model: nn.Module) -> dict[str, Any]:
    """The dict of processors that ``unfuse_qkv_projections`` would put back; empty when there is none."""
    return getattr(model, "original_attn_processors", None) or {}
