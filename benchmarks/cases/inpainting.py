"""``inpainting``: a whole call of an inpainting pipeline, from picture to picture, with task prompts and without.

"model_size" is a picture of the model's own size, where the tasks should cost nothing; "large" is one four times as
wide and high with a hole of a tenth of it, of which weft works on a part. No way's time depends on what is painted, so
weights of a real model's size are random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

import weft
from benchmarks.cases.denoiser import SD15, make_images
from benchmarks.registry import Benchmark, Call, Mode, Provider, Shape
from weft.attach import word_widths
from weft.methods.inpainting import PasteBack
from weft.shapes.load import pipeline
from weft.train.task_prompts import widened

EMBEDDED = "embedded"  # kind of shapes
HOLE = 0.1  # of the picture's area
RIM = 0.25  # round the hole, as a share of its side: no more than that may change
PROMPT = "a red circle"


@dataclass
class Painting:
    """What everybody shares.

    Attributes:
        pipe: The pipeline, stock.
        tasks: Prompts of its width.
        picture: Random pixels.
        mask: White in the hole.
        steps: Of the sampler.
    """

    pipe: Any
    tasks: weft.TaskPrompts
    picture: Image.Image
    mask: Image.Image
    steps: int

    def call(self, **arguments: Any) -> Image.Image:
        """Paint once."""
        generator = torch.Generator().manual_seed(0)
        return self.pipe(
            image=self.picture,
            mask_image=self.mask,
            num_inference_steps=self.steps,
            generator=generator,
            **arguments,
        ).images[0]


def make_painting(shape: Shape, dtype: torch.dtype, mode: Mode | None = None) -> Painting:
    """A picture of ``shape`` with a square hole in its middle."""
    pipe = pipeline("inpainting", dtype) if shape.kind == EMBEDDED else _of_real_size(shape, dtype)
    pipe.set_progress_bar_config(disable=True)
    side, generator = shape.sizes["side"], torch.Generator().manual_seed(1)
    tasks = weft.TaskPrompts(
        {
            name: tuple(0.1 * torch.randn(10, width, generator=generator) for width in word_widths(pipe))
            for name in ("context", "shape", "object")
        }
    )
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    hole, reach = np.zeros((side, side), np.uint8), round(side * HOLE**0.5 / 2)
    hole[side // 2 - reach : side // 2 + reach, side // 2 - reach : side // 2 + reach] = 255
    return Painting(pipe, tasks, Image.fromarray(pixels), Image.fromarray(hole), shape.sizes["steps"])


def _of_real_size(shape: Shape, dtype: torch.dtype) -> Any:
    latent = shape.sizes["own"] // 8
    images = make_images(Shape("", {"B": 1, "h": latent, "w": latent, "C": shape.sizes["C"]}, "", kind=SD15), dtype)
    narrow = images.pipeline()
    return StableDiffusionInpaintPipeline(
        **{**narrow.components, "unet": widened(narrow.unet, 9)}, requires_safety_checker=False
    )


def tasks_with(**paste_back: Any) -> Callable[[Painting], Call]:
    """weft's removal, with ``PasteBack`` of these values."""

    def prepare(painting: Painting) -> Call:
        def call() -> Image.Image:
            painting.tasks.paste_back = PasteBack(**paste_back)
            with weft.attach(painting.pipe, painting.tasks):
                return painting.call(prompt="", **painting.tasks.removal())

        return call

    return prepare


def prepare_stock(painting: Painting) -> Call:
    # without them the pipeline makes a picture of the model's own size
    size = {"height": painting.picture.height, "width": painting.picture.width}
    return lambda: painting.call(prompt=PROMPT, negative_prompt="", guidance_scale=10.0, **size)


def verify(painting: Painting, provider: Provider, found: Image.Image) -> None:
    """Pictures keep their size, and weft's the pixels far from the hole.

    Raises:
        AssertionError: They do not.
    """
    assert found.size == painting.picture.size, f"{provider.name}: has size {found.size}"
    if provider.ours:
        hole = np.asarray(painting.mask) > 0
        inside = np.flatnonzero(hole.any(1))
        rim, far = round(RIM * len(inside)), np.ones_like(hole)
        far[inside[0] - rim : inside[-1] + 1 + rim, inside[0] - rim : inside[-1] + 1 + rim] = False
        assert (np.asarray(found) == np.asarray(painting.picture))[far].all(), f"{provider.name}: changed other pixels"


_SHAPES = (
    Shape("embedded_64", {"side": 64, "own": 64, "steps": 10}, "the embedded model", kind=EMBEDDED),
    Shape("embedded_256", {"side": 256, "own": 64, "steps": 10}, "the embedded model, as 2048 of 512", kind=EMBEDDED),
    Shape("sd15_512", {"side": 512, "own": 512, "C": 320, "steps": 2}, "Stable Diffusion 1.5", True, SD15),
    Shape("sd15_2048", {"side": 2048, "own": 512, "C": 320, "steps": 2}, "Stable Diffusion 1.5", True, SD15),
)

BENCHMARK = Benchmark(
    op="inpainting",
    shapes=_SHAPES,
    modes=(
        Mode(
            "removal",
            (
                Provider("weft", tasks_with(), ours=True),
                Provider("weft, whole picture", tasks_with(crop="off"), ours=True, note="crop off"),
                Provider("stock", prepare_stock, note="a text, no tasks; pixels outside change"),
            ),
        ),
    ),
    dtypes={"fp32": torch.float32, "bf16": torch.bfloat16},
    make_inputs=make_painting,
    verify=verify,
    result_bytes=lambda painting: painting.picture.width * painting.picture.height * 3,
    gate=("tests/methods/powerpaint/test_prompts.py",),
    default_dtypes=("fp32",),
)
