"""``maskdiffusion``: one pass of a denoiser of Stable Diffusion 1.5's real size, at every kind of step of an image.

The work is the released algorithm; stock does none of it, weft and the eager restatement all. The default settings,
which edit longer, stand beside them. Weights are random and
shared by everybody, and so is the latent, which stands still: time and memory do not depend on its values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import weft
from benchmarks.registry import Benchmark, Call, Mode, Provider, Shape
from weft.shapes.load import model_path
from weft.testing import relative_l2
from weft.testing.maskdiffusion import EagerMaskDiffusion, eager_processors

PROMPT, PHRASES = "a red circle and a blue square", ("a red circle", "a blue square")
STEPS = 50
MAP_GRID = (16, 16)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of a whole pass, weft against the restatement

# channels of the levels over those of the first: 320, 640, 1280, 1280 in the real one
LEVELS = (1, 2, 4, 4)
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 1, "num_attention_heads": 12}


@dataclass(frozen=True)
class Stage:
    """A kind of step.

    Attributes:
        name: In tables and records.
        index: The step that stands for it, of 50.
        count: How many of the 50 are of this kind.
        does: What the method does then.
    """

    name: str
    index: int
    count: int
    does: str

    @property
    def timestep(self) -> int:
        """Of DDIM with 50 steps."""
        return 981 - 20 * self.index


STAGES = (
    Stage("maps", 0, 1, "reads maps, chooses regions"),
    Stage("self", 1, 1, "the same, and edits self-attention"),
    Stage("both", 2, 1, "the same, and edits cross-attention"),
    Stage("refresh", 3, 1, "the same, for the last time"),
    Stage("edit", 4, 11, "edits self- and cross-attention"),
    Stage("longer", 15, 10, "nothing; the default edits on"),
    Stage("late", 25, 25, "nothing"),
)


class Denoiser(Protocol):
    """One way to make an image, pass by pass."""

    def begin(self) -> None:
        """Start an image."""

    def __call__(self, stage: Stage) -> Tensor:
        """The noise that the denoiser finds, [2, 4, h, w]; stages come in their order, and may repeat."""

    def close(self) -> None:
        """Give the pipeline back."""


@dataclass
class Images:
    """What all ways share.

    Attributes:
        latent: [2, 4, h, w], both rows of guidance.
        config: What the UNet differs in from diffusers' default, which has 8 heads like Stable Diffusion 1.5.
        weights: Of the UNet.
        dtype: Of weights and activations.
        parts: VAE, text encoder, tokenizer, scheduler.
        expected: The noise that the first of those found who do the work of a stage.
    """

    latent: Tensor
    config: dict[str, Any]
    weights: dict[str, Tensor]
    dtype: torch.dtype
    parts: dict[str, Any] = field(repr=False)
    expected: Tensor | None = field(default=None, repr=False)

    def pipeline(self) -> tuple[Any, Tensor]:
        """A pipeline with a UNet of its own around the shared weights, and [2, 77, 768] for its passes."""
        with torch.device("meta"):
            unet = UNet2DConditionModel(**self.config).eval()
        unet.load_state_dict(self.weights, assign=True)
        unet.requires_grad_(False)
        parts = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False, **self.parts}
        pipe = StableDiffusionPipeline(unet=unet, **parts)
        return pipe, text_of(pipe)


@torch.no_grad()
def text_of(pipe: Any) -> Tensor:
    given, negative = pipe.encode_prompt(PROMPT, "cpu", 1, True)
    return torch.cat([negative, given])


def make_images(shape: Shape, dtype: torch.dtype, mode: Mode | None = None) -> Images:
    """Random weights and noise, for images of ``shape``."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(model_path() / "tokenizer")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPTextConfig(**TEXT, **ends, vocab_size=len(tokenizer), max_position_embeddings=77)
    narrow = {"block_out_channels": (8,) * 4, "norm_num_groups": 4}
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    parts = {
        "vae": AutoencoderKL(down_block_types=down, up_block_types=up, **narrow).to(dtype),
        "text_encoder": CLIPTextModel(config).eval().to(dtype),
        "tokenizer": tokenizer,
        "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False),
    }
    latent = torch.randn(1, 4, shape.sizes["h"], shape.sizes["w"]).expand(shape.sizes["B"], -1, -1, -1)
    unet: dict[str, Any] = {
        "sample_size": shape.sizes["h"],
        "cross_attention_dim": TEXT["hidden_size"],
        "block_out_channels": tuple(shape.sizes["C"] * level for level in LEVELS),
    }
    weights = UNet2DConditionModel(**unet).to(dtype).state_dict()
    for name, weight in weights.items():
        # fresh projections give logits near 0 and maps so flat that rounding would choose the regions
        if ".to_q." in name or ".to_k." in name:
            weight.mul_(4)
    return Images(latent.to(dtype), unet, weights, dtype, parts)


class Stock:
    """The pipeline as it comes, without the edit."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.pipe, self.text = images.pipeline()

    def begin(self) -> None:
        pass

    @torch.no_grad()
    def __call__(self, stage: Stage) -> Tensor:
        timestep = torch.tensor(stage.timestep)
        found: Tensor = self.pipe.unet(self.images.latent, timestep, self.text, return_dict=False)[0]
        return found

    def close(self) -> None:
        pass


class Weft(Stock):
    """The pipeline with weft attached."""

    mode = "released"

    def __init__(self, images: Images) -> None:
        super().__init__(images)
        self.attachment = weft.attach(self.pipe, weft.MaskDiffusion(PHRASES, mode=self.mode))

    def begin(self) -> None:
        # an image begins with its prompt
        self.text = text_of(self.pipe)

    def close(self) -> None:
        self.attachment.detach()


class Default(Weft):
    """The same with the settings that a user gets."""

    mode = "clean"


class Eager(Stock):
    """The pipeline with the processors of a research script."""

    def __init__(self, images: Images) -> None:
        super().__init__(images)
        self.stack = contextlib.ExitStack()

    @torch.no_grad()
    def begin(self) -> None:
        self.close()
        h, w = self.images.latent.shape[2:]
        self.state = EagerMaskDiffusion(self.pipe, PROMPT, PHRASES, steps=STEPS, latent_size=(h, w), map_grid=MAP_GRID)
        self.stack.enter_context(eager_processors(self.pipe.unet, self.state))

    def __call__(self, stage: Stage) -> Tensor:
        self.state.step = stage.index - 1
        return super().__call__(stage)

    def close(self) -> None:
        self.stack.close()


WAYS: dict[str, type[Stock]] = {"weft": Weft, "default": Default, "stock": Stock, "eager": Eager}

NOTES = {"stock": "no edit", "default": "other settings"}


def _prepare(way: Callable[[Images], Denoiser], stage: Stage) -> Callable[[Images], Call]:
    """The pass of ``stage``, over and over, after those of the stages before."""

    def prepare(images: Images) -> Call:
        denoiser = way(images)
        denoiser.begin()
        for earlier in STAGES[: STAGES.index(stage)] if way is not Stock else ():
            denoiser(earlier)
        return lambda: denoiser(stage)

    return prepare


def verify(images: Images, name: str, found: Tensor) -> None:
    """weft and the restatement find the same noise; stock and the default do other work.

    Raises:
        AssertionError: They do not.
    """
    assert found.isfinite().all(), f"{name}: not finite"
    if name not in ("weft", "eager"):
        return
    if images.expected is None:
        images.expected = found
    error = relative_l2(found, images.expected)
    assert error <= TOLERANCE[images.dtype], f"{name}: is off by {error:.2g}, relative"


BENCHMARK = Benchmark(
    op="maskdiffusion",
    shapes=(
        Shape(
            "sd15_512", {"B": 2, "h": 64, "w": 64, "C": 320}, "Stable Diffusion 1.5 at 512 px, both rows of guidance"
        ),
        Shape("tiny", {"B": 2, "h": 32, "w": 32, "C": 32}, "no model; shows that everything runs", optional=True),
    ),
    modes=tuple(
        Mode(
            stage.name,
            tuple(
                Provider(name, _prepare(way, stage), ours=issubclass(way, Weft), note=NOTES.get(name, ""))
                for name, way in WAYS.items()
            ),
        )
        for stage in STAGES
    ),
    dtypes={"fp32": torch.float32, "bf16": torch.bfloat16},
    make_inputs=make_images,
    verify=lambda images, provider, found: verify(images, provider.name, found),
    result_bytes=lambda images: images.latent.numel() * images.latent.element_size(),
    gate=("tests/methods/test_maskdiffusion_parity.py",),
    default_dtypes=("fp32",),
)
