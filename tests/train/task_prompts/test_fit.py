"""``fit_task_prompts`` on tiny pipelines: what learns, what stays as it was, how it resumes, what it refuses."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from PIL import Image
from torch import Tensor

import weft
from weft import shapes
from weft.attach.text.learnt_words import LearntText, encode
from weft.methods.powerpaint.recipes import NAMES
from weft.testing import assert_differs
from weft.train.core.config import LoopConfig
from weft.train.diffusion.latents import min_snr_weight, training_scheduler
from weft.train.task_prompts.config import TaskPromptsConfig
from weft.train.task_prompts.examples import Examples, LearntPrompt, MaskedBatches
from weft.train.task_prompts.fit import ADAPTER, fit_task_prompts, starting_vectors
from weft.train.task_prompts.mixture import Mixture
from weft.train.task_prompts.objective import TaskPromptsObjective
from weft.train.task_prompts.unet import inpainting_pipeline, widened

SCENES = shapes.MaskedScenes(40)
CONFIG = TaskPromptsConfig(
    loop=LoopConfig(steps=4, learning_rate=1e-3, batch_size=3, checkpoint_every=2), count=4, precision="no"
)


def fitted(pipe: Any, changes: Any = None, **run: Any) -> weft.TaskPrompts:
    return fit_task_prompts(pipe, run.pop("pictures", SCENES), config=replace(CONFIG, **(changes or {})), **run)


def equal(one: weft.TaskPrompts, other: weft.TaskPrompts) -> bool:
    return all(
        torch.equal(a, b) for name in NAMES for a, b in zip(one.vectors[name], other.vectors[name], strict=True)
    )


def state_of(module: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def is_same(module: Any, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def sdxl(folder: Path) -> Any:
    pipe = tiny.sdxl(folder, StableDiffusionXLInpaintPipeline)
    pipe.unet = tiny.unet({**tiny.SDXL, "in_channels": 9})
    return pipe


def objective(pipe: Any, **changes: Any) -> TaskPromptsObjective:
    empty = LearntPrompt("", None)
    return TaskPromptsObjective(
        pipe, training_scheduler(pipe), starting_vectors(pipe, CONFIG), lambda number: empty, **changes
    )


@pytest.mark.parametrize("build", [tiny.inpaint, sdxl])
def test_prompts_alone(build: Any, tmp_path: Path) -> None:
    pipe = build(tmp_path / "pipe")
    parts = {name: state_of(getattr(pipe, name)) for name in ("unet", "text_encoder", "vae")}
    required = [parameter.requires_grad for parameter in pipe.unet.parameters()]
    start = starting_vectors(pipe, CONFIG)
    tasks = fitted(pipe, base_name="tiny")
    assert all(is_same(getattr(pipe, name), state) for name, state in parts.items()), "all else has the same bits"
    assert [parameter.requires_grad for parameter in pipe.unet.parameters()] == required
    for name in NAMES:
        assert [mine.shape for mine in tasks.vectors[name]] == [mine.shape for mine in start[name]]
        for learnt, begun in zip(tasks.vectors[name], start[name], strict=True):
            assert_differs(learnt, begun)
    assert (tasks.base_name, tasks.placement, tasks.init) == ("tiny", "after", "'a' + N(0, 0.02^2)")
    with weft.attach(pipe, tasks):
        assert tasks.removal(words="")["prompt_embeds"].isfinite().all()


def test_batches_without_prompts_teach_nothing(tmp_path: Path) -> None:
    pipe = tiny.inpaint(tmp_path / "pipe")
    tasks = fitted(pipe, {"mixture": Mixture(shares={"context": 1.0}, dropout=1.0)})
    start = starting_vectors(pipe, CONFIG)
    assert all(torch.equal(tasks.vectors[name][0], start[name][0]) for name in NAMES)


def test_the_number_of_parameters_is_the_papers() -> None:
    pipe = inpainting_pipeline(shapes.pipeline())
    pipe.unet.requires_grad_(False)
    made = TaskPromptsObjective(
        pipe, None, {name: (torch.zeros(10, 768),) for name in NAMES}, lambda number: LearntPrompt("", None)
    )
    assert sum(parameter.numel() for parameter in made.parameters() if parameter.requires_grad) == 23_040


def test_vectors_begin_at_their_word(tmp_path: Path) -> None:
    pipe = tiny.inpaint(tmp_path)
    word = pipe.text_encoder.get_input_embeddings().weight[pipe.tokenizer("a").input_ids[1]]
    exact = starting_vectors(pipe, replace(CONFIG, init_std=0.0))
    assert all(torch.equal(row, word) for name in NAMES for row in exact[name][0])
    noisy = torch.cat([starting_vectors(pipe, replace(CONFIG, count=200))[name][0] for name in NAMES]) - word
    assert abs(float(noisy.std()) - 0.02) < 1e-3 and len(noisy.unique(dim=0)) == len(noisy)


def test_the_whole_unet_learns_and_words_do_not(tmp_path: Path) -> None:
    pipe = tiny.inpaint(tmp_path)
    unet, text = state_of(pipe.unet), state_of(pipe.text_encoder)
    fitted(pipe, {"trains": "unet"})
    assert not any(torch.equal(value, unet[name]) for name, value in pipe.unet.state_dict().items())
    assert is_same(pipe.text_encoder, text)


def test_a_run_does_not_go_on_with_another_mixture(tmp_path: Path) -> None:
    pipe = tiny.inpaint(tmp_path)
    fitted(pipe, {}, folder=tmp_path / "run")
    with pytest.raises(ValueError, match="of another run: `mixture` was"):
        fitted(pipe, {"mixture": Mixture(borrowed=0.5)}, folder=tmp_path / "run", resume=True)


@pytest.mark.parametrize(("trains", "adapted"), [("lora", "to_q"), ("residuals", "proj_out")])
def test_factors_are_learnt_and_the_first_convolution(trains: str, adapted: str, tmp_path: Path) -> None:
    pipe = tiny.inpaint(tmp_path)
    unet = state_of(pipe.unet)
    fitted(pipe, {"trains": trains, "lora_rank": 2})
    after = {name.replace(".base_layer", ""): value for name, value in pipe.unet.state_dict().items()}
    changed = {name for name, value in unet.items() if not torch.equal(value, after[name])}
    assert changed == {"conv_in.weight", "conv_in.bias"}
    factors = {name: value for name, value in after.items() if f"lora_B.{ADAPTER}" in name}
    assert max(value.abs().max() for value in factors.values()) > 1e-4
    assert {adapted in name for name in factors} == ({True} if trains == "residuals" else {True, False})
    with pytest.raises(ValueError, match="has an adapter 'task_prompts' already"):
        fitted(pipe, {"trains": trains})


def test_the_rank_of_a_residual_is_a_share_of_its_width(tmp_path: Path) -> None:
    pipe = tiny.inpaint(tmp_path)
    fitted(pipe, {"trains": "residuals", "rank_share": 0.25})
    factors = {name: value for name, value in pipe.unet.state_dict().items() if "proj_out.lora_A" in name}
    assert factors and all(len(value) == value.shape[1] // 4 for value in factors.values())


def test_prompts_learn_at_their_own_rate(tmp_path: Path) -> None:
    """One step of AdamW moves every number by its rate, whatever the rate of the rest."""
    pipe = tiny.inpaint(tmp_path)
    start = starting_vectors(pipe, CONFIG)
    loop = LoopConfig(steps=1, learning_rate=1e-4, batch_size=8, weight_decay=0.0)
    tasks = fitted(pipe, {"loop": loop, "prompt_learning_rate": 1e-2, "trains": "unet"})
    moved = torch.cat([tasks.vectors[name][0] - start[name][0] for name in NAMES]).abs()
    assert abs(float(moved.max()) - 1e-2) < 1e-4


@pytest.mark.parametrize("trains", ["prompts", "unet"])
def test_resuming_ends_with_the_same_bits(trains: Any, tmp_path: Path) -> None:
    straight_pipe, resumed_pipe = tiny.inpaint(tmp_path / "a"), tiny.inpaint(tmp_path / "b")
    straight = fitted(straight_pipe, {"trains": trains})
    half = replace(CONFIG.loop, steps=2)
    fitted(resumed_pipe, {"trains": trains, "loop": half}, folder=tmp_path / "run")
    other = tiny.inpaint(tmp_path / "c")  # the checkpoint has all that is needed
    resumed = fitted(other, {"trains": trains}, folder=tmp_path / "run", resume=True)
    assert equal(straight, resumed) and is_same(other.unet, state_of(straight_pipe.unet))


def test_a_signal_leaves_a_checkpoint(tmp_path: Path) -> None:
    pipe = tiny.inpaint(tmp_path / "pipe")

    class Pictures(shapes.MaskedScenes):
        """Sends the signal from within the loop, where the pictures have been counted already."""

        asked = 0

        def __getitem__(self, index: Any) -> Any:
            self.asked += isinstance(index, int)
            if self.asked == 60:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__getitem__(index)

    loop = replace(CONFIG.loop, steps=50)
    pictures = Pictures(40)
    with pytest.raises(weft.train.Interrupted, match="stopped at step"):
        fitted(pipe, {"loop": loop}, pictures=pictures, folder=tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint.pt").is_file()
    with pytest.raises(ValueError, match="is of an earlier run; resume it"):
        fitted(pipe, {"loop": loop}, folder=tmp_path / "run")
    with pytest.raises(ValueError, match="is of another run: `count` was 4, is 5"):
        fitted(pipe, {"loop": loop, "count": 5}, folder=tmp_path / "run", resume=True)


def test_the_average_is_what_is_given(tmp_path: Path) -> None:
    pipe, plain = tiny.inpaint(tmp_path / "a"), tiny.inpaint(tmp_path / "b")
    averaged = fitted(pipe, {"loop": replace(CONFIG.loop, average_decay=0.9), "trains": "unet"})
    last = fitted(plain, {"trains": "unet"})
    for name in NAMES:
        assert_differs(averaged.vectors[name][0], last.vectors[name][0])
    assert_differs(pipe.unet.conv_in.weight, plain.unet.conv_in.weight)


@pytest.mark.parametrize("build", [tiny.inpaint, sdxl])
def test_a_shape_is_mixed_after_the_encoder_and_its_context_learns_nothing(build: Any, tmp_path: Path) -> None:
    pipe = build(tmp_path)
    made = objective(pipe)
    prompts = [LearntPrompt("red", "shape", 0.25), LearntPrompt("red", "shape"), LearntPrompt("ball", "context")]
    states, pooled = made.conditioning(prompts)
    with torch.no_grad():
        vectors = made.vectors()
        parts = encode(
            pipe,
            [
                LearntText("red", vectors["shape"]),
                LearntText("red", vectors["context"]),
                LearntText("ball", vectors["context"]),
            ],
        )
    assert torch.allclose(states[0], 0.25 * parts.states[0] + 0.75 * parts.states[1], atol=1e-6)
    assert torch.allclose(states[1:], parts.states[[0, 2]], atol=1e-6)
    assert (pooled is None) == (parts.pooled is None)
    # weighted, since a plain sum over the last layer norm is a constant
    (states[0] * torch.randn(states[0].shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for name, moved in made.moved.items():
        largest = 0.0 if moved.grad is None else moved.grad.abs().max().item()
        assert largest > 1e-4 if name.startswith("shape_") else largest == 0, name


def test_long_captions_are_cut_and_their_prompt_is_not(tmp_path: Path) -> None:
    pipe = tiny.inpaint(tmp_path)
    made = objective(pipe)
    long = " ".join(["red"] * 30)
    space = tiny.MAX_LENGTH - 2 - CONFIG.count
    with torch.no_grad():
        states, _ = made.conditioning([LearntPrompt(long, "object")])
        expected = encode(pipe, [LearntText(" ".join(["red"] * space), made.vectors()["object"])]).states
    assert torch.equal(states, expected)


def test_the_loss_is_that_of_the_stock_channels(tmp_path: Path) -> None:
    """Noisy latents, mask, masked latents: the order in which the pipeline hands them to its UNet."""
    pipe = tiny.inpaint(tmp_path)
    made = TaskPromptsObjective(
        pipe, training_scheduler(pipe), starting_vectors(pipe, CONFIG), Examples(SCENES, tiny.SIDE, Mixture()).prompt
    )
    batch = MaskedBatches(pipe, Examples(SCENES, tiny.SIDE, Mixture()), 2, 1000)(0)
    numbers, latents, noise, times, mask, masked, _ = batch
    with torch.no_grad():
        losses = made(*batch)
        made.snr_gamma = 0.01
        weighted = made(*batch)
        noisy = training_scheduler(pipe).add_noise(latents, noise, times)
        states, _ = made.conditioning([made._prompt_of(int(number)) for number in numbers])
        predicted = pipe.unet(torch.cat([noisy, mask, masked], 1), times, states).sample
    error = (predicted - noise).square()
    assert torch.allclose(losses["loss"], error.mean())
    weight = min_snr_weight(made.scheduler, times, 0.01)
    assert torch.allclose(weighted["loss"], (weight * error.mean((1, 2, 3))).mean()) and weight.min() < 1
    assert torch.allclose(losses["in_hole"], (error.mean(1, keepdim=True) * mask).sum() / mask.sum())


def test_widening_changes_nothing_until_it_is_trained(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    wide = widened(pipe.unet, 9)
    generator = torch.Generator().manual_seed(0)
    latents, rest = (torch.randn(2, channels, 16, 16, generator=generator) for channels in (4, 5))
    text = torch.randn(2, 7, 32, generator=generator)
    with torch.no_grad():
        assert torch.equal(
            wide(torch.cat([latents, rest], 1), 10, text).sample,
            wide(torch.cat([latents, 0 * rest], 1), 10, text).sample,
        )
        difference = wide(torch.cat([latents, rest], 1), 10, text).sample - pipe.unet(latents, 10, text).sample
    assert float(difference.abs().max()) < 1e-6
    assert wide.config.in_channels == 9 and not wide.conv_in.weight[:, 4:].any()
    made = inpainting_pipeline(pipe)
    assert type(made).__name__ == "StableDiffusionInpaintPipeline" and pipe.unet.config.in_channels == 4
    assert inpainting_pipeline(made).unet is made.unet
    assert type(inpainting_pipeline(tiny.sdxl(tmp_path / "xl"))) is StableDiffusionXLInpaintPipeline


def test_sheets_of_the_tasks(tmp_path: Path) -> None:
    """They are drawn while it learns, and change nothing of what it learns."""
    pictures = [SCENES[0], weft.train.MaskedPicture(SCENES[1].image)]
    drawn, plain = inpainting_pipeline(shapes.pipeline()), inpainting_pipeline(shapes.pipeline())
    loop = replace(CONFIG.loop, steps=2, batch_size=1)
    watched = fitted(
        drawn,
        {"validate_every": 1, "validation_steps": 1, "trains": "unet", "loop": loop},
        pictures=pictures,
        folder=tmp_path / "run",
    )
    sheets = sorted((tmp_path / "run" / "validation").iterdir())
    assert [sheet.name for sheet in sheets] == ["step00001.png", "step00002.png"]
    assert Image.open(sheets[0]).size == (7 * 64, 2 * 64)
    assert sheets[0].read_bytes() != sheets[1].read_bytes()
    assert equal(watched, fitted(plain, {"trains": "unet", "loop": loop}, pictures=pictures))
    assert is_same(drawn.unet, state_of(plain.unet))


def test_it_learns() -> None:
    """On one picture the error in holes that it was not shown falls."""
    pipe = inpainting_pipeline(shapes.pipeline())
    loop = LoopConfig(steps=16, learning_rate=3e-4, batch_size=4, weight_decay=0.0)
    config = TaskPromptsConfig(
        loop=loop, trains="unet", precision="no", mixture=Mixture(shares={"context": 1.0}, dropout=0.0), seed=1
    )
    examples = Examples(SCENES[:1], 64, config.mixture, seed=2)
    judge = TaskPromptsObjective(pipe, training_scheduler(pipe), starting_vectors(pipe, config), examples.prompt)
    numbers, latents, noise, times, *shown = MaskedBatches(pipe, examples, 32, 1000)(0)
    batch = (numbers, latents, noise, torch.full_like(times, 800), *shown)  # where a hole gets its colour
    errors = []
    for teach in (False, True):
        if teach:
            fit_task_prompts(pipe, SCENES[:1], config=config)
        with torch.no_grad():
            errors.append(float(judge(*batch)["in_hole"]))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset_noise": -1.0}, "`offset_noise` must be at least 0; got -1"),
        ({"snr_gamma": -1.0}, "`snr_gamma` must be at least 0; got -1"),
        ({"timestep_power": 0.0}, "`timestep_power` must be above 0; got 0"),
        ({"rank_share": 0.0}, "`rank_share` must be above 0 and at most 1; got 0"),
        ({"trains": "all"}, "`trains` must be one of 'prompts', 'unet', 'lora', 'residuals'; got 'all'"),
        ({"count": 0}, "`count` must be at least 1"),
        ({"count": 15}, "15 learnt vectors do not fit the 16 tokens"),
        ({"init_std": -1.0}, "`init_std` not below it"),
        ({"init_word": ""}, "'' has no token"),
        ({"tensorboard": True}, "tensorboard logs need `folder`"),
        ({"validate_every": 0}, "`validate_every` must be at least 1"),
        ({"validate_every": 5}, "validation pictures and tensorboard logs need `folder`"),
        ({"resolution": 30}, "`resolution` must be a multiple of 8"),
    ],
)
def test_numbers_that_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(tiny.inpaint(tmp_path), changes)


def test_models_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs an inpainting pipeline"):
        fitted(tiny.sd1(tmp_path))
    with pytest.raises(ValueError, match="needs at least one picture"):
        fitted(tiny.inpaint(tmp_path / "9"), pictures=[])
