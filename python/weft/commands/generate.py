"""``weft generate``: pictures from prompts, the maps of chosen words, and the settings that made them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from PIL import Image

import weft
from weft._files import output_folder, whole_file
from weft.commands.loading import EMBEDDED, choose_device, choose_dtype, load_pipeline

Strings = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT [TEXT ...]")]


@dataclass(frozen=True)
class Generate:
    """Generate pictures from prompts; with --maps, show where the model looked for each word."""

    prompt: Strings
    """One picture set per prompt."""
    negative_prompt: str = ""
    """What to steer away from."""
    model: str = EMBEDDED
    """'embedded', a diffusers folder, or a model id (Stable Diffusion 1.x, 2.x, XL)."""
    maps: Strings = ()
    """Words or phrases of the prompts to read attention maps for."""
    out: Path = Path("weft-pictures")
    """Folder for the pictures; made if it is not there."""
    images: int = 1
    """Pictures per prompt."""
    seed: int = 0
    """Seed of the first picture of each prompt; the next ones count up."""
    steps: int = 25
    """Denoising steps."""
    guidance_scale: float | None = None
    """Classifier-free guidance weight, 1 = off; the model's own default if not given."""
    height: int | None = None
    """Pixels; the model's own size if not given."""
    width: int | None = None
    """Pixels; the model's own size if not given."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights and activations; auto is float16 on a GPU, float32 elsewhere."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    backend: Literal["auto", "cuda", "triton", "cpu", "reference"] = "auto"
    """Which kernels run the attention."""


@dataclass(frozen=True)
class Generated:
    """One picture and where it lies."""

    prompt: str
    seed: int
    image: Image.Image = field(repr=False)
    path: Path


def generate(options: Generate) -> list[Generated]:
    """Carry out ``weft generate`` and return what was written.

    Each picture lies beside a JSON file of the settings that made it; with maps each prompt has one sheet as well.

    Raises:
        ValueError: An option out of range, a model that cannot be loaded, or a word that is not in a prompt.
        OSError: The output folder cannot be written to; found out before the model is loaded.
    """
    _check(options)
    folder = output_folder(options.out, who="generate")
    device = choose_device(options.device)
    pipe = load_pipeline(options.model, choose_dtype(options.dtype, device), device)
    controls = [weft.AttentionMaps(options.maps)] if options.maps else []

    written = []
    with weft.attach(pipe, *controls, backend=options.backend) as attachment:
        for number, prompt in enumerate(options.prompt):
            seeds = [options.seed + i for i in range(options.images)]
            images = pipe(**_call(options, prompt, seeds, device)).images
            stem = f"{number:02d}-{_slug(prompt)}"
            for seed, image in zip(seeds, images, strict=True):
                path = folder / f"{stem}-seed{seed}.png"
                with whole_file(path) as temporary:
                    image.save(temporary, format="PNG")
                with whole_file(path.with_suffix(".json")) as temporary:
                    temporary.write_text(json.dumps(_sidecar(options, prompt, seed), indent=2) + "\n")
                written.append(Generated(prompt, seed, image, path))
            if controls:
                with whole_file(folder / f"{stem}-maps.png") as temporary:
                    attachment.maps.grid(images).save(temporary, format="PNG")
    return written


def _check(options: Generate) -> None:
    for name in ("images", "steps"):
        if getattr(options, name) < 1:
            raise ValueError(f"generate: --{name} must be at least 1; got {getattr(options, name)}")
    if options.seed < 0:
        raise ValueError(f"generate: --seed must not be negative; got {options.seed}")
    for prompt in options.prompt:
        if not prompt.strip():
            raise ValueError("generate: --prompt must not be empty")


def _call(options: Generate, prompt: str, seeds: list[int], device: torch.device) -> dict[str, Any]:
    """Arguments of the pipeline for one prompt; what the user left open is left to the pipeline."""
    given = {"guidance_scale": options.guidance_scale, "height": options.height, "width": options.width}
    return {
        "prompt": prompt,
        "negative_prompt": options.negative_prompt,
        "num_images_per_prompt": len(seeds),
        "num_inference_steps": options.steps,
        # one generator a picture: a picture does not depend on how many are made with it
        "generator": [torch.Generator(device).manual_seed(seed) for seed in seeds],
        **{name: value for name, value in given.items() if value is not None},
    }


def _sidecar(options: Generate, prompt: str, seed: int) -> dict[str, Any]:
    settings = {name: getattr(options, name) for name in options.__dataclass_fields__}
    return {
        **settings,
        "prompt": prompt,
        "seed": seed,
        "images": 1,
        "out": str(options.out),
        "versions": {"weft": weft.__version__, "torch": torch.__version__},
    }


def _slug(prompt: str) -> str:
    """The prompt as a part of a file name, at most 40 characters."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].rstrip("-") or "picture"
