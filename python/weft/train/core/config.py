"""The numbers of a training loop and of a fit, as plain data that the command line reads too.

The docstring of a field is its line of help; a comment above it is for who reads the code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from weft._checked import Checked
from weft.methods.sampling import OPEN, Sampling

Precision = Literal["auto", "no", "fp16", "bf16"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run has."""

    seed: int = 0
    """Seed of the start, the noise and the order."""
    precision: Precision = "auto"
    """Precision of computing; auto is bf16 or fp16 on a GPU. What is trained stays float32."""
    tensorboard: bool = False
    """Write a log that tensorboard reads to the run's folder."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long a loop is, how much a step takes, and how often it is kept."""

    steps: int
    """Updates of the whole run, the decay included."""
    batch_size: int = 4
    """Samples of one forward pass on one device."""
    accumulation: int = 1
    """Forward passes of one step."""
    decay_steps: int = 0
    """Steps at the end over which the learning rate falls to zero."""
    average_decay: float = 0.0
    """Decay per step of a moving average of what is trained, which is the result then; 0 for none."""
    max_skipped: int = 0
    """Steps that may be left out because their loss or gradients are not finite."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between rows of the log."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig(Pace, Checked):
    """How long and how fast. A step is one update of the parameters."""

    learning_rate: float
    """Learning rate of AdamW after the warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from zero."""
    decay_from: int | None = None
    """Step at which the decay begins, which moves the end of the run; as late as possible if not given."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Betas of AdamW."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    max_grad_norm: float | None = None
    """Gradients are clipped to this norm; not at all if not given."""
    # a third of the time of an update on a CPU
    fused: bool = False
    """Update all parameters in one pass, which is faster on a CPU and rounds differently."""

    def check(self) -> None:
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


@dataclass(frozen=True, kw_only=True)
class FitConfig(RunConfig):
    """What every fit on a diffusion pipeline has."""

    resolution: int | None = None
    """Pixels of a side; the model's own if not given."""
    gradient_checkpointing: bool = False
    """Less memory, more time."""
    validate_every: int | None = None
    """Steps between validation pictures, which go to the run's folder; none if not given."""
    validation_steps: int = 25
    """Sampler steps of a validation picture."""
    sampling: Sampling = OPEN
    """How pictures are best drawn with the result, which its file keeps; sampler and steps are those of validation
    pictures where nothing is given."""


@dataclass(frozen=True)
class Player:
    """Parameters that one optimizer trains, and its numbers.

    Attributes:
        learning_rate: On the plateau; None for the loop's own.
        averaged: Whether the loop's moving average follows them.
    """

    betas: tuple[float, float]
    learning_rate: float | None = None
    weight_decay: float = 0.0
    averaged: bool = True


@dataclass(frozen=True)
class Turn:
    """One loss and one update within a step of the loop.

    Attributes:
        name: What the objective's forward is called with, before the batch.
        player: Whose parameters it updates; a player may have several turns.
        every: Steps from one such turn to the next.
    """

    name: str
    player: str
    every: int = 1
