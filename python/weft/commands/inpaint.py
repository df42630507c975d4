"""``weft inpaint``: one of five tasks on a picture, and the picture as it was everywhere else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import weft
from weft._device import choose_device, choose_dtype
from weft._files import output_folder, whole_file
from weft.commands.loading import EMBEDDED, load_inpainting
from weft.commands.numbers import check_numbers

SIDES = ("left", "right", "top", "bottom")


@dataclass(frozen=True)
class Inpaint:
    """Remove, insert, fill, continue or extend: one inpainting model; task prompts select what it does."""

    image: Path
    """The picture."""
    mask: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE [FILE ...]")] = ()
    """White where to paint, as large as the picture; several are painted by themselves, each seeing the picture as it
    came. Not for outpaint."""
    task: Literal["removal", "insert", "shape", "context", "outpaint"] = "removal"
    """removal takes away what is in the hole; insert puts --prompt there; shape makes it fill the hole; context
    continues what is around it; outpaint extends the picture beyond its sides."""
    prompt: str = ""
    """What insert and shape put into the hole; what the others continue with, if it needs saying."""
    negative_prompt: str = ""
    """What not to paint."""
    fit: float | None = None
    """With shape: how closely the hole is filled, 0 to 1; 0.5 to 0.6 is loose, 0.8 to 0.95 tight, 1 the default."""
    expand: str = ""
    """With outpaint: how far beyond each side, in pixels or as a share below 1, such as left=128,right=0.25."""
    model: str = EMBEDDED
    """A diffusers folder or a model id of an inpainting model (Stable Diffusion 1.x, 2.x, XL); for a branch, of a
    text-to-image model."""
    task_prompts: Path | None = None
    """File of `weft train task-prompts`, or the released folder of PowerPaint v1, whose UNet and text encoder then
    replace those of the model, or of PowerPaint v2, a branch beside any Stable Diffusion 1.5; if not given, those in
    the folder of the model."""
    dialect: str | None = None
    """Whose weights --task-prompts are, where the files do not say: main-v1 or dev; for a branch main-v2 or dev."""
    reuse: int = 1
    """With a branch: compute it at every so many steps, and use what it found in between."""
    out: Path = Path("inpainted.png")
    """The picture to write; the settings lie beside it as JSON."""
    blend: Literal["feather", "laplacian", "poisson", "hard"] = "feather"
    """How what was painted meets the picture; laplacian and poisson remove differences in colour as well."""
    feather: int | None = None
    """Pixels of the rim where both are mixed; beyond it every pixel stays. One cell of the latent if not given."""
    crop: Literal["auto", "on", "off"] = "auto"
    """Work on a part round the hole: auto does in pictures larger than the model's own."""
    seed: int = 0
    """Of the noise."""
    steps: int | None = None
    """Denoising steps; if not given those that the task prompts recommend, else 45."""
    guidance_scale: float | None = None
    """Classifier-free guidance weight; if not given the one that the task prompts recommend, else the task's own."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights and activations; auto is float16 on a GPU, float32 elsewhere."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""


def inpaint(options: Inpaint) -> Path:
    """Carry out ``weft inpaint`` and return the path of the picture.

    Raises:
        ValueError: An option out of range, a picture or mask that cannot be taken, or a model that does not inpaint.
        OSError: A file is not there, or the picture cannot be written; found out before the model is loaded.
    """
    import torch

    from weft.methods.inpainting import read_masks, read_pictures
    from weft.methods.powerpaint import is_branch_at

    sides = _check(options)
    folder = output_folder(options.out.parent, who="inpaint")
    # before the model is loaded, which takes the longest
    pictures = read_pictures(options.image, who="inpaint")
    if options.mask:
        read_masks(list(options.mask), pictures, who="inpaint")
    has_branch = options.task_prompts is not None and is_branch_at(options.task_prompts)
    if options.reuse != 1 and not has_branch:
        raise ValueError("inpaint: --reuse belongs to a branch, such as PowerPaint v2 in --task-prompts")
    if options.dialect is not None and options.task_prompts is None:
        raise ValueError("inpaint: --dialect belongs to released weights, in --task-prompts")
    device = choose_device(options.device)
    pipe = load_inpainting(options.model, choose_dtype(options.dtype, device), device)
    tasks = _branch(options, pipe) if has_branch else _task_prompts(options, pipe)
    image = tasks.inpaint(
        pipe,
        options.image,
        list(options.mask) or None,
        options.task,
        text=options.prompt,
        negative=options.negative_prompt,
        generator=torch.Generator(device).manual_seed(options.seed),
        blend=options.blend,
        feather=options.feather,
        crop=options.crop,
        **({} if options.steps is None else {"num_inference_steps": options.steps}),
        **({} if options.fit is None else {"fit": options.fit}),
        **({} if options.guidance_scale is None else {"guidance_scale": options.guidance_scale}),
        **sides,
    )
    path = folder / options.out.name
    with whole_file(path) as temporary:
        image.save(temporary, format="PNG")
    with whole_file(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(_sidecar(options, tasks), indent=2, default=str) + "\n")
    return path


def _check(options: Inpaint) -> dict[str, float]:
    """The sides that grow; raises for options that do not belong together."""
    check_numbers(options, who="inpaint")
    if options.out.suffix.lower() != ".png":
        raise ValueError(
            f"inpaint: --out must end in .png, which keeps the pixels outside the hole as they are; got {options.out}"
        )
    if options.out.is_dir():
        raise IsADirectoryError(f"inpaint: --out must be a file; {options.out} is a folder")
    if options.task_prompts is not None and not options.task_prompts.exists():
        raise FileNotFoundError(f"inpaint: there is nothing at --task-prompts {options.task_prompts}")
    outpaints = options.task == "outpaint"
    if outpaints == bool(options.mask):
        problem = (
            "needs no --mask: its hole follows from --expand" if outpaints else "needs a --mask, white where to paint"
        )
        raise ValueError(f"inpaint: --task {options.task} {problem}")
    if outpaints != bool(options.expand):
        problem = "needs --expand, such as left=128,right=0.25" if outpaints else "takes no --expand; outpaint does"
        raise ValueError(f"inpaint: --task {options.task} {problem}")
    if options.fit is not None and options.task != "shape":
        raise ValueError("inpaint: --fit belongs to --task shape")
    if options.fit is not None and not 0 <= options.fit <= 1:
        raise ValueError(f"inpaint: --fit must be between 0 and 1; got {options.fit}")
    if options.task in ("insert", "shape") and not options.prompt.strip():
        raise ValueError(f"inpaint: --task {options.task} needs a --prompt, what to put into the hole")
    return _sides(options.expand) if outpaints else {}


def _sides(text: str) -> dict[str, float]:
    """'left=128,right=0.25' as side to number."""
    sides: dict[str, float] = {}
    for part in text.split(","):
        side, _, number = part.partition("=")
        try:
            reach = float(number)
        except ValueError:
            side = ""
        if side.strip() not in SIDES or side.strip() in sides:
            raise ValueError(
                f"inpaint: --expand must look like left=128,right=0.25 with each of {', '.join(SIDES)} at most once; "
                f"got {text!r}"
            )
        sides[side.strip()] = reach
    return sides


def _branch(options: Inpaint, pipe: Any) -> weft.TaskBranch:
    """From --task-prompts, where the pipeline computes."""
    from weft.methods.inpainting import check_host_of_branch

    check_host_of_branch(pipe, who="inpaint")
    assert options.task_prompts is not None
    branch = weft.TaskBranch.load(options.task_prompts, dtype=pipe.unet.dtype, dialect=options.dialect)
    branch.network.to(pipe.unet.device)
    branch.reuse = options.reuse
    return branch


def _task_prompts(options: Inpaint, pipe: Any) -> weft.TaskPrompts:
    """From --task-prompts, else from the model's own folder."""
    from weft.methods.inpainting import check_host

    check_host(pipe, who="inpaint")
    path = options.task_prompts
    if path is None:
        folder = Path(str(getattr(pipe, "name_or_path", "") or options.model)).expanduser()
        if not folder.is_dir():
            raise ValueError(
                f"inpaint: --model {options.model} has no task prompts beside it; give some with --task-prompts: a "
                "file of `weft train task-prompts`, or the released folder of PowerPaint v1"
            )
        return weft.TaskPrompts.load(folder)
    # a folder with a UNet and no pipeline round it is a release; its UNet was trained for its prompts
    is_release = (path / "unet").is_dir() and not (path / "model_index.json").is_file()
    return weft.TaskPrompts.load(path, into=pipe if is_release else None, dialect=options.dialect)


def _sidecar(options: Inpaint, tasks: weft.TaskPrompts | weft.TaskBranch) -> dict[str, Any]:
    import torch

    guidance = options.guidance_scale
    if guidance is None:
        guidance = tasks.guidance_of(options.task)
    how = {"placement": tasks.placement} if isinstance(tasks, weft.TaskPrompts) else {"reuse": tasks.reuse}
    return {
        **{name: getattr(options, name) for name in options.__dataclass_fields__},
        "guidance_scale": guidance,
        "steps": options.steps or tasks.steps,
        "prompts": {"base_name": tasks.base_name, "dialect": tasks.dialect, **how},
        "versions": {"weft": weft.__version__, "torch": torch.__version__},
    }
