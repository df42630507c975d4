"""The numbers of a training loop: how long, how fast, and what it keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast. A step is one update of the parameters."""

    steps: int  # of the whole run, decay included
    learning_rate: float
    batch_size: int = 4  # samples of one forward pass on one process
    accumulation: int = 1  # forward passes a step
    warmup_steps: int = 0  # of the learning rate, from zero; then it stays on a plateau
    decay_steps: int = 0  # of the learning rate at the end, to zero
    decay_from: int | None = None  # step at which the decay begins, moving the run's end; None: decay_steps before it
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    max_grad_norm: float | None = None  # None: gradients are not clipped
    average_decay: float = 0.0  # of a moving average of the parameters, a step; 0: there is none
    max_skipped: int = 0  # steps that may be left out because their loss or gradients are not finite
    fused: bool = False  # one pass over the parameters a step: a third of the time on a CPU, with other rounding
    checkpoint_every: int = 50  # steps
    log_every: int = 10  # steps

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"train: `{name}` must be at least 1; got {getattr(self, name)}")
        for name in ("warmup_steps", "decay_steps", "max_skipped"):
            if getattr(self, name) < 0:
                raise ValueError(f"train: `{name}` must not be negative; got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"train: `learning_rate` must be above 0; got {self.learning_rate}")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"train: `average_decay` must be at least 0 and below 1; got {self.average_decay}")
        if self.decay_from is not None and self.decay_from < 0:
            raise ValueError(f"train: `decay_from` must not be negative; got {self.decay_from}")

    @property
    def decay_start(self) -> int:
        """First step of the final decay."""
        return max(self.steps - self.decay_steps, 0) if self.decay_from is None else self.decay_from

    @property
    def end(self) -> int:
        """Steps after which the run is finished."""
        return self.steps if self.decay_from is None else self.decay_from + self.decay_steps

    def rate(self, step: int, plateau: float | None = None) -> float:
        """Learning rate of a step: warm-up, plateau, then a decay to zero along 1 - sqrt.

        The plateau is at ``learning_rate`` unless another is given. It needs no planned end, so a run may be finished
        from any step by ``decay_from``.

        Source:
            Haegele et al. 2024, arXiv:2405.18392, section 3.
        """
        warmup = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        decayed = min(max(step - self.decay_start, 0) / max(self.decay_steps, 1), 1.0)
        return (plateau or self.learning_rate) * warmup * (1.0 - math.sqrt(decayed))
