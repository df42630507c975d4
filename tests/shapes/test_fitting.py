"""Training: schedule, checkpoints, and a resumed run that equals a straight one bit by bit."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from weft.shapes.fitting import vae
from weft.shapes.fitting.bank import latent_bank
from weft.shapes.fitting.config import DiffusionConfig, StageConfig, TrainConfig, VaeConfig
from weft.shapes.fitting.diffusion import fit_diffusion, min_snr_weight
from weft.shapes.fitting.export import assemble
from weft.shapes.fitting.loop import fit, learning_rate
from weft.shapes.model import build_vae
from weft.shapes.train import train
from weft.train.checkpoint import Interrupted, load_checkpoint, save_atomically

STAGE = StageConfig(steps=8, batch_size=4, learning_rate=0.1, decay_steps=4, warmup_steps=2, checkpoint_every=3)


@pytest.fixture
def accelerator():
    """An accelerator of our own; the state behind it is global and other tests have theirs."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


class Line(nn.Module):
    """A model small enough to train in a moment."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, x, y):
        return {"loss": (x @ self.weight - y).square().mean()}


def line_batch(samples):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(samples))
    return x, x.sum(-1)


def batch_with_signal_at(stop, number=signal.SIGTERM):
    """Batches of ``line_batch``; asking for the one of step ``stop`` sends the process a signal."""

    def batch_at(samples):
        if samples == stop * STAGE.batch_size:
            os.kill(os.getpid(), number)
        return line_batch(samples)

    return batch_at


def test_learning_rate_warms_up_stays_and_decays():
    config = StageConfig(steps=100, batch_size=1, learning_rate=2.0, decay_steps=20, warmup_steps=10)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[80] == 2.0
    assert rates[81:] == sorted(rates[81:], reverse=True)
    assert 0 < rates[99] < 0.1


def test_decay_from_moves_the_end():
    config = StageConfig(steps=100, batch_size=1, learning_rate=1.0, decay_steps=20, decay_from=30)
    assert (config.decay_start, config.end) == (30, 50)
    assert learning_rate(50, config) == 0.0


def test_min_snr_weight_caps_the_signal_to_noise_ratio():
    alphas_cumprod = torch.tensor([0.9, 0.5, 0.1])
    assert min_snr_weight(alphas_cumprod, 5.0).tolist() == pytest.approx([5 / 9, 1.0, 1.0])
    assert min_snr_weight(alphas_cumprod, 0.0).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path, accelerator, number):
    straight = fit("line", Line(), line_batch, STAGE, tmp_path / "straight", accelerator)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="stopped at step 5 of 8"):
        fit("line", Line(), batch_with_signal_at(4, number), STAGE, tmp_path / "cut", accelerator)
    assert signal.getsignal(number) is before
    assert load_checkpoint(tmp_path / "cut" / "checkpoint.pt")["step"] == 5

    resumed = fit("line", Line(), line_batch, STAGE, tmp_path / "cut", accelerator)
    assert torch.equal(straight.weight, resumed.weight)
    ends = [load_checkpoint(tmp_path / name / "checkpoint.pt")["model"]["weight"] for name in ("straight", "cut")]
    assert torch.equal(*ends)


def test_a_finished_stage_trains_no_further(tmp_path, accelerator):
    once = fit("line", Line(), line_batch, STAGE, tmp_path, accelerator)
    again = fit("line", Line(), batch_with_signal_at(0), STAGE, tmp_path, accelerator)
    assert torch.equal(once.weight, again.weight)


def test_a_step_without_finite_gradients_is_skipped_and_counted(tmp_path, accelerator):
    def batch_at(samples):
        x, y = line_batch(samples)
        return x, y * (float("nan") if samples == 3 * STAGE.batch_size else 1.0)

    average = fit("line", Line(), batch_at, STAGE, tmp_path, accelerator)
    assert torch.isfinite(average.weight).all()
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["skipped"] == 1


def test_the_configuration_is_written_before_the_first_step(tmp_path, accelerator):
    def batch_at(samples):
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        fit("line", Line(), batch_at, STAGE, tmp_path, accelerator)
    assert json.loads((tmp_path / "config.json").read_text())["learning_rate"] == 0.1


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


def test_diffusion_resumes_bit_identically_and_leaves_a_loadable_model(run_with_vae, accelerator):
    config = DiffusionConfig(steps=4, batch_size=2, decay_steps=2, warmup_steps=1, bank_size=8)
    path = run_with_vae / "diffusion" / "checkpoint.pt"
    fit_diffusion(replace(config, decay_from=0), 0, run_with_vae, accelerator)  # two steps, all of them decay
    path.unlink()

    fit_diffusion(config, 0, run_with_vae, accelerator)
    straight = load_checkpoint(path)
    path.unlink()
    for end in (2, 4):
        # the learning rate must not know where a run is cut
        fit_diffusion(replace(config, decay_steps=end - 2, decay_from=2), 0, run_with_vae, accelerator)
    resumed = load_checkpoint(path)
    for part in ("model", "average"):
        assert all(torch.equal(straight[part][name], resumed[part][name]) for name in straight[part])

    (image,) = assemble(run_with_vae)("a red circle", num_inference_steps=1, output_type="np").images
    assert image.shape == (64, 64, 3)


def test_bank_is_read_back_and_made_again_when_its_size_changes(tmp_path):
    model, path = build_vae(), tmp_path / "bank.pt"
    first = latent_bank(model, 0, 4, path)
    with torch.no_grad():
        model.encoder.conv_in.weight.zero_()
    assert torch.equal(latent_bank(model, 0, 4, path).mean, first.mean)
    assert len(latent_bank(model, 0, 6, path).mean) == 6


def test_train_runs_every_stage_to_a_stock_folder(tmp_path, accelerator, monkeypatch):
    monkeypatch.setattr(vae, "SCALE_SCENES", 64)
    tiny = {"steps": 1, "batch_size": 2, "decay_steps": 1}
    config = TrainConfig(
        run=tmp_path,
        precision="no",
        cpu=True,
        vae=VaeConfig(**tiny),
        diffusion=DiffusionConfig(**tiny, bank_size=4),
    )
    train(config)
    assert (tmp_path / "pipeline" / "model_index.json").is_file()
    record = json.loads((tmp_path / "pipeline" / "training.json").read_text())
    assert record["diffusion"]["last"]["step"] == 1


def test_export_without_a_trained_run_says_so(tmp_path, accelerator):
    with pytest.raises(FileNotFoundError, match="run those stages first"):
        train(TrainConfig(run=tmp_path, stages=("export",), precision="no", cpu=True))


def test_diffusion_without_a_vae_says_so(tmp_path, accelerator):
    with pytest.raises(FileNotFoundError, match="run the vae stage first"):
        train(TrainConfig(run=tmp_path, stages=("diffusion",), precision="no", cpu=True))
