"""What boxes do to the logits of a joint attention, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass

_ANY, _UP, _DOWN = (-math.inf, math.inf), (0.0, math.inf), (-math.inf, 0.0)
RANGES: dict[str, tuple[float, float]] = {
    "share": (0.0, 1.0),
    "exponent": _UP,
    "gain": _UP,
    "inside": _UP,
    "outside": _DOWN,
    "between_pixels": _DOWN,
    "from_words": _DOWN,
    "between_words": _DOWN,
}


@dataclass(frozen=True)
class JointSettings:
    """How boxes edit a joint attention, S' = alpha * S + delta; each term times the strength of the step.

    -inf removes keys for as long as there is any strength. Words are the tokens of an object's phrase, in the texts of
    all encoders; every logit that is not named here stays what it is.

    Attributes:
        share: Share of the noise schedule, from its noisy end, in which anything is edited.
        exponent: Strength falls with the noise t, from 1 to 0, as t ** exponent.
        gain: alpha of pixels towards the words of an object in whose box they are.
        inside: delta there.
        outside: delta of pixels towards the words of objects in whose boxes they are not.
        between_pixels: delta of pixels in a box towards pixels that share no box with them.
        from_words: delta of words towards pixels outside their object's box.
        between_words: delta of words towards those of other objects.

    Raises:
        ValueError: A number outside its range.
    """

    share: float = 0.5
    exponent: float = 0.0
    gain: float = 1.0
    inside: float = 0.0
    outside: float = -math.inf
    between_pixels: float = 0.0
    from_words: float = 0.0
    between_words: float = 0.0

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most or value == math.inf:
                raise ValueError(
                    f"MaskDiffusion: `{name}` must be from {least:g} to {most:g}, and not inf; got {value!r}"
                )


JOINT = JointSettings()
