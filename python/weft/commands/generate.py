"""``weft generate``: pictures from prompts, the maps of chosen words, and the settings that made them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from PIL import Image

import weft
from weft._device import choose_device, choose_dtype
from weft._files import output_folder, whole_file
from weft.commands.controls import localized_residuals, mask_diffusion, parse_boxes
from weft.commands.loading import EMBEDDED, load_pipeline, own_side
from weft.commands.numbers import check_numbers
from weft.commands.sheets import stack, strip

if TYPE_CHECKING:
    import torch

    from weft.attach import Control

Strings = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT [TEXT ...]")]


@dataclass(frozen=True)
class Generate:
    """Generate pictures from prompts; with --maps, show where the model looked for each word."""

    prompt: Strings
    """One picture set per prompt."""
    negative_prompt: str = ""
    """What to steer away from."""
    model: str = EMBEDDED
    """'embedded' or 'embedded-sd3', a diffusers folder, or a model id (Stable Diffusion 1.x, 2.x, XL, 3)."""
    maps: Strings = ()
    """Words or phrases of the prompts to read attention maps for; of several prompts, one may lack some of them."""
    method: Literal["none", "maskdiffusion"] = "none"
    """maskdiffusion gives every object of a prompt a region, so that none is lost and each keeps its attributes."""
    phrases: Strings = ()
    """With --method: the objects, as the prompts name them; found in the prompts if not given."""
    residual: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE [FILE ...]")] = ()
    """Files of `weft train residual`; a prompt names each concept as it was trained, such as 'a V* dog'."""
    localize: Literal["attention", "none"] = "attention"
    """With --residual: attention lets a concept act only where the model draws it; none everywhere."""
    threshold: str = "median"
    """With --residual: 'median', 'otsu' or a number in [0, 1): how much attention opens a pixel to a concept."""
    residual_scale: float = 1.0
    """With --residual: how strongly concepts act; 1 as they were trained."""
    soft_tokens: Path | None = None
    """File of `weft train soft-tokens`, or a folder with the published dc_tokens.pth."""
    boxes: Strings = ()
    """Where the objects of --method or the concepts of --residual go, each as 'a red circle=left,top,right,bottom' in
    pixels."""
    compare: bool = False
    """With --method or --residual: also draw each picture without them, and lay both on a sheet with what they did."""
    out: Path = Path("weft-pictures")
    """Folder for the pictures; made if it is not there."""
    images: int = 1
    """Pictures per prompt."""
    seed: int = 0
    """Seed of the first picture of each prompt; the next ones count up."""
    steps: int = 25
    """Denoising steps."""
    guidance_scale: float | None = None
    """Classifier-free guidance weight, 1 = off; if not given, what --residual and --soft-tokens files recommend,
    else the model's own default."""
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
    """One picture and where it lies.

    Attributes:
        words: Of ``--maps``, those that the prompt has.
    """

    prompt: str
    seed: int
    image: Image.Image = field(repr=False)
    path: Path
    words: tuple[str, ...] = ()


def generate(options: Generate) -> list[Generated]:
    """Carry out ``weft generate`` and return what was written.

    Each picture lies beside a JSON file of the settings that made it; with maps, and with a comparison, each prompt
    has a sheet as well. Of several prompts, one may lack a word of the maps.

    Raises:
        ValueError: An option out of range, a model that cannot be loaded, or a word that is in no prompt.
        OSError: The output folder cannot be written to; found out before the model is loaded.
    """
    _check(options)
    methods = _methods(options)
    folder = output_folder(options.out, who="generate")
    device = choose_device(options.device)
    pipe = load_pipeline(options.model, choose_dtype(options.dtype, device), device)
    missing = "zero" if len(options.prompt) > 1 else "warn"  # each prompt is a generation of its own
    readers = [weft.AttentionMaps(options.maps, missing=missing)] if options.maps else []
    written = []
    with weft.attach(pipe, *readers, backend=options.backend) as attachment:
        for number, prompt in enumerate(options.prompt):
            seeds = [options.seed + i for i in range(options.images)]
            stem = f"{number:02d}-{_slug(prompt)}"
            chosen = {**_call(options, prompt, seeds), **_size(options, pipe)}
            call = {**_recommended(methods), **chosen}
            stock = pipe(**call, generator=_generators(seeds, device)).images if options.compare else []
            acting = [method for method in methods if _concerns(method, prompt)]
            with _added(attachment, acting):
                images = pipe(**call, generator=_generators(seeds, device)).images
            words = tuple(str(word) for reader in readers for word, found in reader.found.items() if all(found))
            for seed, image in zip(seeds, images, strict=True):
                path = folder / f"{stem}-seed{seed}.png"
                _save(image, path)
                with whole_file(path.with_suffix(".json")) as temporary:
                    temporary.write_text(
                        json.dumps(_sidecar(options, acting, prompt, seed), indent=2, default=str) + "\n"
                    )
                written.append(Generated(prompt, seed, image, path, words))
            if words:
                _save(readers[0].maps.grid(images), folder / f"{stem}-maps.png")
            if options.compare:
                _save(comparison(prompt, acting, stock, images), folder / f"{stem}-compare.png")
    return written


def describe_written(options: Generate, written: Sequence[Generated]) -> str:
    """What was written, and which prompt has which word where they differ."""
    lines = [str(picture.path) for picture in written]
    words = {picture.prompt: picture.words for picture in written}
    if any(len(found) < len(options.maps) for found in words.values()):
        for prompt, found in words.items():
            lacking = [repr(word) for word in options.maps if word not in found]
            maps = f"maps of {', '.join(map(repr, found))}" if found else "no maps"
            lines.append(f"{prompt!r}: {maps}" + (f"; it lacks {', '.join(lacking)}" if lacking else ""))
    return "\n".join(lines)


@contextmanager
def _added(attachment: weft.Attachment, methods: Sequence[Control]) -> Iterator[None]:
    """Let the methods take part in what is drawn meanwhile."""
    with ExitStack() as undo:
        for method in methods:
            attachment.add(method)
            undo.callback(attachment.remove, method)
        yield


def _save(picture: Image.Image, path: Path) -> None:
    with whole_file(path) as temporary:
        picture.save(temporary, format="PNG")


def comparison(
    prompt: str, methods: Sequence[Control], stock: list[Image.Image], images: list[Image.Image]
) -> Image.Image:
    """A sheet with a row a picture: without the methods, with them, and what each did; of none, twice the same."""
    rows = []
    for index, (without, image) in enumerate(zip(stock, images, strict=True)):
        shown = [column for method in methods for column in method.pictures(image, index).items()]
        drawn = " + ".join(type(method).__name__ for method in methods)
        rows.append([("stock", without), (drawn or "stock", image), *shown])
    return stack([strip(prompt, row) for row in rows])


def _check(options: Generate) -> None:
    check_numbers(options, who="generate")
    for prompt in options.prompt:
        if not prompt.strip():
            raise ValueError("generate: --prompt must not be empty")
    for word in options.maps:
        bare = word.partition("#")[0].strip().casefold()
        if len(options.prompt) > 1 and not any(bare in prompt.casefold() for prompt in options.prompt):
            raise ValueError(f"generate: --maps has {word!r}, which is in no --prompt")
    if options.method == "none" and options.phrases:
        raise ValueError("generate: --phrases belongs to a method; add --method maskdiffusion")
    if (
        options.method == "none"
        and not options.residual
        and (options.boxes or (options.compare and options.soft_tokens is None))
    ):
        raise ValueError(
            "generate: --boxes and --compare belong to a method; add --method maskdiffusion or --residual FILE"
        )
    default = Generate(prompt=())
    of_residuals = [name for name in _OF_RESIDUALS if getattr(options, name) != getattr(default, name)]
    if of_residuals and not options.residual:
        raise ValueError(f"generate: {', '.join(map(_flag, of_residuals))} belong to concepts; add --residual FILE")


# options that mean nothing without --residual
_OF_RESIDUALS = ("localize", "threshold", "residual_scale")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _concerns(method: Control, prompt: str) -> bool:
    """Whether ``method`` has anything to do for ``prompt``: localized concepts only where one is named."""
    if not isinstance(method, weft.LocalizedResiduals) or method.settings()["localize"] != "attention":
        return True
    named = any(residual.identifier in prompt for residual in method.residuals)
    if not named:
        warnings.warn(f"generate: {prompt!r} names no concept of --residual and is drawn without", stacklevel=2)
    return named


def _methods(options: Generate) -> list[Control]:
    """The controls of ``--method`` and ``--residual``; a box goes to the concept of its name, else to the method."""
    boxes = parse_boxes(options.boxes)
    methods: list[Control] = []
    if options.residual:
        residuals = [weft.Residual.load(file) for file in options.residual]
        concepts = [residual.phrase for residual in residuals]
        concept_boxes = {phrase: boxes.pop(phrase) for phrase in concepts if phrase in boxes}
        if concept_boxes and (options.localize, options.threshold) != ("attention", "median"):
            raise ValueError("generate: --boxes of concepts replace --localize and --threshold; leave them out")
        chosen = (options.localize, options.threshold, options.residual_scale)
        methods.append(localized_residuals(residuals, *chosen, concept_boxes))
    if options.soft_tokens is not None:
        methods.append(weft.SoftTokens.load(options.soft_tokens))
    if options.method == "maskdiffusion":
        methods.append(mask_diffusion(options.phrases, boxes))
    elif boxes:
        raise ValueError(
            f"generate: --boxes names {', '.join(map(repr, boxes))}, which is no concept of --residual: "
            f"{', '.join(map(repr, concepts))}"
        )
    return methods


def _call(options: Generate, prompt: str, seeds: list[int]) -> dict[str, Any]:
    """Arguments of the pipeline for one prompt; what the user left open is left to the pipeline."""
    guidance = {} if options.guidance_scale is None else {"guidance_scale": options.guidance_scale}
    return {
        "prompt": prompt,
        "negative_prompt": options.negative_prompt,
        "num_images_per_prompt": len(seeds),
        "num_inference_steps": options.steps,
        **guidance,
    }


def _size(options: Generate, pipe: Any) -> dict[str, int]:
    """Both sides where one is given: pipelines pass one alone over."""
    if options.height is None and options.width is None:
        return {}
    own = own_side(pipe)
    return {"height": options.height or own, "width": options.width or own}


def _recommended(methods: Sequence[Control]) -> dict[str, Any]:
    """Arguments of the pipeline that what was trained recommends; of several that differ, the first method's."""
    return {name: value for method in reversed(methods) for name, value in method.recommended().items()}


def _generators(seeds: list[int], device: torch.device) -> list[torch.Generator]:
    """One a picture: a picture does not depend on how many are made with it."""
    import torch

    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def _sidecar(options: Generate, methods: Sequence[Control], prompt: str, seed: int) -> dict[str, Any]:
    import torch

    return {
        **{name: getattr(options, name) for name in options.__dataclass_fields__},
        "prompt": prompt,
        "seed": seed,
        "images": 1,
        "methods": [{"method": type(method).__name__, **method.settings()} for method in methods],
        "versions": {"weft": weft.__version__, "torch": torch.__version__},
    }


def _slug(prompt: str) -> str:
    """The prompt as a part of a file name, at most 40 characters."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].rstrip("-") or "picture"
