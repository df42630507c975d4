"""How pictures are best drawn with something that was trained, as its file says it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from weft._checked import Checked


@dataclass(frozen=True)
class Sampling(Checked):
    """A recommendation; None where there is none. What a user gives comes first.

    Attributes:
        guidance_scale: Classifier-free guidance weight.
        num_inference_steps: Steps of the sampler.
        sampler: Class of the scheduler in diffusers, such as "DDIMScheduler"; a pipeline keeps its own, whatever this
            says.

    Raises:
        ValueError: A weight that is not finite, or fewer steps than one.
    """

    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    sampler: str | None = None

    def check(self) -> None:
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise ValueError(f"Sampling: `guidance_scale` must be finite; got {self.guidance_scale}")
        if self.num_inference_steps is not None and self.num_inference_steps < 1:
            raise ValueError(f"Sampling: `num_inference_steps` must be at least 1; got {self.num_inference_steps}")

    def completed(self, **values: Any) -> Sampling:
        """With ``values`` where nothing is recommended."""
        return replace(self, **{name: value for name, value in values.items() if getattr(self, name) is None})

    def record(self) -> dict[str, Any]:
        """Its entry in the record of a file; none where it recommends nothing."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {"sampling": known} if known else {}

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Sampling:
        """From the entry of a file; what a later version has written beside the values here is passed over."""
        return cls(**{one.name: entry.get(one.name) for one in fields(cls)})


OPEN = Sampling()  # recommends nothing
LATER: Mapping[str, Any] = {"sampling": {}}  # files that lack the entry mean this
