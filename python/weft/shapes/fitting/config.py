"""Every number of a training run. The resolved record is written to the run folder before the first step."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Stage = Literal["vae", "diffusion", "export"]
STAGES: tuple[Stage, ...] = ("vae", "diffusion", "export")


@dataclass(frozen=True)
class StageConfig:
    """What the loop needs to know of a stage. A step is one batch on every process."""

    steps: int  # of the whole stage, decay included
    batch_size: int  # samples a step and process
    learning_rate: float  # at the plateau
    decay_steps: int  # length of the final decay to zero
    decay_from: int | None = None  # first step of the decay, moving the stage's end; None: steps - decay_steps
    warmup_steps: int = 200
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    max_grad_norm: float = 1.0
    average_decay: float = 0.999  # of the moving average of the weights
    checkpoint_every: int = 250  # steps
    log_every: int = 20  # steps

    @property
    def decay_start(self) -> int:
        """First step of the final decay."""
        return max(self.steps - self.decay_steps, 0) if self.decay_from is None else self.decay_from

    @property
    def end(self) -> int:
        """Steps after which the stage is finished."""
        return self.steps if self.decay_from is None else self.decay_from + self.decay_steps


@dataclass(frozen=True)
class VaeConfig(StageConfig):
    """Autoencoder: L1 + L2 reconstruction and a small KL term."""

    steps: int = 1800
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    decay_steps: int = 550
    average_decay: float = 0.998
    kl_weight: float = 5e-4  # KL is averaged over latent elements, the reconstruction over pixels in [-1, 1]


@dataclass(frozen=True)
class DiffusionConfig(StageConfig):
    """UNet and text encoder, trained together on latents that are encoded once."""

    steps: int = 7500
    batch_size: int = 16  # early on a gradient's noise is worth five samples: more steps beat larger batches
    learning_rate: float = 8e-4
    decay_steps: int = 1400
    bank_size: int = 32_000  # scenes encoded once
    caption_dropout: float = 0.1  # share of empty captions, for classifier-free guidance
    # timesteps are 1000 u**power with u uniform: below one favours high noise, where the number of objects is decided
    timestep_power: float = 0.6
    snr_gamma: float = 5.0  # min-SNR weighting; 0 weighs all timesteps alike


@dataclass(frozen=True)
class TrainConfig:
    """One run: which stages, with what, and where to."""

    run: Path = Path("runs/shapes")  # holds configuration, log, checkpoints and the exported pipeline
    stages: tuple[Stage, ...] = STAGES
    export_to: Path | None = None  # folder of the exported pipeline; None: pipeline/ in the run folder
    seed: int = 0
    precision: Literal["no", "bf16"] = "bf16"  # compute; parameters, optimizer and average stay fp32
    cpu: bool = False  # stay on the CPU even if there is a GPU
    vae: VaeConfig = field(default_factory=VaeConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
