"""The hooks that add residuals at the places of a UNet, and what asks controls for them.

Relied on beyond the public interface: blocks are called with ``hidden_states``, and attentions give tuples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from weft.attach.control import Control
from weft.attach.families.unet_blocks import places
from weft.attach.records import DenoiserCall, Step


class Injection:
    """A UNet that adds residuals at its places, until ``undo``."""

    def __init__(self, model: Any) -> None:
        """
        Raises:
            ValueError: The model is no UNet of Stable Diffusion.
        """
        self.places = places(model)
        self._additions = [_Addition() for _ in self.places]
        # behind the first convolution, but not in the skip that starts there: as BrushNet does
        first = model.down_blocks[0].register_forward_pre_hook(_BlockInput(self._additions[0]), with_kwargs=True)
        modules = (model.get_submodule(name) for name in self.places[1:])
        behind = (
            module.register_forward_hook(addition)
            for module, addition in zip(modules, self._additions[1:], strict=True)
        )
        self._handles = [first, *behind]

    def set(self, residuals: Sequence[Tensor] | None) -> None:
        """Let every pass from now on add ``residuals``, one for each of ``places``; None for nothing.

        Raises:
            ValueError: There are fewer or more.
        """
        if residuals is not None and len(residuals) != len(self.places):
            raise ValueError(f"attach: needs a residual for each of {len(self.places)} places; got {len(residuals)}")
        for index, addition in enumerate(self._additions):
            addition.residual = None if residuals is None else residuals[index]

    def undo(self) -> None:
        """Take every hook away. May be called again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.set(None)


class _Addition:
    """Adds a residual to what a module gives; a copy of the model does not take the residual along."""

    def __init__(self) -> None:
        self.residual: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self.residual is None:
            return None
        if isinstance(output, tuple):
            return output[0] + self.residual.to(output[0].dtype), *output[1:]
        return output + self.residual.to(output.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Addition:
        return _Addition()

    def __reduce__(self) -> Any:
        return _Addition, ()


class _BlockInput:
    """Adds a residual to what a block is given."""

    def __init__(self, addition: _Addition) -> None:
        self.addition = addition

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        residual = self.addition.residual
        if residual is None:
            return None
        if args:
            return (args[0] + residual.to(args[0].dtype), *args[1:]), kwargs
        hidden_states = kwargs["hidden_states"]
        return args, {**kwargs, "hidden_states": hidden_states + residual.to(hidden_states.dtype)}


class Injector:
    """Asks controls what they add within a UNet, and sees to it that it is added."""

    def __init__(self) -> None:
        self._injection: Injection | None = None

    def take_over(self, model: nn.Module) -> None:
        """Put hooks into the model if there are none yet. Raises as ``Injection``."""
        if self._injection is None:
            self._injection = Injection(model)

    def give_back(self) -> None:
        """Take the hooks away. May be called again."""
        injection, self._injection = self._injection, None
        if injection is not None:
            injection.undo()

    def before_pass(self, controls: Sequence[Control], call: DenoiserCall, step: Step) -> None:
        """Ask ``controls`` for the residuals of the coming pass.

        Raises:
            ValueError: Two controls add something.
        """
        if self._injection is None:
            return
        asked = [(control, control.add_at_places(call, step)) for control in controls if control.adds_at_places]
        given = [(control, residuals) for control, residuals in asked if residuals is not None]
        if len(given) > 1:
            names = " and ".join(type(control).__name__ for control, _ in given)
            raise ValueError(f"attach: one control at most may add within the UNet in a pass; {names} both do")
        self._injection.set(given[0][1] if given else None)

    def after_pass(self) -> None:
        """Let go of the residuals."""
        if self._injection is not None:
            self._injection.set(None)
