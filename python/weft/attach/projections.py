"""The projections that end the blocks of a model, ``proj_out`` of a UNet, with gated low-rank terms added to them.

The module itself stays: its class is exchanged for one that overrides ``forward`` alone, so parameters, state-dict
keys, hooks, offloading and peft layers around it survive, and undoing is exact.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from weft.attach.control import Control
from weft.attach.families import resolve
from weft.attach.families.family import bare_layer
from weft.attach.records import ProjectionInfo, ProjectionTerms, Step
from weft.ops.lowrank_linear import lowrank_linear


class GatedProjection(nn.Module):
    """A projection that was taken over by ``GatedProjections``; its class also derives from the one it had.

    Attributes:
        terms: What to add; None runs the module's own ``forward``, bit by bit.
        host_class: The class it had.
    """

    terms: ProjectionTerms | None = None
    host_class: type[nn.Module]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # a copy has no owner: it is of the host's class and has no terms
        state = {name: value for name, value in self.__dict__.items() if name != "terms"}
        return _new, (self.host_class,), state


class GatedProjections(Mapping[str, GatedProjection]):
    """Every projection that ends a block, taken over until ``undo``: name -> module, set ``terms`` of each at will.

    Example:
        >>> with GatedProjections(pipe.unet) as projections:
        ...     for name, projection in projections.items():
        ...         projection.terms = ProjectionTerms(down[name], up[name], gate=strength)
        ...     image = pipe(prompt).images[0]
    """

    def __init__(self, model: nn.Module, infos: Sequence[ProjectionInfo] | None = None) -> None:
        """Take over all projections of ``model``, or none.

        Args:
            infos: Its projections; None for those that its family knows.

        Raises:
            ValueError: The model has none, they are taken over already, or something else owns the ``forward`` of one.
        """
        self.infos = tuple(resolve(model).family.projections(model) if infos is None else infos)
        if not self.infos:
            raise ValueError(
                f"projections: needs a model whose blocks end in a projection, as those of a UNet of Stable Diffusion "
                f"or of Flux do; {type(model).__name__} has none"
            )
        found: dict[str, nn.Module] = {info.name: bare_layer(model, info.name) for info in self.infos}
        for name, module in found.items():
            _check_free(name, module)
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


class Projector:
    """Asks controls what they add to the projections of a model; takes them over only while one adds to them."""

    def __init__(self) -> None:
        self._projections: GatedProjections | None = None

    def take_over(self, model: nn.Module, infos: Sequence[ProjectionInfo]) -> None:
        """Take the projections ``infos`` over if they are not yet. Raises as ``GatedProjections``."""
        if self._projections is None:
            self._projections = GatedProjections(model, infos)

    def give_back(self) -> None:
        """Give every projection its class back. May be called again."""
        projections, self._projections = self._projections, None
        if projections is not None:
            projections.undo()

    def before_pass(self, controls: Sequence[Control], step: Step) -> None:
        """Ask ``controls`` for the terms of the coming pass.

        Raises:
            ValueError: Two controls add to one projection.
        """
        if self._projections is not None:
            for info in self._projections.infos:
                self._projections[info.name].terms = _terms(info, controls, step)


def _terms(info: ProjectionInfo, controls: Sequence[Control], step: Step) -> ProjectionTerms | None:
    asked = [(control, control.add_to_projection(info, step)) for control in controls if control.adds_to_projections]
    given = [(control, terms) for control, terms in asked if terms is not None]
    if len(given) > 1:
        names = " and ".join(type(control).__name__ for control, _ in given)
        raise ValueError(
            f"attach: one control at most may add to a projection in a pass; {names} both add to {info.name}; give "
            "all concepts to one of them"
        )
    return given[0][1] if given else None
