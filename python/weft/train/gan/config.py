"""The numbers of a GAN, its design, size, losses and length, as plain data that the command line reads too."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from weft.train.core import LoopConfig, Pace, Player, RunConfig, Turn
from weft.train.distribution import Features, NamedLosses, check_losses
from weft.train.gan.sizes import doublings, is_reached

WHO = "fit_gan"
DISCRIMINATOR, PENALTY, GENERATOR = "discriminator", "penalty", "generator"  # turns; the first and last are players
Baseline = Literal["ssa", "attn"]
Size = Literal["cpu", "published"]
# what doubling a map of 4 to 7 pixels reaches
RESOLUTIONS = tuple(side for side in range(64, 257) if is_reached(side))


@dataclass(frozen=True)
class Gammas:
    """How sharply words and regions attend, words are summed, and pairs are distinguished; of the published model."""

    attention: float = 4.0
    words: float = 5.0
    pairs: float = 10.0


@dataclass(frozen=True)
class Weights:
    """Of what is added to the generator's adversarial loss.

    Attributes:
        words, sentences: Of the matching model's two losses.
        divergence: Of an augmented condition from a normal one.
    """

    words: float
    sentences: float
    divergence: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """One design at one size."""

    generator_width: int  # channels at the full resolution
    discriminator_width: int  # channels after its first convolution
    noise: int  # numbers a picture; with attn as many again augment the condition
    generator_rate: float  # of Adam
    discriminator_rate: float
    betas: tuple[float, float]
    weights: Weights
    penalty_every: int | None = None  # steps between penalties on the discriminator's slope; None: none
    hidden: int = 256  # of the modulations, ssa
    mask_width: int = 100  # of the mask predictors, ssa
    stages: int = 3  # attn
    residuals: int = 2  # of a later stage, attn
    style_blocks: bool = False  # attn

    def check(self, baseline: Baseline, resolution: int) -> None:
        """Refuse what cannot be built.

        Raises:
            ValueError: A size below 1, more stages than the resolution has, or what the other design has.
        """
        for name, value in asdict(self).items():
            if type(value) is int and value < 1:
                raise ValueError(f"{WHO}: `recipe.{name}` must be at least 1; got {value}")
        # a discriminator halves its pictures once at least
        if baseline == "attn" and self.stages > doublings(resolution):
            raise ValueError(
                f"{WHO}: `recipe.stages` must be at most {doublings(resolution)} for {resolution} pixels, each stage "
                f"being half of the next; got {self.stages}"
            )
        if baseline == "ssa" and self.style_blocks:
            raise ValueError(
                f"{WHO}: style blocks are of baseline 'attn', and 'ssa' has none; choose that, or leave them out"
            )


@dataclass(frozen=True)
class MatchingRecipe:
    """The matching model and how it is trained."""

    width: int = 256  # of words, sentences, regions and codes
    embedding: int = 300  # of a word
    dropout: float = 0.5  # of embeddings
    channels: int = 32  # of the image encoder's first convolution
    size: int = 64  # pixels it looks at
    gammas: Gammas = field(default_factory=Gammas)
    steps: int = 100_000
    batch_size: int = 48
    learning_rate: float = 2e-3
    max_grad_norm: float = 0.25

    def check(self) -> None:
        """Refuse what cannot be built or trained.

        Raises:
            ValueError: A size out of its range.
        """
        for name, least, step in (("width", 2, 2), ("embedding", 1, 1), ("channels", 1, 1), ("size", 16, 16)):
            value = getattr(self, name)
            if value < least or value % step:
                raise ValueError(f"{WHO}: `matching.{name}` must be a multiple of {step} from {least} on; got {value}")
        if self.batch_size < 2:
            raise ValueError(
                f"{WHO}: `matching.batch_size` must be at least 2, or no caption is wrong; got {self.batch_size}"
            )
        self.loop(1)  # which checks its own numbers

    def loop(self, log_every: int) -> LoopConfig:
        """Falls to zero over the last third."""
        return LoopConfig(
            steps=self.steps,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            decay_steps=self.steps // 3,
            betas=(0.5, 0.999),
            weight_decay=0.0,
            max_grad_norm=self.max_grad_norm,
            checkpoint_every=250,
            log_every=log_every,
            fused=True,
        )


# how the command line reads where features come from: by name; the Python API takes a callable, too
SOURCE = PrimitiveConstructorSpec[Any](
    nargs=1,
    metavar="{matching,discriminator}",
    instance_from_str=lambda given: given[0],
    is_instance=lambda given: True,
    str_from_instance=lambda given: [str(given)],
    choices=("matching", "discriminator"),
)
RECIPES: dict[tuple[Baseline, Size], Recipe] = {
    ("ssa", "published"): Recipe(64, 64, 100, 1e-4, 4e-4, (0.0, 0.9), Weights(0.05, 0.05), penalty_every=1),
    ("attn", "published"): Recipe(32, 64, 100, 2e-4, 2e-4, (0.5, 0.999), Weights(5.0, 5.0)),
    # of 64 pixels on one core of a CPU
    ("ssa", "cpu"): Recipe(
        8, 8, 32, 4e-4, 8e-4, (0.0, 0.9), Weights(0.05, 0.05), penalty_every=4, hidden=64, mask_width=16
    ),
    ("attn", "cpu"): Recipe(12, 8, 32, 5e-4, 2e-4, (0.5, 0.999), Weights(1.0, 1.0), stages=2, residuals=1),
}
MATCHING: dict[Size, MatchingRecipe] = {
    "published": MatchingRecipe(),
    "cpu": MatchingRecipe(
        width=128, embedding=64, dropout=0.1, channels=16, steps=600, batch_size=32, max_grad_norm=1.0
    ),
}


@dataclass(frozen=True, kw_only=True)
class GanConfig(RunConfig, Pace, NamedLosses):
    """Every number of ``fit_gan``."""

    baseline: Baseline = "ssa"
    """SSA-GAN's design, or AttnGAN's."""
    size: Size = "cpu"
    """Size of the networks: cpu learns the shapes world on one core."""
    resolution: int = 64
    """Pixels, 64 to 256: multiples of 16 up to 128, of 32 from there on."""
    # None: that of ``RECIPES`` for baseline and size
    recipe: Annotated[Recipe | None, tyro.conf.Suppress] = None
    # None: that of ``MATCHING`` for the size
    matching: Annotated[MatchingRecipe | None, tyro.conf.Suppress] = None
    matching_folder: str | Path | None = None
    """Folder `matching` of a run that has trained a matching model; one is trained first if not given."""
    # seven minutes of one core for ssa, four for attn; losses over views take up to twice that
    steps: int = 1500
    # published: ssa 24, attn 20
    batch_size: int = 16
    average_decay: float = 0.999
    checkpoint_every: int = 250
    features: Annotated[Literal["matching", "discriminator"] | Features, SOURCE] = "matching"
    """What f2f and f2r look at pictures with."""
    both_views: bool = True
    """Whether the discriminator sees the second picture, too."""
    length: int = 18
    """Words of a caption that are read (tokens, with --text)."""
    split: str = "train"
    """With CUB and COCO: train or test; train2014 or val2014."""
    crop: bool = False
    """A random square of a somewhat larger picture, each time another."""
    flip: bool = False
    """Mirror images too; wrong where captions distinguish left from right."""
    sample_every: int | None = None
    """Steps between grids of samples, which go to the run's folder; none if not given."""

    @property
    def chosen(self) -> Recipe:
        """The recipe in force."""
        return self.recipe or RECIPES[self.baseline, self.size]

    @property
    def chosen_matching(self) -> MatchingRecipe:
        """That of the matching model."""
        return self.matching or MATCHING[self.size]

    def record(self, text_width: int) -> dict[str, Any]:
        """What makes the generator again, as ``weft.train.gan.generator.network_of`` takes it."""
        return {
            "baseline": self.baseline,
            "resolution": self.resolution,
            "text_width": text_width,
            "recipe": asdict(self.chosen),
        }

    def loop(self) -> LoopConfig:
        """Of the game; players have rates of their own."""
        return LoopConfig(
            **{one.name: getattr(self, one.name) for one in fields(Pace)},
            learning_rate=self.chosen.generator_rate,
            fused=True,
        )

    def players(self) -> dict[str, Player]:
        """The generator, whose moving average is kept, and the discriminator."""
        recipe = self.chosen
        return {
            GENERATOR: Player(recipe.betas, recipe.generator_rate),
            DISCRIMINATOR: Player(recipe.betas, recipe.discriminator_rate, averaged=False),
        }

    def turns(self) -> tuple[Turn, ...]:
        """Of a step, in order."""
        every = self.chosen.penalty_every
        penalty = () if every is None else (Turn(PENALTY, DISCRIMINATOR, every),)
        return (Turn(DISCRIMINATOR, DISCRIMINATOR), *penalty, Turn(GENERATOR, GENERATOR))

    def check(self, folder: Path | None) -> None:
        """Refuse what cannot be trained, before anything is read.

        Raises:
            TypeError: Losses of another kind.
            ValueError: A number or word out of its range.
        """
        for name, known in (("baseline", ("ssa", "attn")), ("size", ("cpu", "published"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{WHO}: `{name}` must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        if self.resolution not in RESOLUTIONS:
            raise ValueError(
                f"{WHO}: `resolution` must be one of {', '.join(map(str, RESOLUTIONS))} pixels; got {self.resolution}"
            )
        if not callable(self.features) and self.features not in ("matching", "discriminator"):
            raise ValueError(
                f"{WHO}: `features` must be 'matching', 'discriminator' or a callable; got {self.features!r}"
            )
        if self.batch_size < 2:
            raise ValueError(
                f"{WHO}: `batch_size` must be at least 2, or no picture has another's caption to compare with its "
                f"own; got {self.batch_size}"
            )
        if self.length < 1:
            raise ValueError(f"{WHO}: `length` must be at least 1; got {self.length}")
        if self.sample_every is not None and self.sample_every < 1:
            raise ValueError(f"{WHO}: `sample_every` must be at least 1; got {self.sample_every}")
        if folder is None and (self.sample_every is not None or self.tensorboard):
            raise ValueError(f"{WHO}: grids of samples and tensorboard logs need `folder`; got None")
        self.chosen.check(self.baseline, self.resolution)
        self.chosen_matching.check()
        self.loop()  # which checks its own numbers, as losses do
        check_losses(self.chosen_losses(), who=WHO)
