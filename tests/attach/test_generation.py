"""Generations and steps, found from the arguments of the denoiser alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from diffusers import HeunDiscreteScheduler

import weft
from weft.attach import Control, DenoiserCall, Generation, Step
from weft.attach.generation import GenerationTracker
from weft.attach.text.prompt import Prompt


def call(timestep: Any, batch: int = 1, text: torch.Tensor | None = None) -> DenoiserCall:
    text = torch.zeros(batch, 5, 32) if text is None else text
    return DenoiserCall(torch.zeros(batch, 4, 12, 16), timestep, text)


def test_steps_are_counted_down_the_schedule() -> None:
    tracker = GenerationTracker()
    steps = [tracker.advance(call(timestep)) for timestep in (900, 600.5, torch.tensor(300), torch.tensor([1.0]))]
    assert [(step.index, step.timestep) for step in steps] == [(0, 900), (1, 600.5), (2, 300), (3, 1)]
    assert len({id(step.generation) for step in steps}) == 1
    assert steps[0].generation.latent_size == (12, 16)
    assert steps[0].generation.images == 1 and steps[0].seqlen_k == 5


def test_a_repeated_timestep_is_the_same_step_and_a_rise_a_new_generation() -> None:
    tracker = GenerationTracker()
    steps = [tracker.advance(call(timestep)) for timestep in (900, 500, 500, 100, 900, 500)]
    assert [step.index for step in steps] == [0, 1, 1, 2, 0, 1]
    assert [step.generation.index for step in steps] == [0, 0, 0, 0, 1, 1]


def test_a_new_conditioning_tensor_midway_is_the_same_generation() -> None:
    tracker = GenerationTracker()
    steps = [tracker.advance(call(t, batch)) for t, batch in ((900, 2), (500, 2), (100, 1))]
    assert [step.index for step in steps] == [0, 1, 2] and [step.batch for step in steps] == [2, 2, 1]


def test_encode_prompt_and_reset_begin_a_generation_at_any_timestep() -> None:
    tracker, prompt = GenerationTracker(), Prompt(None, 1, False, torch.zeros(1, 5, 32))
    tracker.announce(prompt)
    first = tracker.advance(call(500))
    tracker.announce(prompt)
    second = tracker.advance(call(500))
    tracker.reset()
    third = tracker.advance(call(500))
    assert [step.generation.index for step in (first, second, third)] == [0, 1, 2]
    assert [step.generation.prompt is prompt for step in (first, second, third)] == [True, True, False]


def test_a_prompt_holds_as_long_as_its_embeddings_arrive() -> None:
    tracker, known = GenerationTracker(), torch.randn(1, 5, 32)
    prompt = Prompt(None, 1, True, known)
    tracker.announce(prompt)
    tracker.advance(call(100))
    again = torch.cat([torch.zeros_like(known), known])
    tracker.advance(call(50))  # so that timesteps fall
    assert tracker.advance(call(900, text=again)).generation.prompt is prompt
    tracker.advance(call(50))
    assert tracker.advance(call(990, text=known + 1)).generation.prompt is None
    tracker.advance(call(50))
    assert tracker.advance(call(995, text=again)).generation.prompt is prompt


class Diary(Control):
    """Writes down how it is called."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def begin_generation(self, generation: Generation) -> None:
        self.lines.append(("generation", generation.index, generation.images))

    def begin_step(self, step: Step) -> None:
        self.lines.append(("step", step.index))

    def end_pass(self, step: Step) -> None:
        self.lines.append(("pass", step.index, step.batch))


def test_controls_are_called_in_order(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe, diary := Diary()):
        tiny.generate(pipe, num_inference_steps=2, num_images_per_prompt=2)
        tiny.generate(pipe, num_inference_steps=1, guidance_scale=1.0)
    assert diary.lines == [
        ("generation", 0, 2),
        *(line for index in (0, 1) for line in (("step", index), ("pass", index, 4))),
        ("generation", 1, 1),
        ("step", 0),
        ("pass", 0, 1),
    ]


def test_a_second_order_sampler_passes_twice_in_a_step(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    pipe.scheduler = HeunDiscreteScheduler()
    with weft.attach(pipe, diary := Diary()):
        tiny.generate(pipe)
    # the second pass of a step is made at the next step's timestep, and the last step has one pass only
    assert [line[1] for line in diary.lines if line[0] == "pass"] == [0, 0, 1, 1, 2]
    assert [line[1] for line in diary.lines if line[0] == "step"] == [0, 0, 1, 1, 2], "at every new timestep"


def test_a_loop_that_runs_the_guidance_halves_apart() -> None:
    model = tiny.unet()
    with weft.attach(model, diary := Diary()) as attachment, torch.no_grad():
        halves = torch.randn(1, 5, 32), torch.randn(1, 5, 32)
        for timestep in (900, 500, 100):
            for half in halves:
                model(torch.randn(1, 4, 16, 16), timestep, half)
        assert [line[1] for line in diary.lines if line[0] == "step"] == [0, 1, 2]
        assert attachment.text_cache.hits == 2 * attachment.text_cache.misses


def test_one_step_loops_of_a_bare_model_are_distinguished_by_reset() -> None:
    model = tiny.unet()
    with weft.attach(model, diary := Diary()) as attachment, torch.no_grad():
        for _ in range(2):
            model(torch.randn(1, 4, 16, 16), timestep=999, encoder_hidden_states=torch.randn(1, 5, 32))
            attachment.reset()
    assert [line for line in diary.lines if line[0] == "generation"] == [("generation", 0, 1), ("generation", 1, 1)]


def test_an_interrupted_generation_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(pipe: Any, index: int, timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe, maps := weft.AttentionMaps("circle")):
        tiny.generate(pipe)
        expected = maps.maps["circle"]
        with pytest.raises(KeyboardInterrupt):
            tiny.generate(pipe, callback_on_step_end=stop)
        tiny.generate(pipe)
        assert torch.equal(maps.maps["circle"], expected)


@pytest.mark.gpu
def test_timesteps_on_a_device_are_read_once_per_schedule() -> None:
    schedule = torch.linspace(999, 1, 50, device="cuda")
    tracker = GenerationTracker()
    tracker.advance(call(schedule[0]))
    with torch.cuda.device(0):
        torch.cuda.set_sync_debug_mode("error")
        try:
            steps = [tracker.advance(call(timestep)) for timestep in schedule[1:]]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert [step.timestep for step in steps] == schedule[1:].tolist()
