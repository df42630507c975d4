"""The numbers of ``fit_soft_tokens``, and which belong together, as plain data that the command line reads too."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from weft.train.core import FitConfig, LoopConfig
from weft.train.distribution import DistributionConfig

Init = Literal["start", "copies", "normal"]
Layout = Literal["default", "released"]
Objective = Literal["contrast", "agsm"]
Direction = Literal["image_to_text", "both"]

TEACHER_DECAY = 0.999  # of agsm's moving average, where the loop names none; not published


@dataclass(frozen=True, kw_only=True)
class SoftTokensConfig(FitConfig):
    """Every number of ``fit_soft_tokens``. What is None is as ``layout`` has it for the model."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=5000, learning_rate=1e-3, batch_size=8, weight_decay=1e-4)
    )
    # "default" is as published for the model, but that tokens of a UNet begin apart, and that the text of Stable
    # Diffusion 3 is as long as its pipeline has it
    layout: Layout = "default"
    """Where the tokens lie and how they begin, where the options below do not say; released is as published."""
    tokens: int = 4
    """Number of tokens of a layer."""
    blocks: tuple[str, ...] | None = None
    """Parts of the model that see the tokens, such as down_blocks or transformer_blocks.0."""
    time_buckets: int | None = None
    """Stretches of the noise schedule with offsets of their own; 0 for none."""
    # "start": as large as the model is used to, plus N(0, 0.02^2); "copies" are one token several times for ever
    init: Init | None = None
    """Start of the tokens: start is copies of the start token with noise; copies, equal ones; normal, small noise."""
    text_length: int | None = None
    """Tokens of T5's text, with Stable Diffusion 3."""
    # see ``AgsmObjective``, whose tokens are those of a moving average
    objective: Objective = "agsm"
    """contrast: every caption of a batch against every picture; agsm: its own and a few, towards bounded targets."""
    denoising_weight: float | None = None
    """With contrast: weight of the error of matching pairs."""
    logit_scale: float = 4.0
    """With contrast: scale of its logit."""
    logit_width: float = 0.07
    """With contrast: width of its logit."""
    learn_logit: bool = False
    """With contrast: learn the two constants of its logit, which the result does not need."""
    direction: Direction = "image_to_text"
    """With contrast: both compares captions among pictures too."""
    negatives: int = 3
    """With agsm: captions of other pictures each is compared with."""
    wrong_captions: int = 0
    """Of the pairs' own negatives, which metadata.jsonl may name: how many each picture is compared with."""
    gamma_plus: float = 1.0
    """With agsm: guidance towards the own caption."""
    gamma_minus: float = 1.0
    """With agsm: guidance away from others; published: 1, with Stable Diffusion 3 0.1."""
    # A(t); errors are means over a latent, so as many as it has numbers for sums
    sharpness: float = 1.0
    """With agsm: how much more a caption counts that fits better."""
    distribution: DistributionConfig = field(default_factory=DistributionConfig)
    shared_noise: bool = True
    """One noise for all pictures of a batch."""
    shared_time: bool = True
    """One time for all pictures of a batch; otherwise they come one at a time."""
    shifted_time: bool = False
    """With Stable Diffusion 3: times that crowd at noise, as its sampler's do."""
    rows_at_once: int | None = None
    """Pictures in one pass of the model; fewer need less memory, for the same result; all if not given."""
    most_missing: float = 0.01
    """Share of the pairs that may lack a picture or a caption and are passed over."""
    held_out: float = 0.0
    """Share of the pairs that is not trained on; how well they match decides when to stop and which are the best."""
    measure_every: int = 250
    """Steps between such measurements."""
    patience: int = 3
    """Measurements without a better one, after which training stops and the best tokens are taken."""
    validation_prompts: tuple[str, ...] = ()
    """What validation pictures show."""

    @property
    def averaged_loop(self) -> LoopConfig:
        """``loop`` with the moving average that the objective needs."""
        needs = self.objective == "agsm" and self.loop.average_decay == 0
        return replace(self.loop, average_decay=TEACHER_DECAY) if needs else self.loop

    def identity(self) -> dict[str, Any]:
        """What makes this another run than one with other values, beside the layout of its tokens."""
        return {**{name: getattr(self, name) for name in _IDENTITY}, **self.distribution.identity()}

    def check(self, folder: Path | None, *, who: str) -> None:
        """Refuse what cannot be meant; ``folder`` is where the run is kept.

        Raises:
            ValueError: An option out of range, or one that does not go with another.
        """
        self._check_each(who)
        if self.loop.batch_size < 2:
            raise ValueError(
                f"{who}: `batch_size` must be at least 2, or no picture has a wrong caption; got "
                f"{self.loop.batch_size}"
            )
        self.distribution.check(self.loop.batch_size, who=who)
        if self.objective == "agsm" and self.negatives >= self.loop.batch_size:
            raise ValueError(
                f"{who}: `negatives` must be fewer than the {self.loop.batch_size} pictures of a batch; got "
                f"{self.negatives}"
            )
        if self.objective == "agsm" and (self.learn_logit or self.direction == "both"):
            raise ValueError(f"{who}: `learn_logit` and `direction` are of the contrast; agsm has no such thing")
        if not self.shared_time and self.rows_at_once not in (None, 1):
            raise ValueError(
                f"{who}: without `shared_time` pictures come one at a time, so `rows_at_once` must be None or 1; got "
                f"{self.rows_at_once}"
            )
        if self.held_out and self.measure_every > self.loop.end:
            raise ValueError(
                f"{who}: `measure_every` must be at most the {self.loop.end} steps of the run, or what is held out is "
                f"never measured; got {self.measure_every}"
            )
        if folder is None and (self.validate_every is not None or self.tensorboard):
            raise ValueError(f"{who}: validation pictures and tensorboard logs need `folder`; got None")

    def _check_each(self, who: str) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                listed = ", ".join(repr(choice) for choice in known if choice is not None)
                raise ValueError(f"{who}: `{name}` must be one of {listed}; got {getattr(self, name)!r}")
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise ValueError(f"{who}: `{name}` must be a whole number, at least {least}; got {value}")
        for name in ("logit_scale", "logit_width"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{who}: `{name}` must be above 0 and finite; got {getattr(self, name)}")
        for name in ("denoising_weight", "gamma_plus", "gamma_minus", "sharpness"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{who}: `{name}` must not be negative or infinite; got {getattr(self, name)}")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"{who}: `held_out` must be at least 0 and below 1; got {self.held_out}")


# fields that are arguments of an objective
OPTIONS: dict[Objective, tuple[str, ...]] = {
    "contrast": ("logit_scale", "logit_width", "learn_logit"),
    "agsm": ("negatives", "gamma_plus", "gamma_minus", "sharpness"),
}
_CHOICES = {
    "layout": ("default", "released"),
    "objective": tuple(OPTIONS),
    "direction": ("image_to_text", "both"),
    "init": (None, "start", "copies", "normal"),
}
# and the least that each may be
_WHOLE = {
    **dict.fromkeys(("time_buckets", "wrong_captions"), 0),
    **dict.fromkeys(("tokens", "rows_at_once", "resolution", "negatives", "text_length"), 1),
    **dict.fromkeys(("validate_every", "validation_steps", "measure_every", "patience"), 1),
}
_IDENTITY = (
    *("tokens", "objective", "direction", "wrong_captions", "shared_noise", "shared_time", "shifted_time"),
    *(name for names in OPTIONS.values() for name in names),
    *("held_out", "seed"),
)
