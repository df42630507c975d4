"""``task_branch``: an inpainted image with a branch beside the UNet that is computed at every n-th step.

No trained branch can be had here: this one is a copy of the UNet with random 1x1 convolutions behind its places, of a
tenth of what they read. Time does not depend on that. Beside weft: the same network in plain PyTorch and diffusers at
every step, as released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image
from torch import Tensor

import weft
from benchmarks.cases.denoiser import SD15, make_images
from benchmarks.registry import Benchmark, Call, Mode, Provider, Shape
from weft.methods.inpainting import CONVENTIONS, shown
from weft.methods.powerpaint import Branch, beside
from weft.shapes.load import pipeline
from weft.testing import relative_l2
from weft.testing.branch_eager import branch_residuals, denoised

EMBEDDED = "embedded"  # kind of shapes
STRENGTH = 0.1  # of what the branch adds, over the features that it reads
TOKENS, TEXT = 77, {EMBEDDED: 128, SD15: 768}
REUSE = (1, 2, 3)
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
SHAPES = (
    Shape("embedded", {"h": 64, "w": 64, "steps": 20}, "the shapes model, trained, at its own 64 px", kind=EMBEDDED),
    Shape(
        "sd15_256",
        {"B": 2, "h": 32, "w": 32, "C": 320, "steps": 6},
        "Stable Diffusion 1.5 at 256 px, random weights",
        optional=True,
        kind=SD15,
    ),
    Shape(
        "tiny",
        {"B": 2, "h": 8, "w": 8, "C": 32, "steps": 4},
        "no model; shows that all runs",
        optional=True,
        kind=SD15,
    ),
)


@dataclass
class Painting:
    """What everybody shares.

    Attributes:
        pipe: A stock inpainting pipeline around a text-to-image UNet.
        network: The branch.
        states: Random texts of it.
        image, mask: A picture and its hole, in the size that is made.
        steps: Of the sampler.
        expected: What the first who computes the branch at every step has found.
    """

    pipe: Any
    network: Branch
    states: dict[Any, Tensor]
    image: Image.Image
    mask: Image.Image
    steps: int
    expected: Tensor | None = None

    def branch(self, reuse: int) -> weft.TaskBranch:
        return weft.TaskBranch(self.network, self.states, reuse=reuse, paste_back=None)

    def call(self, seed: int = 0, **arguments: Any) -> Tensor:
        """The latents of an image."""
        found: Tensor = self.pipe(
            image=self.image,
            height=self.image.height,
            width=self.image.width,
            num_inference_steps=self.steps,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
            **{"mask_image": self.mask, **arguments},
        ).images
        return found

    def without(self, seed: int = 0) -> Tensor:
        """The stock pipeline, as it denoises beside a branch: nothing is put back."""
        size = (self.image.height, self.image.width)
        return self.call(seed, prompt="a red circle", guidance_scale=7.5, mask_image=torch.ones(1, 1, *size))


def make_painting(shape: Shape, dtype: torch.dtype, mode: Mode | None = None, seed: int = 0) -> Painting:
    """Models and pictures of ``shape``."""
    plain = pipeline("sd1", dtype) if shape.kind == EMBEDDED else make_images(shape, dtype).pipeline()
    pipe = StableDiffusionInpaintPipeline(**plain.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    scale = 1 if shape.kind == EMBEDDED else pipe.vae_scale_factor
    size = (shape.sizes["w"] * scale, shape.sizes["h"] * scale)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    mask = Image.new("L", size)
    mask.paste(255, (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4))
    generator = torch.Generator().manual_seed(seed)
    states = {
        name: torch.randn(TOKENS, TEXT[shape.kind], generator=generator)
        for name in ("context", "shape", "object", "empty")
    }
    return Painting(
        pipe, _random_branch(pipe.unet, generator), states, Image.fromarray(pixels), mask, shape.sizes["steps"]
    )


def _random_branch(unet: Any, generator: torch.Generator) -> Branch:
    network = beside(unet)
    with torch.no_grad():
        for convolution in (*network.down, network.mid, *network.up):
            width = convolution.in_channels
            noise = torch.randn(convolution.weight.shape, generator=generator)
            convolution.weight.copy_(STRENGTH / width**0.5 * noise)
    return network


@contextmanager
def in_plain_torch(painting: Painting, branch: weft.TaskBranch, given: dict[str, Any]) -> Iterator[None]:
    """The pipeline's UNet walks with the branch, module by module, at every step."""
    pipe, convention = painting.pipe, CONVENTIONS[branch.dialect]
    size = (painting.image.height, painting.image.width)
    masked, hole = shown(pipe, painting.image, painting.mask, size, convention, who="benchmark")
    text = torch.cat([given["negative_task_embeds"], given["task_embeds"]]).to(pipe.unet.dtype)

    def forward(sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **others: Any) -> tuple[Tensor]:
        inputs = convention.joined(sample, *(part.expand(len(sample), -1, -1, -1) for part in (masked, hole)))
        residuals = branch_residuals(branch.network, inputs, timestep, text)
        return (denoised(pipe.unet, sample, timestep, encoder_hidden_states, residuals),)

    pipe.unet.forward = forward
    try:
        yield
    finally:
        del pipe.unet.forward


def attached(reuse: int) -> Callable[[Painting], Call]:
    def prepare(painting: Painting) -> Call:
        def run() -> Tensor:
            branch = painting.branch(reuse)
            with weft.attach(painting.pipe, branch):
                return painting.call(**branch.removal(words=""))

        return run

    return prepare


def eager(painting: Painting) -> Call:
    branch = painting.branch(1)
    with weft.attach(painting.pipe, branch):
        given = branch.removal(words="")
    size = (painting.image.height, painting.image.width)
    plain = {name: value for name, value in given.items() if "task" not in name}
    plain["guidance_scale"] = given["task_guidance_scale"]

    def run() -> Tensor:
        with in_plain_torch(painting, branch, given):
            return painting.call(**plain, mask_image=torch.ones(1, 1, *size))

    return run


def verify(painting: Painting, provider: Provider, found: Tensor) -> None:
    """All who compute the branch at every step find the same latents; what is used again comes near them."""
    assert found.isfinite().all(), f"{provider.name}: not finite"
    if provider.name in ("reuse_1", "eager"):
        if painting.expected is None:
            painting.expected = found
        error = relative_l2(found, painting.expected)
        assert error <= TOLERANCE[found.dtype], f"{provider.name}: is off by {error:.2g}, relative"


def _mode(reuse: int) -> Mode:
    note = "" if reuse == 1 else "computes the branch at every step"
    return Mode(
        f"reuse_{reuse}",
        (
            Provider(f"reuse_{reuse}", attached(reuse), ours=True),
            Provider("eager", eager, note=note),
            Provider("stock", lambda painting: painting.without, note="without a branch", yardstick=True),
        ),
    )


BENCHMARK = Benchmark(
    op="task_branch",
    shapes=SHAPES,
    modes=tuple(_mode(reuse) for reuse in REUSE),
    dtypes={"fp32": torch.float32, "bf16": torch.bfloat16},
    make_inputs=make_painting,
    verify=verify,
    result_bytes=lambda painting: (
        4 * painting.image.width * painting.image.height * 4 // painting.pipe.vae_scale_factor**2
    ),
    gate=("tests/attach/test_injection.py", "tests/methods/powerpaint/test_branch.py"),
    default_dtypes=("fp32",),
)
