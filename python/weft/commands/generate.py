"""``weft generate``: pictures from prompts, the maps of chosen words, and the settings that made them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from PIL import Image

import weft
from weft._files import output_folder, whole_file
from weft.commands.loading import EMBEDDED, choose_device, choose_dtype, load_pipeline
from weft.commands.sheets import stack, strip

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
    method: Literal["none", "maskdiffusion"] = "none"
    """maskdiffusion gives every object of a prompt a region, so that none is lost and each keeps its attributes."""
    phrases: Strings = ()
    """With --method: the objects, as the prompts name them; found in the prompts if not given."""
    boxes: Strings = ()
    """With --method: where objects go, each as 'a red circle=left,top,right,bottom' in pixels."""
    compare: bool = False
    """With --method: also draw each picture without it, and lay both on a sheet with regions and maps."""
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

    Each picture lies beside a JSON file of the settings that made it; with maps, and with a comparison, each prompt
    has a sheet as well.

    Raises:
        ValueError: An option out of range, a model that cannot be loaded, or a word that is not in a prompt.
        OSError: The output folder cannot be written to; found out before the model is loaded.
    """
    _check(options)
    folder = output_folder(options.out, who="generate")
    device = choose_device(options.device)
    pipe = load_pipeline(options.model, choose_dtype(options.dtype, device), device)
    readers = [weft.AttentionMaps(options.maps)] if options.maps else []
    method = _method(options)

    written = []
    with weft.attach(pipe, *readers, backend=options.backend) as attachment:
        for number, prompt in enumerate(options.prompt):
            seeds = [options.seed + i for i in range(options.images)]
            stem = f"{number:02d}-{_slug(prompt)}"
            stock = pipe(**_call(options, prompt, seeds, device)).images if options.compare else []
            with _added(attachment, method):
                images = pipe(**_call(options, prompt, seeds, device)).images
            for seed, image in zip(seeds, images, strict=True):
                path = folder / f"{stem}-seed{seed}.png"
                _save(image, path)
                with whole_file(path.with_suffix(".json")) as temporary:
                    temporary.write_text(json.dumps(_sidecar(options, prompt, seed), indent=2) + "\n")
                written.append(Generated(prompt, seed, image, path))
            for reader in readers:
                _save(reader.maps.grid(images), folder / f"{stem}-maps.png")
            if options.compare and method is not None:
                _save(comparison(prompt, method, stock, images), folder / f"{stem}-compare.png")
    return written


@contextmanager
def _added(attachment: weft.Attachment, method: weft.MaskDiffusion | None) -> Iterator[None]:
    """Let the method, if there is one, take part in what is drawn meanwhile."""
    if method is None:
        yield
        return
    attachment.add(method)
    try:
        yield
    finally:
        attachment.remove(method)


def _save(picture: Image.Image, path: Path) -> None:
    with whole_file(path) as temporary:
        picture.save(temporary, format="PNG")


def comparison(
    prompt: str, method: weft.MaskDiffusion, stock: list[Image.Image], images: list[Image.Image]
) -> Image.Image:
    """A sheet with a row a picture: without the method, with it, its regions, and the maps they were found from."""
    rows = []
    for index, (without, image) in enumerate(zip(stock, images, strict=True)):
        columns = [("stock", without), ("MaskDiffusion", image), ("regions", method.image(image, index))]
        if method.regions is not None:  # they were found in maps
            columns += [(f"map: {name}", method.maps.image(name, image, index)) for name in method.maps]
        rows.append(columns)
    return stack([strip(prompt, columns) for columns in rows])


def _check(options: Generate) -> None:
    for name in ("images", "steps"):
        if getattr(options, name) < 1:
            raise ValueError(f"generate: --{name} must be at least 1; got {getattr(options, name)}")
    if options.seed < 0:
        raise ValueError(f"generate: --seed must not be negative; got {options.seed}")
    for prompt in options.prompt:
        if not prompt.strip():
            raise ValueError("generate: --prompt must not be empty")
    if options.method == "none" and (options.phrases or options.boxes or options.compare):
        raise ValueError("generate: --phrases, --boxes and --compare belong to a method; add --method maskdiffusion")


def _method(options: Generate) -> weft.MaskDiffusion | None:
    """The control of ``--method``."""
    if options.method == "none":
        return None
    boxes = dict(_box(text) for text in options.boxes)
    return weft.MaskDiffusion(options.phrases or None, boxes=boxes or None)


def _box(text: str) -> tuple[str, tuple[float, float, float, float]]:
    """'a red circle=0,0,32,64' as a phrase and its box."""
    phrase, _, sides = text.rpartition("=")
    try:
        left, top, right, bottom = map(float, sides.split(","))
    except ValueError:
        phrase = ""
    if not phrase:
        raise ValueError(f"generate: --boxes must look like 'a red circle=left,top,right,bottom'; got {text!r}")
    return phrase.strip(), (left, top, right, bottom)


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
