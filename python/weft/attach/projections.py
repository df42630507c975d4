"""The projection that ends each transformer block of a UNet (``proj_out``), with gated low-rank terms added to it.

The module itself stays: its class is exchanged for one that overrides ``forward`` alone, so parameters, state-dict
keys, hooks, offloading and peft layers around it survive, and undoing is exact.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from diffusers import Transformer2DModel
from torch import Tensor, nn

from weft.attach.levels import grid_at, is_in_a_block, level_of
from weft.ops.lowrank_linear import lowrank_linear

# of a block; the bare name of its `proj_out` is also that of the last layer of other families
_NAME = re.compile(r".*\.attentions\.\d+")


@dataclass(frozen=True)
class ProjectionInfo:
    """One ``proj_out`` of a model.

    Attributes:
        name: Its path, such as "down_blocks.0.attentions.0.proj_out".
        width: Channels in and out.
        is_convolution: A 1x1 convolution of images (SD1.x); otherwise a linear layer of tokens (SD2, SDXL).
        level: How often the latent was halved before this block; 0 is the latent's own resolution.
    """

    name: str
    width: int
    is_convolution: bool
    level: int

    @property
    def block(self) -> str:
        """Path of the transformer block, "down_blocks.0.attentions.0"."""
        return self.name.removesuffix(".proj_out")

    def grid(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the block's pixels for a latent of ``latent_size`` = (h, w)."""
        return grid_at(self.level, latent_size)


@dataclass(frozen=True, eq=False)
class ProjectionTerms:
    """What a projection adds to its own output: ((x A^T) * expand(gate)) B^T, see ``weft.ops.lowrank_linear``.

    Tensors are read at every call. A control that writes into them in place (``terms.gate.copy_(mask)``) recompiles
    nothing, and a CUDA graph replays; so does an exchange for other terms of the same shapes, but for the graph.

    Attributes:
        down: A, [R, width], the factors applied first, those of all K concepts stacked; in the model's dtype and on
            its device, or it is cast at every call.
        up: B, [width, R].
        ranks: Rows of ``down`` that belong to each concept; None for one concept. They are sizes: new ones recompile,
            so give each slot the largest rank and fill what is left over with zeros.
        gate: fp32 (fp64 in a float64 model), [K], [B, K] or [B or 1, rows or 1, K], rows as the pixels of the block
            from left to right, top to bottom; None for 1.
        keeps_base: Add to what the module itself gave, in place of one product for both: where the gate is zero the
            result then has the bits of the module.
        backend: Of ``lowrank_linear``; None to let the library choose.
    """

    down: Tensor
    up: Tensor
    ranks: Sequence[int] | None = None
    gate: Tensor | None = None
    keeps_base: bool = False
    backend: str | None = None


class GatedProjection(nn.Module):
    """A projection that was taken over by ``GatedProjections``; its class also derives from the one it had.

    Attributes:
        terms: What to add; None runs the module's own ``forward``, bit by bit.
        host_class: The class it had.
    """

    terms: ProjectionTerms | None = None
    host_class: type[nn.Module]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # a copy belongs to nobody: it is of the host's class and has no terms
        state = {name: value for name, value in self.__dict__.items() if name != "terms"}
        return _new, (self.host_class,), state


class GatedProjections(Mapping[str, GatedProjection]):
    """Every ``proj_out`` of a model, taken over until ``undo``: name -> module, set ``terms`` of each as you like.

    Example:
        >>> with GatedProjections(pipe.unet) as projections:
        ...     for name, projection in projections.items():
        ...         projection.terms = ProjectionTerms(down[name], up[name], gate=strength)
        ...     image = pipe(prompt).images[0]
    """

    def __init__(self, model: nn.Module) -> None:
        """Take over all projections of ``model``, or none.

        Raises:
            ValueError: The model has none, they are taken over already, or something else owns the ``forward`` of one.
        """
        found = dict(_projections(model))
        for name, module in found.items():
            _check_free(name, module)
        self.infos: tuple[ProjectionInfo, ...] = tuple(_info(model, name, module) for name, module in found.items())
        self._modules = found
        for module in found.values():
            host: Any = type(module)
            module.__class__ = _gated(host)

    def __getitem__(self, name: str) -> GatedProjection:
        module = self._modules[name]
        assert isinstance(module, GatedProjection)
        return module

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def undo(self) -> None:
        """Give every module its class back. May be called again."""
        for module in self._modules.values():
            module.__dict__.pop("terms", None)
            module.__class__ = module.host_class  # type: ignore[assignment]
        self._modules = {}

    def __enter__(self) -> GatedProjections:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def _new(kind: type[nn.Module]) -> nn.Module:
    return kind.__new__(kind)


def find_projections(model: nn.Module) -> tuple[ProjectionInfo, ...]:
    """Every ``proj_out`` of the transformer blocks of ``model``, in the order of its modules.

    Raises:
        ValueError: There is none.
    """
    return tuple(_info(model, name, module) for name, module in _projections(model))


def _projections(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module); of a layer that peft wraps, what is inside the wrapping, which stays as it is."""
    found = False
    for name, block in model.named_modules():
        projection: Any = getattr(block, "proj_out", None)
        if not (isinstance(block, Transformer2DModel) and is_in_a_block(name) and _NAME.fullmatch(name)):
            continue
        while hasattr(projection, "base_layer"):
            projection = projection.base_layer
        if isinstance(projection, nn.Module):
            found = True
            yield f"{name}.proj_out", projection
    if not found:
        raise ValueError(
            f"projections: needs a model with transformer blocks named `attentions.<n>`, such as the UNet of Stable "
            f"Diffusion 1.x, 2.x or XL; {type(model).__name__} has none"
        )


def _info(model: nn.Module, name: str, module: Any) -> ProjectionInfo:
    is_convolution = isinstance(module, nn.Conv2d)
    width = module.in_channels if is_convolution else module.in_features
    if is_convolution and (module.kernel_size, module.stride, module.groups) != ((1, 1), (1, 1), 1):
        raise ValueError(f"projections: {name} must be a linear layer or a plain 1x1 convolution; got {module}")
    return ProjectionInfo(name, width, is_convolution, level_of(model, name))


def _check_free(name: str, module: nn.Module) -> None:
    if isinstance(module, GatedProjection):
        raise ValueError(f"projections: {name} is taken over already; undo or detach that first")
    if "forward" in module.__dict__:
        raise ValueError(
            f"projections: a hook (offloading, casting) owns the forward of {name}; take the model over before "
            "adding such hooks"
        )


@functools.cache
def _gated(host: Any) -> type[GatedProjection]:
    """A subclass of the module class ``host`` that adds terms."""

    class Gated(GatedProjection, host):  # type: ignore[misc]
        host_class = host

        def forward(self, hidden_states: Tensor) -> Tensor:
            # from the instance: a hook that was added meanwhile may call this after the class went back
            terms: ProjectionTerms | None = self.__dict__.get("terms")
            if terms is None:
                return host.forward(self, hidden_states)
            if not terms.keeps_base and _is_plain(host, self, hidden_states):
                layer: Any = self
                return _project(hidden_states, terms, weight=layer.weight, bias=layer.bias)
            return _project(hidden_states, terms, base=host.forward(self, hidden_states))

    Gated.__name__ = Gated.__qualname__ = f"Gated{host.__name__}"
    return Gated


def _is_plain(host: Any, module: Any, hidden_states: Tensor) -> bool:
    """Whether the module is nothing but its weight and bias in the dtype of its input: not quantised."""
    return (
        host in (nn.Linear, nn.Conv2d)
        and type(module.weight) in (nn.Parameter, Tensor)
        and module.weight.dtype == hidden_states.dtype
    )


def _project(
    hidden_states: Tensor,
    terms: ProjectionTerms,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    base: Tensor | None = None,
) -> Tensor:
    """``lowrank_linear`` of tokens [B, N, C], or of an image [B, C, h, w] with an image as its result."""
    dtype = hidden_states.dtype if base is None else base.dtype
    x, gate, size, as_rows = hidden_states.to(dtype), terms.gate, None, False
    if x.ndim == 4:
        # in channels_last memory an image is rows already, and comes back as one; beside a base the op sees to both
        as_rows = base is None and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        size = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
    y = lowrank_linear(
        x,
        weight,
        bias,
        down=terms.down.to(dtype),
        up=terms.up.to(dtype),
        ranks=terms.ranks,
        gate=None if gate is None else gate.to(torch.promote_types(dtype, torch.float32)),
        base=base,
        grid=None if size is None or as_rows or base is not None else (size[0], size[1]),
        backend=terms.backend,
    )
    return y.transpose(1, 2).reshape(len(y), -1, *size) if as_rows and size is not None else y
