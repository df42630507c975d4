"""``weft train task-prompts``: an inpainting model with five tasks, from pictures with masks of their objects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import weft
from weft._files import output_folder, whole_folder
from weft.commands.loading import EMBEDDED, EMBEDDED_MODELS, load_inpainting, load_pipeline
from weft.commands.training import prepare

PROMPTS = "task_prompts.safetensors"  # in the folder of a model, where `weft inpaint` looks for it
SCENES = "shapes"
_SCENES = 20000  # of the shapes world


@dataclass(frozen=True)
class TrainTaskPrompts:
    """Teach an inpainting model to remove, insert, fill, continue and extend, each by a learnt prompt (PowerPaint)."""

    pictures: str
    """Folder of pictures with metadata.jsonl: rows of file_name, text, and objects, a list of mask and text; or
    'shapes', scenes of the embedded world."""
    out: Path = Path("inpainting-model")
    """Folder to write: the whole pipeline where its UNet was trained, and task_prompts.safetensors."""
    run: Path | None = None
    """Folder for checkpoints and log; beside --out if not given."""
    resume: bool = False
    """Go on from the last checkpoint of the run."""
    model: str = EMBEDDED
    """'embedded', a diffusers folder, or a model id (Stable Diffusion 1.x, 2.x, XL). A text-to-image model is given
    five more input channels, and needs another --trains; 'embedded' is the shipped one then, with "prompts" the
    shipped inpainting model."""
    trains: Literal["prompts", "unet", "lora", "residuals"] = "prompts"
    """prompts alone, for a model that inpaints already; unet, every weight of it, as published; lora, factors for its
    attention, and its first convolution; residuals, factors for the ends of attention blocks, and that convolution."""
    steps: int = 5000
    """Updates."""
    learning_rate: float | None = None
    """Of AdamW for the UNet, its LoRA or residuals; 1e-5, 1e-4 and 1e-3 if not given."""
    prompt_learning_rate: float = 1e-3
    """Of the prompts."""
    batch_size: int = 4
    """Pictures on one device in one pass."""
    accumulation: int = 1
    """Passes a step."""
    warmup_steps: int = 0
    """Of the learning rate, from zero."""
    decay_steps: int = 0
    """Of the learning rate, at the end, to zero."""
    average_decay: float = 0.0
    """Of a moving average, a step, which is what is written then; 0 for none."""
    max_grad_norm: float | None = 1.0
    """Longer gradients are cut to this length."""
    lora_rank: int = 16
    """With --trains lora."""
    init_word: str = "a"
    """Every vector begins as its embedding, with some noise."""
    spares_objects: bool = False
    """Random holes leave something of every object, so that the context prompt does not learn to make any."""
    borrowed: float = 0.0
    """Share of random holes with the box or the outline of an object of another picture: tasks must then be told by
    their prompts, not by the looks of holes."""
    worded: float = 0.0
    """Share of empty captions of random holes that are the words which removal says beside its prompt."""
    offset_noise: float = 0.0
    """Further noise of whole channels, such as 0.1: the colour of a hole then comes from around it."""
    timestep_power: float = 1.0
    """Times of the noise are u ** power of all; below one favours high noise, where holes get their colour."""
    snr_gamma: float = 0.0
    """min-SNR weighting of the loss, usually 5; 0 weighs all times alike, as published."""
    resolution: int | None = None
    """Pixels; the model's own if not given."""
    seed: int = 0
    """Of the start, the noise and the holes."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    validate_every: int | None = None
    """Steps between sheets of the five tasks; none if not given."""
    tensorboard: bool = False
    """Log to a folder that tensorboard reads."""
    precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    """Of computing; auto is bf16 or fp16 on a GPU. What is trained stays float32."""
    gradient_checkpointing: bool = False
    """Less memory, more time."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1; under `accelerate launch` each process takes its own."""


# of AdamW where nothing else is said: published for the whole UNet; usual for LoRA
_RATES = {"prompts": 1e-3, "unet": 1e-5, "lora": 1e-4, "residuals": 1e-3}


def train_task_prompts(options: TrainTaskPrompts) -> str:
    """Carry out ``weft train task-prompts``."""
    from weft.train.core import LoopConfig
    from weft.train.task_prompts import (
        Mixture,
        TaskPromptsConfig,
        fit_task_prompts,
        inpainting_pipeline,
        read_masked_pictures,
    )

    who = "train task-prompts"
    output_folder(options.out, who=who)
    config = TaskPromptsConfig(
        loop=LoopConfig(
            steps=options.steps,
            learning_rate=_RATES[options.trains] if options.learning_rate is None else options.learning_rate,
            batch_size=options.batch_size,
            accumulation=options.accumulation,
            warmup_steps=options.warmup_steps,
            decay_steps=options.decay_steps,
            average_decay=options.average_decay,
            max_grad_norm=options.max_grad_norm,
            weight_decay=0.0 if options.trains == "prompts" else 1e-2,
            checkpoint_every=options.checkpoint_every,
        ),
        trains=options.trains,
        prompt_learning_rate=options.prompt_learning_rate,
        init_word=options.init_word,
        mixture=Mixture(spares_objects=options.spares_objects, borrowed=options.borrowed, worded=options.worded),
        lora_rank=options.lora_rank,
        offset_noise=options.offset_noise,
        timestep_power=options.timestep_power,
        snr_gamma=options.snr_gamma,
        resolution=options.resolution,
        seed=options.seed,
        precision=options.precision,
        gradient_checkpointing=options.gradient_checkpointing,
        validate_every=options.validate_every,
        tensorboard=options.tensorboard,
    )
    pictures = _scenes() if options.pictures == SCENES else read_masked_pictures(options.pictures, who=who)
    inpaints = options.trains == "prompts" and options.model in EMBEDDED_MODELS
    made = prepare(options, who=who, load=load_inpainting if inpaints else load_pipeline)
    if options.trains == "prompts" and made.pipe.unet.config.in_channels == made.pipe.vae.config.latent_channels:
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
    if options.trains in ("lora", "residuals"):
        _fuse(pipe.unet)
    if options.trains != "prompts":
        pipe.unet.to(pipe.text_encoder.dtype)  # it was trained in fp32
        with whole_folder(options.out.resolve()) as folder:
            pipe.save_pretrained(folder)
            tasks.save(folder / PROMPTS)
    else:
        tasks.save(options.out / PROMPTS)
    model = options.out if options.trains != "prompts" else options.model
    more = "" if options.trains != "prompts" else f" --task-prompts {options.out / PROMPTS}"
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
