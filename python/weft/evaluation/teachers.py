"""Whether what measures images has also taught what draws them: its numbers flatter then."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weft.evaluation.extractors import Extractor

if TYPE_CHECKING:
    from weft.train.gan import Generator


@dataclass(frozen=True)
class Teachers:
    """Pretrained encoders that took part in training what draws.

    Attributes:
        digests: Of those that are known, as ``Extractor.digests``.
        are_all: Whether there were no others.
    """

    digests: frozenset[str] = frozenset()
    are_all: bool = False

    @classmethod
    def of(cls, generator: Generator) -> Teachers:
        """Those named in its record."""
        return cls(frozenset(generator.taught_by), are_all=generator.knows_teachers)

    def include(self, extractor: Extractor) -> bool | None:
        """Whether it, or a part of it, is one of them; None where that is unknown."""
        if not self.digests.isdisjoint(extractor.digests):
            return True
        return False if self.are_all and extractor.digests else None


UNKNOWN = Teachers()
NO_TEACHERS = Teachers(are_all=True)


def taught(extractor: Extractor, teachers: Teachers) -> bool | None:
    """``teachers.include(extractor)``, with a warning where that is so."""
    if found := teachers.include(extractor):
        warnings.warn(
            f"evaluate: the extractor {extractor.name!r} took part in training what draws: its distances and "
            "R-precision flatter; measure with another that did not",
            stacklevel=3,
        )
    return found
