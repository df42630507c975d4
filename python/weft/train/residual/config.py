"""The numbers of ``fit_residual``, as plain data that the command line reads too."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from weft.train.core import FitConfig, LoopConfig
from weft.train.distribution import DistributionConfig

Init = Literal["lora", "random"]

CAPTION = "a photo of a {identifier} {class_word}"
PARAPHRASES = (
    "a picture of the {identifier} {class_word}",
    "a {identifier} {class_word}",
    "a good photo of the {identifier} {class_word}",
    "an image of one {identifier} {class_word}",
)


@dataclass(frozen=True, kw_only=True)
class ResidualConfig(FitConfig):
    """Every number of ``fit_residual``; the defaults are the paper's, or what it leaves open (see ``init``)."""

    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=150, learning_rate=1e-3, batch_size=4))
    rank_share: float = 0.05
    """Rank of the factors of a layer, as a share of its width."""
    # "lora": up zero, down N(0, 1 / width); "random": both N(0, 0.01^2), for the paper says only that its matrices
    # start random. On the embedded model both end alike: six pictures of a two-coloured circle, three seeds, loss on
    # sixteen others 0.056 and 0.057, where the base model has 0.151
    init: Init = "lora"
    """Start of the factors: lora begins at the base model; random does not."""
    caption: str = CAPTION
    """What the pictures show; {identifier} and {class_word} are replaced by the object's."""
    distribution: DistributionConfig = field(default_factory=DistributionConfig)
    paraphrases: tuple[str, ...] = PARAPHRASES
    """Second captions of f2f, with {identifier} and {class_word}."""
    crops: int = 1
    """Squares of each picture: its centre, and random ones."""
    flip: bool = False
    """Mirror images too."""
    validation_prompts: tuple[str, ...] = ()
    """What validation pictures show, with {identifier} and {class_word}; the caption if not given."""

    def check(self, folder: Path | None) -> None:
        """Refuse what cannot be meant; ``folder`` is where the run is kept.

        Raises:
            ValueError: An option out of range, or one that does not go with another.
        """
        if self.crops < 1:
            raise ValueError(f"fit_residual: `crops` must be at least 1; got {self.crops}")
        if not 0 < self.rank_share <= 1:
            raise ValueError(f"fit_residual: `rank_share` must be above 0 and at most 1; got {self.rank_share}")
        self.distribution.check(self.loop.batch_size, who="fit_residual")
        if self.distribution.pairing == "two_captions" and not self.paraphrases:
            raise ValueError(
                "fit_residual: fake-to-fake of two captions needs `paraphrases` of the caption; got none; choose "
                "pairing='two_noises' to do without"
            )
        if self.init not in ("lora", "random"):
            raise ValueError(f"fit_residual: `init` must be 'lora' or 'random'; got {self.init!r}")
        if self.resolution is not None and (self.resolution < 8 or self.resolution % 8):
            raise ValueError(f"fit_residual: `resolution` must be a multiple of 8 pixels; got {self.resolution}")
        if self.validate_every is not None and self.validate_every < 1:
            raise ValueError(f"fit_residual: `validate_every` must be at least 1; got {self.validate_every}")
        if folder is None and (self.validate_every is not None or self.tensorboard):
            raise ValueError("fit_residual: validation pictures and tensorboard logs need `folder`; got None")
