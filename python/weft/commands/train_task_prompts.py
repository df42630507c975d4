"""``weft train task-prompts``: an inpainting model with five tasks, from pictures with masks of their objects."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

import weft
from weft._files import output_folder, whole_folder
from weft.commands.loading import EMBEDDED, EMBEDDED_MODELS, load_inpainting, load_pipeline
from weft.commands.training import RunOptions, prepare
from weft.train.task_prompts import RATES, WEIGHT_DECAY, TaskPromptsConfig

PROMPTS = "task_prompts.safetensors"  # in the folder of a model, where `weft inpaint` looks for it
SCENES = "shapes"
_SCENES = 20000  # of the shapes world


@dataclass(frozen=True, kw_only=True)
class TrainTaskPrompts(RunOptions):
    """Teach an inpainting model to remove, insert, fill, continue and extend, each by a learnt prompt (PowerPaint)."""

    pictures: str
    """Folder of pictures with metadata.jsonl: rows of file_name, text, and objects, a list of mask and text; or
    'shapes', scenes of the embedded world."""
    out: Path = Path("inpainting-model")
    """Folder to write: the whole pipeline where its UNet was trained, and task_prompts.safetensors."""
    model: str = EMBEDDED
    """'embedded', a diffusers folder, or a model id (Stable Diffusion 1.x, 2.x, XL). A text-to-image model is given
    five more input channels, and needs another --trains; 'embedded' is the shipped one then, with "prompts" the
    shipped inpainting model."""
    learning_rate: float | None = None
    """Of AdamW for the UNet, its LoRA or residuals; 1e-5, 1e-4 and 1e-3 if not given."""
    config: Annotated[TaskPromptsConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=TaskPromptsConfig)


def train_task_prompts(options: TrainTaskPrompts) -> str:
    """Carry out ``weft train task-prompts``."""
    from weft.train.task_prompts import fit_task_prompts, inpainting_pipeline, read_masked_pictures

    who = "train task-prompts"
    output_folder(options.out, who=who)
    trains = options.config.trains
    rate = RATES[trains] if options.learning_rate is None else options.learning_rate
    loop = replace(options.config.loop, learning_rate=rate, weight_decay=0.0 if trains == "prompts" else WEIGHT_DECAY)
    config = replace(options.config, loop=loop)
    pictures = _scenes() if options.pictures == SCENES else read_masked_pictures(options.pictures, who=who)
    inpaints = trains == "prompts" and options.model in EMBEDDED_MODELS
    made = prepare(options, who=who, load=load_inpainting if inpaints else load_pipeline)
    if trains == "prompts" and made.pipe.unet.config.in_channels == made.pipe.vae.config.latent_channels:
        raise ValueError(
            f"{who}: --model {options.model} is a text-to-image model, whose UNet sees no mask; train it too, with "
            "--trains unet, lora or residuals, or name an inpainting model"
        )
    pipe = inpainting_pipeline(made.pipe)
    tasks = fit_task_prompts(
        pipe,
        pictures,
        config=config,
        folder=made.run,
        resume=options.resume,
        accelerator=made.accelerator,
        base_name=EMBEDDED if options.model == EMBEDDED else None,
    )
    made.accelerator.end_training()
    if not made.accelerator.is_main_process:
        return ""
    if trains in ("lora", "residuals"):
        _fuse(pipe.unet)
    if trains != "prompts":
        pipe.unet.to(pipe.text_encoder.dtype)  # it was trained in fp32
        with whole_folder(options.out.resolve()) as folder:
            pipe.save_pretrained(folder)
            tasks.save(folder / PROMPTS)
    else:
        tasks.save(options.out / PROMPTS)
    model = options.out if trains != "prompts" else options.model
    more = "" if trains != "prompts" else f" --task-prompts {options.out / PROMPTS}"
    return (
        f"task prompts: {options.out / PROMPTS}; paint with weft inpaint --model {model}{more} --image FILE --mask "
        f"FILE; run: {made.run}; weft {weft.__version__}"
    )


def _scenes() -> Any:
    from weft.shapes import MaskedScenes

    return MaskedScenes(_SCENES)


def _fuse(unet: Any) -> None:
    """Add the factors to the weights, so that the pipeline is a stock one."""
    from weft.train.task_prompts import ADAPTER

    unet.fuse_lora(adapter_names=[ADAPTER])
    unet.unload_lora()
