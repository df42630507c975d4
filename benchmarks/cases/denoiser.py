"""A denoiser of a real model's size, pass by pass: what benchmarks of whole images share.

Weights are random and shared by all ways, and so is the latent, which does not change: time and memory do not
depend on its values.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import weft
from benchmarks.registry import Benchmark, Call, Mode, Provider, Shape
from weft.shapes.shipped import model_path
from weft.testing import relative_l2

STEPS = 50
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
SD15, SDXL = "sd15", "sdxl"  # kinds of shapes
SHAPES = (
    Shape(
        "sd15_512",
        {"B": 2, "h": 64, "w": 64, "C": 320},
        "Stable Diffusion 1.5 at 512 px, both rows of guidance",
        kind=SD15,
    ),
    Shape(
        "sdxl_1024",
        {"B": 2, "h": 128, "w": 128, "C": 320},
        "Stable Diffusion XL at 1024 px, both rows of guidance",
        optional=True,
        kind=SDXL,
    ),
    Shape("tiny", {"B": 2, "h": 32, "w": 32, "C": 32}, "no model; shows that all runs", optional=True, kind=SD15),
    # XL has 5, 10 and 20 heads
    Shape("tiny_xl", {"B": 2, "h": 16, "w": 16, "C": 160}, "no model, XL's blocks", optional=True, kind=SDXL),
)

# channels of the levels over those of the first: 320, 640, 1280, 1280 in the real one
LEVELS = {SD15: (1, 2, 4, 4), SDXL: (1, 2, 4)}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 1, "num_attention_heads": 12}
TEXT_2 = {**TEXT, "hidden_size": 1280, "num_attention_heads": 20, "projection_dim": 1280}
CROSS_ATTENTION_DIM = {SD15: 768, SDXL: 768 + 1280}


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


@dataclass
class Images:
    """What all ways share.

    Attributes:
        latent: [2, 4, h, w], both rows of guidance.
        config: What the UNet differs in from diffusers' default, which is Stable Diffusion 1.5's but for its sizes.
        weights: Of the UNet.
        dtype: Of weights and activations.
        parts: VAE, text encoders, tokenizers, scheduler.
        kind: Of the shape.
        expected: The noise that the first of those found who do the work of a stage.
    """

    latent: Tensor
    config: dict[str, Any]
    weights: dict[str, Tensor]
    dtype: torch.dtype
    parts: dict[str, Any] = field(repr=False)
    kind: str = SD15
    expected: Tensor | None = field(default=None, repr=False)

    def pipeline(self) -> Any:
        """A pipeline with a UNet of its own around the shared weights."""
        with torch.device("meta"):
            unet = UNet2DConditionModel(**self.config).eval()
        unet.load_state_dict(self.weights, assign=True)
        unet.requires_grad_(False)
        if self.kind == SDXL:
            return StableDiffusionXLPipeline(unet=unet, add_watermarker=False, **self.parts)
        parts = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False, **self.parts}
        return StableDiffusionPipeline(unet=unet, **parts)


@torch.no_grad()
def conditioning(pipe: Any, prompt: str) -> dict[str, Any]:
    """What the denoiser takes beside latent and timestep, for the rows without the prompt and with it."""
    encoded = pipe.encode_prompt(prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    call: dict[str, Any] = {"encoder_hidden_states": torch.cat([encoded[1], encoded[0]])}
    if len(encoded) == 4:  # XL
        pooled = torch.cat([encoded[3], encoded[2]])
        call["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": pooled.new_full((2, 6), 1024)}
    return call


def make_images(shape: Shape, dtype: torch.dtype, mode: Mode | None = None) -> Images:
    """Random weights and noise, for images of ``shape``."""
    torch.manual_seed(0)
    parts = _parts(shape.kind, dtype)
    latent = torch.randn(1, 4, shape.sizes["h"], shape.sizes["w"]).expand(shape.sizes["B"], -1, -1, -1)
    config = {
        "sample_size": shape.sizes["h"],
        "cross_attention_dim": CROSS_ATTENTION_DIM[shape.kind],
        "block_out_channels": tuple(shape.sizes["C"] * level for level in LEVELS[shape.kind]),
        **(_XL if shape.kind == SDXL else {}),
    }
    with _default(dtype):  # in float32 first, XL would need three times its memory
        weights = UNet2DConditionModel(**config).state_dict()
    for name, weight in weights.items():
        # fresh projections give logits near 0 and maps so flat that rounding would choose the regions
        if ".to_q." in name or ".to_k." in name:
            weight.mul_(4)
    return Images(latent.to(dtype), config, weights, dtype, parts, shape.kind)


_XL: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),  # the number of heads
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 6 * 256 + 1280,
}


def _parts(kind: str, dtype: torch.dtype) -> dict[str, Any]:
    tokenizer = CLIPTokenizer.from_pretrained(model_path() / "tokenizer")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    known = {**ends, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    narrow = {"block_out_channels": (8,) * 4, "norm_num_groups": 4}
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    parts = {
        "vae": AutoencoderKL(down_block_types=down, up_block_types=up, **narrow).to(dtype),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT, **known)).eval().to(dtype),
        "tokenizer": tokenizer,
        "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False),
    }
    if kind == SDXL:
        second = CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2, **known)).eval().to(dtype)
        parts |= {"text_encoder_2": second, "tokenizer_2": tokenizer}
    return parts


@contextlib.contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Stock:
    """One way to make an image, pass by pass; this one is the pipeline as it comes, without a method.

    Attributes:
        ours: Whether it is weft.
        note: What it does less or otherwise than the full work.
        prompt: Of the image.
    """

    ours = False
    note = ""
    prompt = "a red circle and a blue square"

    def __init__(self, images: Images) -> None:
        self.images = images
        self.pipe = images.pipeline()
        self.call = conditioning(self.pipe, self.prompt)

    def begin(self) -> None:
        """Start an image."""

    @torch.no_grad()
    def __call__(self, stage: Stage) -> Tensor:
        """The noise that the denoiser finds, [2, 4, h, w]; stages come in their order, and may repeat."""
        timestep = torch.tensor(stage.timestep)
        found: Tensor = self.pipe.unet(self.images.latent, timestep, **self.call, return_dict=False)[0]
        return found

    def close(self) -> None:
        """Give the pipeline back."""


class Attached(Stock, abc.ABC):
    """The pipeline with weft attached."""

    ours = True

    def __init__(self, images: Images) -> None:
        super().__init__(images)
        self.attachment = weft.attach(self.pipe, self.control())

    @abc.abstractmethod
    def control(self) -> weft.attach.Control:
        """The method."""

    def begin(self) -> None:
        # an image begins with its prompt
        self.call = conditioning(self.pipe, self.prompt)

    def close(self) -> None:
        self.attachment.detach()


@dataclass(frozen=True)
class ImageCost:
    """A method whose cost of an image is measured.

    Attributes:
        name: Of the method.
        stages: Kinds of steps, in their order, 50 steps together.
        ways: Everybody who makes the image; "stock" does none of the method's work.
        same: Those that do the same work and must find the same noise.
        tolerance: How much of the noise of a whole pass may differ, by dtype.
        default: What a user gets, whose extra time is at most ``share`` of the stock image.
        ours, against: Ways of the same work; ``against`` adds ``less_time`` and ``less_memory`` times as much.
        memory_stage: The stage with the largest tensors.
        gate: Test paths that must pass first.
    """

    name: str
    stages: tuple[Stage, ...]
    ways: Mapping[str, type[Stock]]
    same: tuple[str, ...]
    default: str
    share: float
    ours: str
    against: str
    less_time: float
    less_memory: float
    memory_stage: str
    gate: tuple[str, ...]
    tolerance: Mapping[torch.dtype, float] = field(default_factory=lambda: TOLERANCE)

    @property
    def beside(self) -> tuple[str, ...]:
        """Those beside stock."""
        return tuple(name for name in self.ways if name != "stock")

    def verify(self, images: Images, name: str, found: Tensor) -> None:
        """All that do the same work find the same noise.

        Raises:
            AssertionError: They do not.
        """
        assert found.isfinite().all(), f"{name}: not finite"
        if name not in self.same:
            return
        if images.expected is None:
            images.expected = found
        error = relative_l2(found, images.expected)
        assert error <= self.tolerance[images.dtype], f"{name}: is off by {error:.2g}, relative"

    def benchmark(self, shapes: tuple[Shape, ...]) -> Benchmark:
        """The passes of its stages, each by itself."""

        def prepare(way: type[Stock], stage: Stage) -> Callable[[Images], Call]:
            def prepared(images: Images) -> Call:
                denoiser = way(images)
                denoiser.begin()
                for earlier in self.stages[: self.stages.index(stage)] if way is not self.ways["stock"] else ():
                    denoiser(earlier)
                return lambda: denoiser(stage)

            return prepared

        def providers(stage: Stage) -> tuple[Provider, ...]:
            return tuple(
                Provider(name, prepare(way, stage), ours=way.ours, note=way.note) for name, way in self.ways.items()
            )

        return Benchmark(
            op=self.name,
            shapes=shapes,
            modes=tuple(Mode(stage.name, providers(stage)) for stage in self.stages),
            dtypes={"fp32": torch.float32, "bf16": torch.bfloat16},
            make_inputs=make_images,
            verify=lambda images, provider, found: self.verify(images, provider.name, found),
            result_bytes=lambda images: images.latent.numel() * images.latent.element_size(),
            gate=self.gate,
            default_dtypes=("fp32",),
        )
