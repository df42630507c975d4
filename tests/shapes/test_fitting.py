"""Training the models: what a stage makes of the shared loop, from the first latent to a folder of stock parts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, DiffusionPipeline
from PIL import Image

from weft.methods.powerpaint.prompts import TaskPrompts
from weft.shapes.fitting import vae
from weft.shapes.fitting.bank import latent_bank
from weft.shapes.fitting.config import (
    DiffusionConfig,
    FlowConfig,
    InpaintingConfig,
    PlainConfig,
    TrainConfig,
    VaeConfig,
)
from weft.shapes.fitting.diffusion import fit_diffusion
from weft.shapes.fitting.export import assemble
from weft.shapes.fitting.flow import fit_flow
from weft.shapes.fitting.plain_vae import free_cells
from weft.shapes.fitting.vae import images_of_scenes
from weft.shapes.load import pipeline
from weft.shapes.model import build_vae
from weft.shapes.train import train
from weft.shapes.world import scene
from weft.testing import assert_differs
from weft.train.core.checkpoint import load_checkpoint, save_atomically


@pytest.fixture
def accelerator():
    """An accelerator of our own; the state behind it is global and other tests have theirs."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_atomically({"step": 1}, path)

    def half_written(state, target):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(OSError, match="disk full"):
        save_atomically({"step": 2}, path)
    assert load_checkpoint(path) == {"step": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.fixture
def run_with_vae(tmp_path):
    """A run folder whose first stage is done; the weights are random."""
    torch.manual_seed(0)
    build_vae().save_pretrained(tmp_path / "vae" / "model")
    return tmp_path


@pytest.mark.parametrize(
    ("model", "fit", "kind", "stage"),
    [("sd1", fit_diffusion, DiffusionConfig, "diffusion"), ("sd3", fit_flow, FlowConfig, "flow")],
)
def test_a_denoiser_resumes_bit_identically_and_leaves_a_loadable_model(
    run_with_vae, accelerator, model, fit, kind, stage
):
    config = kind(steps=4, batch_size=2, decay_steps=2, warmup_steps=1, bank_size=8)
    path = run_with_vae / stage / "checkpoint.pt"
    fit(replace(config, decay_from=0), 0, run_with_vae, accelerator)  # two steps, all of them decay
    path.unlink()

    fit(config, 0, run_with_vae, accelerator)
    straight = load_checkpoint(path)
    path.unlink()
    for end in (2, 4):
        # the learning rate must not know where a run is cut
        fit(replace(config, decay_steps=end - 2, decay_from=2), 0, run_with_vae, accelerator)
    resumed = load_checkpoint(path)
    for part in ("parameters", "average"):
        assert all(torch.equal(straight[part][name], resumed[part][name]) for name in straight[part])

    (image,) = assemble(run_with_vae, model)("a red circle", num_inference_steps=1, output_type="np").images
    assert image.shape == (64, 64, 3)


def test_a_run_does_not_go_on_with_another_seed(run_with_vae, accelerator):
    config = DiffusionConfig(steps=1, batch_size=2, decay_steps=1, bank_size=8)
    fit_diffusion(config, 0, run_with_vae, accelerator)
    with pytest.raises(ValueError, match="of another run: `seed` was 0, is 1"):
        fit_diffusion(config, 1, run_with_vae, accelerator)


def test_stages_need_an_average(run_with_vae, accelerator):
    config = DiffusionConfig(steps=1, batch_size=2, decay_steps=1, bank_size=8, average_decay=0.0)
    with pytest.raises(ValueError, match="`average_decay` must be above 0"):
        fit_diffusion(config, 0, run_with_vae, accelerator)


def test_bank_is_read_back_and_made_again_when_its_size_changes(tmp_path):
    model, path = build_vae(), tmp_path / "bank.pt"
    first = latent_bank(model, 0, 4, path)
    with torch.no_grad():
        model.encoder.conv_in.weight.zero_()
    assert torch.equal(latent_bank(model, 0, 4, path).mean, first.mean)
    assert len(latent_bank(model, 0, 6, path).mean) == 6


def test_the_inpainting_model_starts_from_the_shipped_one_and_leaves_its_prompts(tmp_path, accelerator):
    config = InpaintingConfig(steps=2, batch_size=2, decay_steps=1, warmup_steps=1, scenes=8)
    plain = PlainConfig(steps=1, batch_size=2, decay_steps=0, warmup_steps=0)
    train(TrainConfig(run=tmp_path, model="inpainting", precision="no", cpu=True, plain=plain, inpainting=config))
    record = json.loads((tmp_path / "inpainting" / "training.json").read_text())
    assert (record["plain"]["last"]["step"], record["inpainting"]["last"]["step"]) == (1, 2)
    moved = AutoencoderKL.from_pretrained(tmp_path / "plain" / "model").encoder.conv_in.weight
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "inpainting")
    torch.testing.assert_close(pipe.vae.encoder.conv_in.weight, moved, atol=1e-3, rtol=1e-3)
    assert_differs(pipe.vae.encoder.conv_in.weight, pipeline().vae.encoder.conv_in.weight)
    tasks = TaskPrompts.load(tmp_path / "inpainting")
    picture = Image.new("RGB", (64, 64), (40, 40, 60))
    mask = Image.fromarray(np.pad(np.full((16, 16), 255, np.uint8), 24))
    painted = tasks.inpaint(pipe, picture, mask, num_inference_steps=2)
    assert (np.asarray(painted)[:16] == np.asarray(picture)[:16]).all()


def test_an_inpainting_model_needs_its_autoencoder(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the vae stage first"):
        train(TrainConfig(run=tmp_path, model="inpainting", stages=("diffusion",), precision="no", cpu=True))


def test_cells_that_no_object_reaches_look_like_the_background():
    """To the shipped encoder, up to the spread of its posterior: what the plain background is taught to look like."""
    drawn = scene(0, 0)
    free = free_cells(drawn)
    other = replace(drawn, objects=drawn.objects[:1])
    encode = pipeline().vae.encode
    with torch.no_grad():
        one, two = (
            encode(images).latent_dist.mean[0] for images in (images_of_scenes([drawn]), images_of_scenes([other]))
        )
    assert 0 < free.mean() < 1 and free_cells(other).mean() >= free.mean()
    assert ((one - two).abs() * free).mean() < 0.5 * ((one - two).abs() * (1 - free)).mean()


def test_an_inpainting_model_that_is_not_finished_is_not_exported(tmp_path):
    with pytest.raises(FileNotFoundError, match="finish the diffusion stage first"):
        assemble(tmp_path, "inpainting")


@pytest.mark.parametrize(("model", "stage"), [("sd1", "diffusion"), ("sd3", "flow")])
def test_train_runs_every_stage_to_a_stock_folder(tmp_path, accelerator, monkeypatch, model, stage):
    monkeypatch.setattr(vae, "SCALE_SCENES", 64)
    tiny = {"steps": 1, "batch_size": 2, "decay_steps": 1}
    config = TrainConfig(
        run=tmp_path,
        model=model,
        precision="no",
        cpu=True,
        vae=VaeConfig(**tiny),
        diffusion=DiffusionConfig(**tiny, bank_size=4),
        flow=FlowConfig(**tiny, bank_size=4),
    )
    train(config)
    record = json.loads((tmp_path / model / "training.json").read_text())
    assert {record[part]["last"]["step"] for part in ("vae", stage)} == {1}
    absent = {} if model == "sd1" else {"text_encoder_3": None, "tokenizer_3": None}
    # no dtype asked for: all parts must agree on one
    pipe = DiffusionPipeline.from_pretrained(tmp_path / model, **absent)
    (image,) = pipe("a red circle", num_inference_steps=1, output_type="np").images
    assert image.shape == (64, 64, 3)


@pytest.mark.parametrize("model", ["sd1", "sd3"])
@pytest.mark.parametrize("stage", ["diffusion", "export"])
def test_a_stage_without_a_vae_says_so(tmp_path, accelerator, model, stage):
    with pytest.raises(FileNotFoundError, match="run the vae stage first"):
        train(TrainConfig(run=tmp_path, model=model, stages=(stage,), precision="no", cpu=True))


@pytest.mark.parametrize("model", ["sd1", "sd3"])
def test_export_without_a_trained_denoiser_says_so(run_with_vae, accelerator, model):
    with pytest.raises(FileNotFoundError, match="train the diffusion stage first"):
        train(TrainConfig(run=run_with_vae, model=model, stages=("export",), precision="no", cpu=True))
