"""Stage two of "inpainting": the shipped UNet with five more channels learns five tasks, and the prompts name them."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from diffusers import AutoencoderKL

from weft._files import whole_folder
from weft.train.core import Sampling
from weft.train.task_prompts import Mixture, TaskPromptsConfig, fit_task_prompts, inpainting_pipeline

from ..load import pipeline
from ..masked_scenes import MaskedScenes
from ..shipped import PROMPTS
from .config import InpaintingConfig
from .plain_vae import PLAIN

NAME = "shapes inpainting"  # of the model, in the file of its prompts

# what it is measured with; with the guidance of the published recipes, 7.5 and 10, less is removed
SAMPLING = Sampling(guidance_scale=3.0, num_inference_steps=15, sampler="DDIMScheduler")


def fit_inpainting(config: InpaintingConfig, seed: int, run: Path, accelerator: Accelerator) -> None:
    """Train UNet and prompts; ``run``/inpainting/model is then a pipeline's folder with the prompts in it, in fp32.

    Raises:
        FileNotFoundError: The text-to-image model that it starts from is not installed, or the autoencoder is not
            trained yet.
        Interrupted: See ``fit``.
    """
    folder, plain = run / "inpainting", run / PLAIN / "model"
    if not plain.is_dir():
        raise FileNotFoundError(f"inpainting: no autoencoder in {plain}; run the vae stage first")
    pipe = inpainting_pipeline(pipeline("sd1"))
    pipe.vae = AutoencoderKL.from_pretrained(plain).to(accelerator.device)
    tasks = fit_task_prompts(
        pipe,
        MaskedScenes(config.scenes, seed, backgrounds=config.backgrounds),
        config=TaskPromptsConfig(
            loop=config,
            trains="unet",
            offset_noise=config.offset_noise,
            timestep_power=config.timestep_power,
            snr_gamma=config.snr_gamma,
            mixture=Mixture(
                shares=dict(config.shares), spares_objects=True, borrowed=config.borrowed, worded=config.worded
            ),
            seed=seed,
            sampling=SAMPLING,
        ),
        folder=folder,
        resume=True,
        accelerator=accelerator,
        base_name=NAME,
    )
    if accelerator.is_main_process:
        with whole_folder(folder / "model") as made:
            pipe.save_pretrained(made)
            tasks.save(made / PROMPTS)
