"""The numbers of ``fit_task_prompts``, as plain data that the command line reads too."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from weft.methods.powerpaint import COUNT
from weft.train.core import FitConfig, LoopConfig
from weft.train.task_prompts.mixture import Mixture

Trained = Literal["prompts", "unet", "lora", "residuals"]


# of AdamW, by what is trained: published for the whole UNet; usual for LoRA
RATES: dict[Trained, float] = {"prompts": 1e-3, "unet": 1e-5, "lora": 1e-4, "residuals": 1e-3}
WEIGHT_DECAY = 1e-2  # published for the UNet; prompts alone have none


@dataclass(frozen=True)
class TaskPromptsLoop(LoopConfig):
    """The defaults; on the command line rate and decay follow from what is trained."""

    steps: int = 5000
    learning_rate: Annotated[float, tyro.conf.Suppress] = RATES["prompts"]
    weight_decay: Annotated[float, tyro.conf.Suppress] = 0.0
    max_grad_norm: float | None = 1.0
    checkpoint_every: int = 250


@dataclass(frozen=True, kw_only=True)
class TaskPromptsConfig(FitConfig):
    """Every number of ``fit_task_prompts``; the defaults teach the prompts alone to a model that inpaints already."""

    loop: LoopConfig = field(default_factory=TaskPromptsLoop)
    # "prompts": 3 x 10 vectors; "unet" is published with learning rate 1e-5, decay 1e-2, clipped at 1, 500 steps of
    # warm-up, 25 000 steps of 1024 pictures; "residuals" has factors for ``proj_out`` alone, as ``fit_residual``.
    # Weights, gradients and AdamW's state of the UNet take 12.8 GiB for the whole of Stable Diffusion 1.5 and 38.3 GiB
    # for XL's, beside activations; with LoRA of rank 16 on half precision 1.6 and 5.1 GiB (counted, not measured): a
    # card of 24 GB takes all of 1.5, and LoRA of XL
    trains: Trained = "prompts"
    """prompts alone, for a model that inpaints already; unet, every weight of it, as published; lora, factors for its
    attention, and its first convolution; residuals, factors for the ends of attention blocks, and that convolution."""
    prompt_learning_rate: float = 1e-3
    """Learning rate of the prompts, whatever the rest learns at."""
    count: int = COUNT
    """Vectors of a prompt."""
    init_word: str = "a"
    """Every vector begins as the embedding of this word, with some noise."""
    # vectors differ from the start; published: 0
    init_std: float = 0.02
    """Standard deviation of that noise."""
    mixture: Mixture = field(default_factory=Mixture)
    lora_rank: int = 16
    """With --trains lora: rank of the factors."""
    rank_share: float = 0.05
    """With --trains residuals: rank of the factors of a layer, as a share of its width."""
    offset_noise: float = 0.0
    """Further noise of whole channels, such as 0.1: the colour of a hole then comes from around it."""
    # see ``MaskedBatches``
    timestep_power: float = 1.0
    """Times of the noise are u ** power of all; below one favours high noise, where holes get their colour."""
    snr_gamma: float = 0.0
    """min-SNR weighting of the loss, usually 5; 0 weighs all times alike, as published."""

    def check(self, folder: Path | None) -> None:
        """Refuse what cannot be meant; ``folder`` is where the run is kept.

        Raises:
            ValueError: An option out of range, or one that does not go with another.
        """
        if self.trains not in get_args(Trained):
            known = ", ".join(map(repr, get_args(Trained)))
            raise ValueError(f"fit_task_prompts: `trains` must be one of {known}; got {self.trains!r}")
        if not 0 < self.rank_share <= 1:
            raise ValueError(f"fit_task_prompts: `rank_share` must be above 0 and at most 1; got {self.rank_share}")
        for name in ("count", "lora_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"fit_task_prompts: `{name}` must be at least 1; got {getattr(self, name)}")
        for name in ("offset_noise", "snr_gamma"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"fit_task_prompts: `{name}` must be at least 0; got {getattr(self, name)}")
        if not self.timestep_power > 0:
            raise ValueError(f"fit_task_prompts: `timestep_power` must be above 0; got {self.timestep_power}")
        if not self.prompt_learning_rate > 0 or self.init_std < 0:
            raise ValueError(
                "fit_task_prompts: `prompt_learning_rate` must be above 0 and `init_std` not below it; got "
                f"{self.prompt_learning_rate} and {self.init_std}"
            )
        if self.validate_every is not None and self.validate_every < 1:
            raise ValueError(f"fit_task_prompts: `validate_every` must be at least 1; got {self.validate_every}")
        if folder is None and (self.tensorboard or self.validate_every is not None):
            raise ValueError("fit_task_prompts: validation pictures and tensorboard logs need `folder`; got None")
