"""A control around the calls of a pipeline: what it sees, and that nothing of it stays."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
from diffusers import StableDiffusionPipeline

import weft
from weft.attach import Control
from weft.attach.pipeline_call import Around


class Listening(Control):
    """Notes the arguments of every call."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.is_attached = False

    def detached(self) -> None:
        self.is_attached = False

    def wrap_calls(self, pipeline: Any) -> Around | None:
        self.is_attached = True

        def around(run: Any, arguments: dict[str, Any]) -> Any:
            self.calls.append(arguments)
            return run(**arguments)

        return around


def test_a_call_goes_through_the_control(tmp_path: Path) -> None:
    pipe, control = tiny.sd1(tmp_path), Listening()
    stock = tiny.generate(pipe)
    with weft.attach(pipe, control):
        assert np.array_equal(tiny.generate(pipe), stock)
        pipe("a ball", tiny.SIDE, tiny.SIDE, num_inference_steps=1, guidance_scale=1.0, callback_steps=None)
    assert {"num_inference_steps", "guidance_scale"} <= control.calls[0].keys()
    assert control.calls[1]["prompt"] == "a ball" and control.calls[1]["height"] == tiny.SIDE
    assert "self" not in control.calls[1] and "negative_prompt" not in control.calls[1]
    assert "callback_steps" in control.calls[1], "what the pipeline takes as **kwargs is named too"
    tiny.generate(pipe)
    assert len(control.calls) == 2


def test_arguments_that_the_pipeline_does_not_have(tmp_path: Path) -> None:
    """They reach the control; what it hands on is refused by the pipeline, as always."""

    class Strict(StableDiffusionPipeline):
        def __call__(self, prompt: str, guidance_scale: float = 1.0) -> tuple[str, float]:
            return prompt, guidance_scale

    class Taking(Listening):
        def wrap_calls(self, pipeline: Any) -> Around | None:
            def around(run: Any, arguments: dict[str, Any]) -> Any:
                task = arguments.pop("task", "")
                return run(**{**arguments, "prompt": task + arguments["prompt"]})

            return around

    pipe = tiny.sd1(tmp_path, Strict)
    with weft.attach(pipe, Taking()):
        assert pipe("a ball", task="no ") == ("no a ball", 1.0)
        assert pipe("a ball", guidance_scale=2.0) == ("a ball", 2.0)
        with pytest.raises(TypeError, match="unexpected keyword argument 'tusk'"):
            pipe("a ball", tusk="no ")
    with pytest.raises(TypeError, match="unexpected keyword argument 'task'"):
        pipe("a ball", task="no ")


def test_the_class_is_given_back(tmp_path: Path) -> None:
    pipe, control = tiny.sd1(tmp_path), Listening()
    before, config = dict(vars(pipe)), dict(pipe.config)
    attachment = weft.attach(pipe, control)
    assert isinstance(pipe, StableDiffusionPipeline) and type(pipe).__name__ == "StableDiffusionPipeline"
    assert inspect.signature(pipe.__call__) == inspect.signature(StableDiffusionPipeline.__call__.__get__(pipe))
    attachment.remove(control)
    attachment.add(control)
    attachment.detach()
    assert type(pipe) is StableDiffusionPipeline and vars(pipe) == before and dict(pipe.config) == config


def test_a_copy_and_a_saved_pipeline_are_stock(tmp_path: Path) -> None:
    pipe, control = tiny.sd1(tmp_path), Listening()
    with weft.attach(pipe, control):
        assert type(copy.deepcopy(pipe)) is StableDiffusionPipeline
        assert type(copy.copy(pipe)) is StableDiffusionPipeline
        pipe.save_pretrained(tmp_path / "saved")
    assert '"StableDiffusionPipeline"' in (tmp_path / "saved" / "model_index.json").read_text()


def test_one_control_at_a_time(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe, Listening()) as attachment:
        second = Listening()
        with pytest.raises(ValueError, match="one control at a time"):
            attachment.add(second)
        assert len(attachment.controls) == 1
        assert not second.is_attached, "a refused one knows it"
    assert type(pipe) is StableDiffusionPipeline


def test_a_class_changed_by_others_is_left_alone(tmp_path: Path) -> None:
    class Other(StableDiffusionPipeline):
        """Another tool's."""

    pipe = tiny.sd1(tmp_path)
    attachment = weft.attach(pipe, Listening())
    pipe.__class__ = Other
    with pytest.warns(RuntimeWarning, match="last on, first off"):
        attachment.detach()
    assert type(pipe) is Other
