"""Stage three: the averaged weights as a stock pipeline folder, in half precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, StableDiffusionPipeline

from weft.train.checkpoint import load_checkpoint

from ..model import build_scheduler, build_text_encoder, build_unet
from ..tokenizer import build_tokenizer
from .diffusion import DiffusionObjective


def assemble(run: Path) -> StableDiffusionPipeline:
    """The pipeline of a run's latest checkpoint, in fp32 and with averaged weights.

    Raises:
        FileNotFoundError: The run has no trained autoencoder or no diffusion checkpoint yet.
    """
    saved = load_checkpoint(run / "diffusion" / "checkpoint.pt")
    if saved is None or not (run / "vae" / "model").is_dir():
        raise FileNotFoundError(f"export: {run} holds no trained vae and diffusion stages; run those stages first")
    tokenizer = build_tokenizer()
    objective = DiffusionObjective(build_unet(), build_text_encoder(tokenizer), snr_gamma=0.0)
    objective.load_state_dict(saved["average"])
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(run / "vae" / "model"),
        text_encoder=objective.text_encoder.eval(),
        tokenizer=tokenizer,
        unet=objective.unet.eval(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(run: Path, target: Path) -> None:
    """Write the pipeline of ``run`` to ``target`` as safetensors, with ``training.json`` beside it.

    UNet and autoencoder are stored in fp16. The text encoder stays fp32: when no dtype is asked for, diffusers
    loads its own models in fp32 but transformers 5 keeps the stored dtype, and the two would not fit together.
    """
    pipe = assemble(run)
    pipe.unet.half()
    pipe.vae.half()
    pipe.save_pretrained(target, safe_serialization=True)
    # transformers 4 reads these two instead of tokenizer.json
    pipe.tokenizer.backend_tokenizer.model.save(str(target / "tokenizer"))
    for path in target.rglob("*.safetensors"):
        path.chmod(0o644)  # the writer leaves them readable by their owner alone
    (target / "training.json").write_text(json.dumps(record(run), indent=2) + "\n")


def record(run: Path) -> dict[str, Any]:
    """What made a model: for each stage its configuration and the last line of its log."""
    stages = {}
    for stage in ("vae", "diffusion"):
        config = json.loads((run / stage / "config.json").read_text())
        last = json.loads((run / stage / "log.jsonl").read_text().splitlines()[-1])
        stages[stage] = {"config": config, "last": last}
    return stages
