"""The projections of a model on behalf of the controls of an attachment: taken over only while one adds to them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from weft.attach.control import Control
from weft.attach.projections import GatedProjections
from weft.attach.records import ProjectionInfo, ProjectionTerms, Step


class Projector:
    """Asks controls what they add to the projections of a model, and sees to it that it is added."""

    def __init__(self) -> None:
        self._projections: GatedProjections | None = None

    def take_over(self, model: nn.Module) -> None:
        """Take the projections over if they are not yet. Raises as ``GatedProjections``."""
        if self._projections is None:
            self._projections = GatedProjections(model)

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
