"""The numbers of ``fit_soft_tokens``, and which of them belong together."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from weft.attach import Host
from weft.methods.sampling import OPEN, Sampling
from weft.methods.soft_tokens import SoftTokens
from weft.train.core import LoopConfig, Precision
from weft.train.distribution import DistributionConfig
from weft.train.soft_tokens.agsm import AgsmObjective
from weft.train.soft_tokens.contrast import ContrastObjective
from weft.train.soft_tokens.contrast_both import SymmetricContrastObjective
from weft.train.soft_tokens.frozen_denoiser import FrozenDenoiser
from weft.train.soft_tokens.layout import Init, Layout, TokenLayout, layout_of
from weft.train.soft_tokens.objective import SoftTokensObjective

Objective = Literal["contrast", "agsm"]
Direction = Literal["image_to_text", "both"]

TEACHER_DECAY = 0.999  # of agsm's moving average, where the loop names none; not published


@dataclass(frozen=True)
class SoftTokensConfig:
    """Every number of ``fit_soft_tokens``. What is None is as ``layout`` has it for the model."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=5000, learning_rate=1e-3, batch_size=8, weight_decay=1e-4)
    )
    # "released": blocks, offsets and start of the tokens as published for the model. "default": the same, but that
    # tokens of a UNet begin apart, and that the text of Stable Diffusion 3 is as long as its pipeline has it
    layout: Layout = "default"
    tokens: int = 4
    blocks: tuple[str, ...] | None = None
    time_buckets: int | None = None  # stretches of the schedule with offsets of their own; 0: there are none
    # "start": copies of the empty prompt's start token, as large as the model is used to, plus N(0, 0.02^2);
    # "copies": equal ones, which are one token several times for ever; "normal": N(0, 0.02^2)
    init: Init | None = None
    text_length: int | None = None  # tokens of T5's text, Stable Diffusion 3 alone
    # "contrast": every caption of a batch against every picture (SoftREPA); "agsm": each picture with its own caption
    # and a few others, towards bounded targets (see AgsmObjective), whose tokens are those of a moving average
    objective: Objective = "agsm"
    denoising_weight: float | None = None  # contrast: of the error of matching pairs
    logit_scale: float = 4.0  # contrast
    logit_width: float = 0.07  # contrast
    learn_logit: bool = False  # contrast: train these two with the tokens; the result does not need them
    direction: Direction = "image_to_text"  # contrast: of pictures against captions alone, or of captions too
    negatives: int = 3  # agsm: captions of other pictures each is compared with
    wrong_captions: int = 0  # of each pair's own `negatives`, compared with its picture alone; drawn every time
    gamma_plus: float = 1.0  # agsm: guidance towards the own caption; as published for UNets and for SD3
    gamma_minus: float = 1.0  # agsm: and away from others; published 1 for UNets, 0.1 for SD3
    sharpness: float = 1.0  # agsm: A(t); errors are means over a latent, so as many as it has numbers for sums
    # fake-to-fake and fake-to-real of what the model generates, beside the objective; none unless it names losses
    distribution: DistributionConfig = field(default_factory=DistributionConfig)
    shared_noise: bool = True  # one noise for all pictures of a batch
    shared_time: bool = True  # one timestep for all of them; otherwise pictures come one at a time
    shifted_time: bool = False  # flow matching: times that crowd at noise as those of the sampler do; released: even
    rows_at_once: int | None = None  # pictures in one pass; None: all. Less memory, same result
    resolution: int | None = None  # pixels; None: the model's own
    most_missing: float = 0.01  # share of pairs without a picture or caption that are passed over
    seed: int = 0
    precision: Precision = "auto"  # compute; tokens stay fp32. auto: bf16 or fp16 on a GPU, none on a CPU
    gradient_checkpointing: bool = False
    held_out: float = 0.0  # share of the pairs that is not trained on; how well they match tells when to stop
    measure_every: int = 250  # steps between two such measurements
    patience: int = 3  # measurements without a better one, after which training stops and the best tokens are taken
    validate_every: int | None = None  # steps; pictures go to folder/validation
    validation_prompts: tuple[str, ...] = ()
    validation_steps: int = 25  # of the sampler
    # how pictures are best drawn with the result, which its file keeps; sampler and steps are those of validation
    # pictures where this names none
    sampling: Sampling = OPEN
    tensorboard: bool = False  # logs to folder/tensorboard

    @property
    def averaged_loop(self) -> LoopConfig:
        """``loop`` with the moving average that the objective needs."""
        needs = self.objective == "agsm" and self.loop.average_decay == 0
        return replace(self.loop, average_decay=TEACHER_DECAY) if needs else self.loop

    def laid_out(self, host: Host, *, who: str) -> TokenLayout:
        """The layout for the model, with what is given here in place of its own.

        Raises:
            ValueError: What does not go together there.
        """
        found, kind = layout_of(host, self.layout), type(host.pipeline).__name__
        given = {name: getattr(self, name) for name in _OF_LAYOUT if getattr(self, name) is not None}
        if found.text_length is None and self.text_length is not None:
            raise ValueError(f"{who}: `text_length` is of Stable Diffusion 3; {kind} has no T5")
        if found.space == "block" and self.init in ("start", "copies"):
            raise ValueError(
                f"{who}: `init` must be 'normal' where the blocks of {kind} see tokens as wide as they "
                f"are themselves; got {self.init!r}"
            )
        if given.get("time_buckets") == 0:
            given["time_buckets"] = None
        return replace(found, **given)

    def identity(self, layout: TokenLayout) -> dict[str, Any]:
        """What makes this another run than one with other values."""
        own = {name: getattr(self, name) for name in _IDENTITY}
        return {**asdict(layout), **own, **self.distribution.identity()}

    def make_objective(
        self, denoiser: FrozenDenoiser, start: SoftTokens, accelerator: Any, layout: TokenLayout
    ) -> SoftTokensObjective:
        """The objective that is asked for, its tokens as those of ``start``."""
        options = {name: getattr(self, name) for name in _OPTIONS[self.objective]}
        kind = _KINDS[self.objective, self.direction]
        if self.objective == "contrast":
            options["denoising_weight"] = layout.denoising_weight
        return kind(denoiser, start, accelerator=accelerator, rows_at_once=self.rows_at_once, **options)

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


_KINDS: dict[tuple[Objective, Direction], type[SoftTokensObjective]] = {
    ("contrast", "image_to_text"): ContrastObjective,
    ("contrast", "both"): SymmetricContrastObjective,
    ("agsm", "image_to_text"): AgsmObjective,
}
# fields that are arguments of an objective
_OPTIONS: dict[Objective, tuple[str, ...]] = {
    "contrast": ("logit_scale", "logit_width", "learn_logit"),
    "agsm": ("negatives", "gamma_plus", "gamma_minus", "sharpness"),
}
_OF_LAYOUT = ("blocks", "time_buckets", "init", "text_length", "denoising_weight")
_CHOICES = {
    "layout": ("default", "released"),
    "objective": tuple(_OPTIONS),
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
    *(name for names in _OPTIONS.values() for name in names),
    *("held_out", "seed"),
)
