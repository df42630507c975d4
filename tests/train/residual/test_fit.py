"""``fit_residual`` on tiny pipelines: what is trained, what is left as it was, how it resumes, what it refuses."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler, UNet2DConditionModel
from PIL import Image

import weft
from weft.attach import TextStates, resolve
from weft.attach.projections import GatedProjection, GatedProjections
from weft.testing import assert_differs
from weft.train.core.config import LoopConfig
from weft.train.diffusion.latents import denoising_target, training_scheduler
from weft.train.residual import ResidualConfig, fit_residual
from weft.train.residual.objective import ResidualObjective

CONFIG = ResidualConfig(
    loop=LoopConfig(steps=4, learning_rate=1e-2, batch_size=2, checkpoint_every=2), rank_share=0.25, precision="no"
)


def pictures(count: int = 3) -> list[Image.Image]:
    return [Image.new("RGB", (40, 36), (60 * number, 200, 30)) for number in range(count)]


def fitted(pipe: Any, changes: Any = None, **run: Any) -> weft.Residual:
    return fit_residual(pipe, run.pop("images", pictures()), "ball", config=replace(CONFIG, **(changes or {})), **run)


def flat(residual: weft.Residual) -> torch.Tensor:
    return torch.cat([residual.up[name].flatten() for name in sorted(residual.up)])


def equal(one: weft.Residual, other: weft.Residual) -> bool:
    return all(torch.equal(one.up[name], other.up[name]) for name in one.up) and all(
        torch.equal(one.down[name], other.down[name]) for name in one.down
    )


def meta_unet(**changes: Any) -> Any:
    with torch.device("meta"):
        return UNet2DConditionModel(**changes)


# block_out_channels, layers_per_block and the rest of SD1.x are the defaults of diffusers
SD1 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
}


@pytest.mark.parametrize(
    ("config", "layers", "count"), [(SD1, 16, 1_239_040), (SDXL, 11, 1_187_840)], ids=["sd1", "sdxl"]
)
def test_the_number_of_parameters_is_the_papers(config: dict[str, Any], layers: int, count: int) -> None:
    unet = meta_unet(**config)
    text = TextStates(torch.zeros(1, 77, 8), None)
    with GatedProjections(unet) as projections:
        objective = ResidualObjective(unet, projections, None, text)
    objective.denoiser.requires_grad_(False)
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in trained) == count
    assert len(objective.infos) == layers
    assert {info.width: objective.rank(info) for info in objective.infos}.items() <= {
        320: 16,
        640: 32,
        1280: 64,
    }.items()


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_learns_and_leaves_the_model_as_it_was(kind: str, tmp_path: Path) -> None:
    pipe = tiny.build(kind, tmp_path)
    state = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    required = [parameter.requires_grad for parameter in pipe.unet.parameters()]
    types = [type(module) for module in pipe.unet.modules()]
    residual = fitted(pipe)
    assert all(torch.equal(value, state[name]) for name, value in pipe.unet.state_dict().items())
    assert [parameter.requires_grad for parameter in pipe.unet.parameters()] == required
    assert [type(module) for module in pipe.unet.modules()] == types
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())
    assert min(up.abs().max() for up in residual.up.values()) > 1e-4, "every layer has learnt"
    assert residual.phrase == "V* ball"
    assert residual.check_fits(pipe).name == residual.base_name == "unnamed"
    assert residual.ranks["mid_block.attentions.0.proj_out"] == 8


def test_the_loss_goes_down(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    loop = LoopConfig(steps=60, learning_rate=1e-2, batch_size=4, log_every=1, checkpoint_every=60)
    fitted(pipe, {"loop": loop}, folder=tmp_path / "run")
    rows = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(row)["loss"] for row in rows]
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])


@pytest.mark.parametrize(("init", "is_base"), [("lora", True), ("random", False)])
def test_where_training_starts(init: Any, is_base: bool, tmp_path: Path) -> None:
    """With "lora" the model's output has the bits of the base before the first step."""
    pipe = tiny.sd1(tmp_path)

    def predict() -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        sample, text = torch.randn(1, 4, 16, 16, generator=generator), torch.randn(1, 7, 32, generator=generator)
        with torch.no_grad():
            return pipe.unet(sample, 500, text).sample

    stock = predict()
    text = resolve(pipe).encode_captions(["a red ball"])
    with GatedProjections(pipe.unet) as projections:
        objective = ResidualObjective(pipe.unet, projections, None, text, init=init, rank_share=0.25)
        assert torch.equal(predict(), stock) == is_base
    down, up = objective.factors()
    assert all(bool((value == 0).all()) == is_base for value in up.values())
    assert all((value != 0).all() for value in down.values())


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    assert equal(fitted(pipe), fitted(pipe))
    assert_differs(flat(fitted(pipe)), flat(fitted(pipe, {"seed": 1})))


def test_sigterm_and_resume_give_the_bits_of_a_straight_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny.sd1(tmp_path)
    straight = fitted(pipe)
    forward = ResidualObjective.forward
    calls = []

    def forward_with_signal(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(*args)

    monkeypatch.setattr(ResidualObjective, "forward", forward_with_signal)
    with pytest.raises(weft.train.Interrupted, match="stopped at step 3 of 4"):
        fitted(pipe, folder=tmp_path / "run")
    assert not any(isinstance(module, GatedProjection) for module in pipe.unet.modules()), "it is given back"
    resumed = fitted(pipe, folder=tmp_path / "run", resume=True)
    assert equal(straight, resumed)


def test_a_run_of_other_pictures_is_not_resumed(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    fitted(pipe, folder=tmp_path / "run")
    with pytest.raises(ValueError, match="is of another run: `images` was"):
        fitted(pipe, folder=tmp_path / "run", resume=True, images=pictures(2))


def test_gradient_checkpointing_changes_no_result(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    plain, saving = fitted(pipe), fitted(pipe, {"gradient_checkpointing": True})
    assert not pipe.unet.is_gradient_checkpointing
    for name, up in plain.up.items():
        torch.testing.assert_close(saving.up[name], up, atol=1e-4, rtol=1e-3)


def test_half_precision_trains(tmp_path: Path) -> None:
    """bf16 compute, and bf16 weights of the base; the factors stay fp32."""
    pipe = tiny.sd1(tmp_path)
    exact = fitted(pipe)
    AcceleratorState._reset_state(reset_partial_state=True)  # it knows one precision a process
    mixed = fitted(pipe, {"precision": "bf16"})
    pipe.to(torch.bfloat16)
    half = fitted(pipe, {"precision": "bf16"})
    for residual in (mixed, half):
        assert all(up.dtype == torch.float32 and up.isfinite().all() for up in residual.up.values())
        angles = [torch.cosine_similarity(residual.up[n].flatten(), up.flatten(), 0) for n, up in exact.up.items()]
        assert min(angles) > 0.7


def test_validation_pictures_and_tensorboard(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    changes = {
        "validate_every": 2,
        "validation_prompts": ("a red {identifier} {class_word}", "a {blue} square"),
        "validation_steps": 2,
        "tensorboard": True,
    }
    residual = fitted(pipe, changes, folder=tmp_path / "run")
    found = sorted(path.name for path in (tmp_path / "run" / "validation").iterdir())
    assert found == [f"step{step:05d}-{number}.png" for step in (2, 4) for number in (0, 1)]
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
    assert equal(residual, fitted(pipe)), "looking changes nothing"


def test_tensorboard_that_is_not_installed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs its package: pip install tensorboard"):
        fitted(tiny.sd1(tmp_path), {"tensorboard": True}, folder=tmp_path / "run")


def test_crops_and_mirror_images_are_used(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    assert_differs(flat(fitted(pipe)), flat(fitted(pipe, {"crops": 2, "flip": True})))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_target_is_what_the_base_model_predicts(prediction: str) -> None:
    scheduler = DDPMScheduler(prediction_type=prediction)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([10, 900])
    noisy, target = (
        scheduler.add_noise(latents, noise, timesteps),
        denoising_target(scheduler, latents, noise, timesteps),
    )
    # whatever is predicted, the scheduler finds the clean latents from it
    for row, timestep in enumerate(timesteps):
        found = scheduler.step(target[row], int(timestep), noisy[row]).pred_original_sample
        torch.testing.assert_close(found, latents[row].clamp(-1, 1), atol=1e-3, rtol=1e-3)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_bad_input_is_one_clear_error(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        fitted(pipe, images=empty)
    with pytest.raises(ValueError, match=r"too small: 5 x 9 pixels for a model of 32 x 32"):
        fitted(pipe, images=[Image.new("RGB", (5, 9))])
    for word in ("", " ", "é"):
        with pytest.raises(ValueError, match=r"`class_word` must be text that the model's tokenizer knows; .*another"):
            fit_residual(pipe, pictures(), word, config=CONFIG)
    with pytest.raises(ValueError, match="`identifier` must be text that the model's tokenizer knows"):
        fit_residual(pipe, pictures(), "ball", "", config=CONFIG)
    with pytest.raises(ValueError, match=r"must fit the text encoder's 16 tokens.* is longer; use a shorter one"):
        fit_residual(pipe, pictures(), "a very long name of a ball", config=CONFIG)
    with pytest.raises(TypeError, match="needs a pipeline, for its text encoder; got UNet2DConditionModel"):
        fit_residual(pipe.unet, pictures(), "ball", config=CONFIG)
    with pytest.raises(ValueError, match="takes the 4 channels of a latent; this one takes 9, as for inpainting"):
        fit_residual(tiny.inpaint(tmp_path), pictures(), "ball", config=CONFIG)
    with pytest.raises(ValueError, match="to resume, give the folder of the run"):
        fitted(pipe, resume=True)
    with pytest.raises(ValueError, match="is taken over already"), GatedProjections(pipe.unet):
        fitted(pipe)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crops": 0}, "`crops` must be at least 1; got 0"),
        ({"rank_share": 0.0}, "`rank_share` must be above 0"),
        ({"init": "zeros"}, "`init` must be 'lora' or 'random'; got 'zeros'"),
        ({"resolution": 30}, "`resolution` must be a multiple of 8"),
        ({"validate_every": 2}, "validation pictures and tensorboard logs need `folder`"),
        ({"validate_every": 0}, "`validate_every` must be at least 1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_options_are_checked_first(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(tiny.sd1(tmp_path), changes, images=tmp_path / "never looked at")


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tiny.sd1(tmp_path)
    forward, calls = ResidualObjective.forward, []

    def forward_with_nan(*args: Any) -> Any:
        calls.append(1)
        return {name: loss * (float("nan") if len(calls) == 4 else 1.0) for name, loss in forward(*args).items()}

    monkeypatch.setattr(ResidualObjective, "forward", forward_with_nan)
    with pytest.raises(weft.train.Diverged, match=r"the loss is nan at step 4; .* keeps step 2; resume from there"):
        fitted(pipe, folder=tmp_path / "run")
    monkeypatch.undo()
    assert equal(fitted(pipe, folder=tmp_path / "run", resume=True), fitted(pipe))


def test_another_kind_of_schedule_is_refused(tmp_path: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipe = tiny.sd1(tmp_path)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match=r"epsilon, v or sample prediction; FlowMatchEulerDiscreteScheduler"):
        training_scheduler(pipe)
