"""Stage three: the averaged weights as a stock pipeline folder, in half precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline

from ..load import open_pipeline
from ..model import build_flow_scheduler, build_scheduler, build_text_encoder, build_transformer, build_unet
from ..shipped import PROMPTS, Model
from ..tokenizer import SHORT_LENGTH, build_tokenizer
from .diffusion import DiffusionObjective
from .flow import flow_objective
from .plain_vae import PLAIN
from .stage import averaged_from

# the stages that made a model, and their folders; the last one trained the denoiser
STAGES_OF: dict[Model, tuple[str, ...]] = {
    "sd1": ("vae", "diffusion"),
    "sd3": ("vae", "flow"),
    "inpainting": (PLAIN, "inpainting"),
}
# parts that are stored in fp16
HALVED: dict[Model, tuple[str, ...]] = {
    "sd1": ("unet", "vae"),
    "sd3": ("transformer", "vae", "text_encoder", "text_encoder_2"),
    "inpainting": ("unet", "vae", "text_encoder"),
}


def assemble(run: Path, model: Model = "sd1") -> DiffusionPipeline:
    """The pipeline of a run, in fp32 and with averaged weights: of the latest checkpoint, or of a finished inpainting.

    Raises:
        FileNotFoundError: The run has no trained autoencoder or no checkpoint of the denoiser yet.
    """
    if model == "inpainting":
        return open_pipeline(_finished_inpainting(run))
    if not (run / "vae" / "model").is_dir():
        raise FileNotFoundError(f"export: no autoencoder in {run / 'vae' / 'model'}; run the vae stage first")
    return (_assemble_sd1 if model == "sd1" else _assemble_sd3)(run)


def _finished_inpainting(run: Path) -> Path:
    folder = run / STAGES_OF["inpainting"][-1] / "model"
    if not (folder / PROMPTS).is_file():
        raise FileNotFoundError(f"export: no pipeline in {folder}; finish the diffusion stage first")
    return folder


def _assemble_sd1(run: Path) -> StableDiffusionPipeline:
    tokenizer = build_tokenizer()
    objective = DiffusionObjective(build_unet(), build_text_encoder(tokenizer), snr_gamma=0.0)
    averaged_from(objective, run / STAGES_OF["sd1"][-1])
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(run / "vae" / "model"),
        text_encoder=objective.text_encoder,
        tokenizer=tokenizer,
        unet=objective.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _assemble_sd3(run: Path) -> StableDiffusion3Pipeline:
    tokenizer = build_tokenizer(SHORT_LENGTH)
    objective = averaged_from(flow_objective(tokenizer), run / STAGES_OF["sd3"][-1])
    transformer = build_transformer()  # with the stock attention
    transformer.load_state_dict(objective.transformer.state_dict())
    vae = AutoencoderKL.from_pretrained(run / "vae" / "model")
    vae.register_to_config(shift_factor=0.0)  # the pipeline adds it to the latents
    return StableDiffusion3Pipeline(
        vae=vae,
        text_encoder=objective.text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=objective.text_encoder_2,
        tokenizer_2=build_tokenizer(SHORT_LENGTH),
        text_encoder_3=None,
        tokenizer_3=None,
        transformer=transformer.eval(),
        scheduler=build_flow_scheduler(),
    )


def export(run: Path, target: Path, model: Model = "sd1") -> None:
    """Write the pipeline of ``run`` to ``target`` as safetensors, with ``training.json`` beside it.

    All weights are stored in fp16, but for the text encoder of "sd1". Text encoders are marked as fp32 even so: when
    no dtype is asked for, diffusers loads its own models in fp32 but transformers 5 keeps the dtype that the
    configuration names, and the two would not fit together.
    """
    pipe = assemble(run, model)
    for name in HALVED[model]:
        getattr(pipe, name).half()
    pipe.save_pretrained(target, safe_serialization=True)
    if model == "inpainting":
        shutil.copyfile(_finished_inpainting(run) / PROMPTS, target / PROMPTS)
    for folder in target.glob("text_encoder*"):
        config = json.loads((folder / "config.json").read_text())
        config = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": "float32"}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for folder in target.glob("tokenizer*"):
        # transformers 4 reads these two instead of tokenizer.json
        pipe.tokenizer.backend_tokenizer.model.save(str(folder))
    for path in target.rglob("*.safetensors"):
        path.chmod(0o644)  # the writer leaves them readable by their owner alone
    (target / "training.json").write_text(json.dumps(record(run, model), indent=2) + "\n")


def record(run: Path, model: Model) -> dict[str, Any]:
    """What made a model: for each stage its configuration and the last line of its log."""
    stages = {}
    for stage in STAGES_OF[model]:
        config = json.loads((run / stage / "config.json").read_text())
        last = json.loads((run / stage / "log.jsonl").read_text().splitlines()[-1])
        stages[stage] = {"config": config, "last": last}
    return stages
