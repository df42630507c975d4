"""Controls that act within the pass: maps at once through a sink, and terms for the projections of the blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from torch import Tensor

import weft
from weft.attach import BaseModel, Control, LayerInfo, LayerRequest, ProjectionInfo, ProjectionTerms, Step
from weft.attach.projections import GatedProjection


class Adding(Control):
    """Adds x to its own projection where ``block`` says so, times what its gate holds when the projection runs."""

    adds_to_projections = True

    def __init__(self, block: str = "", sees: bool = False) -> None:
        self.block, self.sees = block, sees
        self.events: list[str] = []
        self.gate = torch.zeros(1)

    def check_model(self, model: BaseModel) -> None:
        self.events.append(f"checked {len(model.projections)}")

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        if not (self.sees and layer.is_cross and layer.name.startswith(self.block)):
            return None
        return LayerRequest(readout=torch.ones(1, step.seqlen_k, 1), sink=self.take)

    def take(self, maps: Tensor) -> None:
        self.events.append(f"maps {list(maps.shape)}")
        self.gate.copy_(maps.mean())  # of ones: the probabilities of all tokens

    def add_to_projection(self, projection: ProjectionInfo, step: Step) -> ProjectionTerms | None:
        if not projection.block.startswith(self.block):
            return None
        self.events.append(f"asked {projection.block}")
        unit = torch.eye(projection.width)
        return ProjectionTerms(unit, unit, gate=self.gate)

    def read_maps(self, layer: LayerInfo, step: Step, maps: Tensor) -> None:
        self.events.append("read")


class Watching(Adding):
    """The same maps, after the pass."""

    adds_to_projections = False

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        return LayerRequest(readout=torch.ones(1, step.seqlen_k, 2)) if layer.is_cross else None


def is_taken_over(model: Any) -> bool:
    return any(isinstance(module, GatedProjection) for module in model.modules())


def test_maps_reach_the_projection_of_the_same_block_in_the_same_pass(tmp_path: Path) -> None:
    pipe, block = tiny.sd1(tmp_path), "down_blocks.1.attentions.0"
    control, seen = Adding(block, sees=True), []
    projection = pipe.unet.get_submodule(f"{block}.proj_out")
    with weft.attach(pipe, control):
        projection.register_forward_hook(lambda module, args, out: seen.append((module.host_class, args[0], out)))
        tiny.generate(pipe, num_inference_steps=1)
    assert control.events == ["checked 7", f"asked {block}", "maps [2, 64, 1]"]
    host, x, out = seen[0]
    torch.testing.assert_close(out, host.forward(projection, x) + x)


def test_a_sink_takes_nothing_from_other_readers(tmp_path: Path) -> None:
    pipe, block = tiny.sd1(tmp_path), "mid_block"
    control, watching = Adding(block, sees=True), Watching()
    with weft.attach(pipe, watching, control):
        tiny.generate(pipe, num_inference_steps=1)
    assert control.events.count("maps [2, 16, 1]") == 1 and "read" not in control.events
    assert watching.events == ["checked 7"] + ["read"] * 7


def test_projections_are_taken_over_only_while_a_control_projects(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    attachment = weft.attach(pipe, Watching())
    assert not is_taken_over(pipe.unet)
    first, second = Adding("down_blocks"), Adding("up_blocks")
    attachment.add(first)
    attachment.add(second)
    tiny.generate(pipe, num_inference_steps=1)
    attachment.remove(first)
    assert is_taken_over(pipe.unet)
    attachment.remove(second)
    assert not is_taken_over(pipe.unet)
    attachment.add(first)
    attachment.detach()
    assert not is_taken_over(pipe.unet)


def test_two_controls_cannot_add_to_one_projection(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with (
        weft.attach(pipe, Adding("down_blocks.0"), Adding("down_blocks")),
        pytest.raises(ValueError, match=r"Adding and Adding both add to down_blocks\.0"),
    ):
        tiny.generate(pipe)


def test_a_model_that_the_control_refuses_is_left_alone(tmp_path: Path) -> None:
    class Refusing(Adding):
        def check_model(self, model: BaseModel) -> None:
            raise ValueError(f"not made for {model.name}")

    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe) as attachment:
        with pytest.raises(ValueError, match="not made for"):
            attachment.add(Refusing())
        assert attachment.controls == () and not is_taken_over(pipe.unet)
    with pytest.raises(ValueError, match="not made for"):
        weft.attach(pipe, Refusing())
    assert not is_taken_over(pipe.unet)
