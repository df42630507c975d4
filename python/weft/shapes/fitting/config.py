"""Every number of a training run. The resolved record is written to the run folder before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from weft.train.core import LoopConfig
from weft.train.task_prompts import Kind

from ..shipped import Model

Stage = Literal["vae", "diffusion", "export"]
STAGES: tuple[Stage, ...] = ("vae", "diffusion", "export")


@dataclass(frozen=True)
class StageConfig(LoopConfig):
    """What the stages have in common."""

    warmup_steps: int = 200
    betas: tuple[float, float] = (0.9, 0.99)
    max_grad_norm: float | None = 1.0
    average_decay: float = 0.999
    max_skipped: int = 100
    fused: bool = True
    checkpoint_every: int = 250
    log_every: int = 20


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
class CaptionedConfig(StageConfig):
    """What both denoisers learn from: captioned latents."""

    batch_size: int = 16  # early on a gradient's noise is worth five samples: more steps beat larger batches
    bank_size: int = 32_000  # scenes encoded once
    caption_dropout: float = 0.1  # share of empty captions, for classifier-free guidance


@dataclass(frozen=True)
class DiffusionConfig(CaptionedConfig):
    """UNet and text encoder, trained together."""

    steps: int = 7500
    learning_rate: float = 8e-4
    decay_steps: int = 1400
    # timesteps are 1000 u**power with u uniform: below one favours high noise, where the number of objects is decided
    timestep_power: float = 0.6
    snr_gamma: float = 5.0  # min-SNR weighting; 0 weighs all timesteps alike


@dataclass(frozen=True)
class FlowConfig(CaptionedConfig):
    """MM-DiT and both text encoders, trained together."""

    steps: int = 40_000
    learning_rate: float = 1e-3
    decay_steps: int = 4000
    average_decay: float = 0.9995
    # logit(sigma) is normal; the paper's best have 0 and 1, but the number of objects is decided at high noise
    logit_mean: float = 0.8
    logit_std: float = 1.4
    # how many zero tokens stand for the absent T5, drawn for each sample; the pipeline's `max_sequence_length` says
    # how many it feeds, 256 when it says nothing
    null_tokens: tuple[int, ...] = (1, 16, 256, 256)
    text_encoder: str | None = None  # folder of a CLIP text encoder that the first one starts from; None: from nothing


@dataclass(frozen=True)
class PlainConfig(StageConfig):
    """The shipped autoencoder learns pictures without objects; all else keeps its latents."""

    steps: int = 600
    batch_size: int = 16  # scenes, each with its objects and without
    learning_rate: float = 5e-4
    warmup_steps: int = 50
    decay_steps: int = 250
    average_decay: float = 0.995
    kl_weight: float = VaeConfig.kl_weight
    anchor_weight: float = 1.0  # of the squared distance to the shipped encoder's latents, in units of scaled ones


@dataclass(frozen=True)
class InpaintingConfig(StageConfig):
    """A wider UNet and the task prompts, trained together; they start from the shipped text-to-image model."""

    steps: int = 21_400
    batch_size: int = 8
    learning_rate: float = 5e-4  # of the prompts, ``TaskPromptsConfig.prompt_learning_rate``
    warmup_steps: int = 100
    decay_steps: int = 1000
    average_decay: float = 0.998
    checkpoint_every: int = 100
    scenes: int = 20_000
    offset_noise: float = 0.3  # or the mean of pure noise gets into plain pictures
    timestep_power: float = 0.5
    snr_gamma: float = 5.0
    backgrounds: float = 0.35  # share of scenes without objects
    borrowed: float = 0.8  # share of holes in "context" that look as those of objects
    worded: float = 0.5  # share of empty captions that are removal's words
    # removal, context and outpainting all speak the context prompt: it gets half of the samples
    shares: Mapping[Kind, float] = field(
        default_factory=lambda: {"image": 0.05, "outpaint": 0.11, "context": 0.4, "object": 0.22, "shape": 0.22}
    )


@dataclass(frozen=True)
class TrainConfig:
    """One run: which model, which stages, with what, and where to."""

    run: Path = Path("runs/shapes")  # holds configuration, logs, checkpoints and the exported pipelines
    model: Model = "sd1"  # its denoiser is trained; the autoencoder is the same for all
    stages: tuple[Stage, ...] = STAGES
    export_to: Path | None = None  # folder of the exported pipeline; None: MODEL/ in the run folder
    seed: int = 0
    precision: Literal["no", "bf16"] = "bf16"  # compute; parameters, optimizer and average stay fp32
    cpu: bool = False  # stay on the CPU even if there is a GPU
    vae: VaeConfig = field(default_factory=VaeConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)  # of sd1
    flow: FlowConfig = field(default_factory=FlowConfig)  # of sd3
    plain: PlainConfig = field(default_factory=PlainConfig)  # of inpainting
    inpainting: InpaintingConfig = field(default_factory=InpaintingConfig)
