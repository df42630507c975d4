"""What an artefact recommends for drawing: its file keeps it, and it is used where a user gives nothing else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import weft
from weft import shapes
from weft.attach import base_model
from weft.methods.powerpaint.branch_states import STATE_NAMES
from weft.methods.powerpaint.network import beside
from weft.methods.powerpaint.recipes import RECIPES, STEPS
from weft.methods.sampling import OPEN, Sampling

TUNED = Sampling(guidance_scale=4.5, num_inference_steps=12, sampler="DDIMScheduler")
HOLE = Image.new("L", (64, 64))
HOLE.paste(255, (16, 16, 40, 40))
PICTURE = Image.linear_gradient("L").resize((64, 64)).convert("RGB")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return shapes.pipeline("inpainting")


def vectors() -> dict[str, tuple[torch.Tensor, ...]]:
    return {
        name: (torch.randn(10, 128, generator=torch.Generator().manual_seed(0)),)
        for name in ("context", "shape", "object")
    }


def artefact(kind: str) -> Any:
    stock = shapes.pipeline()
    if kind == "TaskPrompts":
        return weft.TaskPrompts(vectors())
    if kind == "TaskBranch":
        text = torch.zeros(8, stock.unet.config.cross_attention_dim)
        return weft.TaskBranch(beside(stock.unet), dict.fromkeys(STATE_NAMES, text))
    if kind == "SoftTokens":
        return weft.SoftTokens(torch.zeros(2, 8))
    base = base_model(stock)
    down = {info.name: torch.ones(1, info.width) for info in base.projections}
    up = {name: one.T for name, one in down.items()}
    return weft.Residual(down, up, "sks", "dog", "x", base.text_width, base.projections[0].is_convolution)


@pytest.mark.parametrize("kind", ["TaskPrompts", "TaskBranch", "SoftTokens", "Residual"])
def test_a_file_keeps_it(kind: str, tmp_path: Path) -> None:
    made = artefact(kind)
    assert made.sampling == OPEN
    for sampling in (OPEN, TUNED, Sampling(sampler="X")):
        dataclasses.replace(made, sampling=sampling).save(tmp_path / "it.safetensors")
        assert type(made).load(tmp_path / "it.safetensors").sampling == sampling


def test_what_a_later_version_says_beside_it_is_passed_over(tmp_path: Path) -> None:
    weft.SoftTokens(torch.zeros(2, 8), sampling=TUNED).save(tmp_path / "it.safetensors")
    with safe_open(tmp_path / "it.safetensors", "pt") as opened:
        record = json.loads(opened.metadata()["weft"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    record["sampling"]["eta"] = 0.5
    save_file(tensors, tmp_path / "later.safetensors", metadata={"weft": json.dumps(record)})
    assert weft.SoftTokens.load(tmp_path / "later.safetensors").sampling == TUNED


@pytest.mark.parametrize("values", [{"guidance_scale": float("nan")}, {"num_inference_steps": 0}], ids=str)
def test_values_that_cannot_be(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"Sampling: `{next(iter(values))}` must be"):
        Sampling(**values)


def test_the_embedded_prompts_say_what_they_are_measured_with() -> None:
    assert weft.TaskPrompts.load(shapes.model_path("inpainting")).sampling == Sampling(3.0, 15, "DDIMScheduler")


def guidance_used(pipe: Any, call: Any) -> float:
    """The guidance scale that the pipeline's own call had."""
    found = []

    def note(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        found.append(pipe.guidance_scale)
        return tensors

    call(image=PICTURE, mask_image=HOLE, num_inference_steps=1, callback_on_step_end=note)
    return found[0]


@pytest.mark.parametrize(("sampling", "expected"), [(OPEN, RECIPES["removal"].guidance_scale), (TUNED, 4.5)])
def test_guidance_of_a_task(pipe: Any, sampling: Sampling, expected: float) -> None:
    """As recommended, else of the recipe; and what a user gives comes first, wherever it is given."""
    tasks = weft.TaskPrompts(vectors(), sampling=sampling)
    assert tasks.guidance_of("removal") == expected
    with weft.attach(pipe, tasks):
        assert guidance_used(pipe, lambda **call: pipe(**call, **tasks.removal())) == expected
        assert guidance_used(pipe, lambda **call: pipe(**call, **tasks.removal(), guidance_scale=5)) == 5
        assert guidance_used(pipe, lambda **call: pipe(**call, **tasks.removal(guidance_scale=6))) == 6
    assert (
        guidance_used(pipe, lambda image, mask_image, **call: tasks.inpaint(pipe, image, mask_image, **call))
        == expected
    )


@pytest.mark.parametrize(("sampling", "expected"), [(OPEN, STEPS), (TUNED, 12)], ids=["open", "tuned"])
def test_steps_of_inpaint(pipe: Any, sampling: Sampling, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, given = weft.TaskPrompts(vectors(), sampling=sampling), []

    def note(self: Any, *args: Any, **arguments: Any) -> Any:
        given.append(arguments["num_inference_steps"])
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks, "_paint", lambda run, **arguments: note(tasks, **arguments))
    for changes in ({}, {"num_inference_steps": 3}):
        with pytest.raises(KeyboardInterrupt):
            tasks.inpaint(pipe, PICTURE, HOLE, **changes)
    assert given == [expected, 3]


def test_tensors_that_share_memory_are_written(tmp_path: Path) -> None:
    table = torch.randn(6, 8)
    soft = weft.SoftTokens(table[:2], table[2:])
    soft.save(tmp_path / "it.safetensors")
    again = weft.SoftTokens.load(tmp_path / "it.safetensors")
    assert torch.equal(again.tokens, soft.tokens) and torch.equal(again.offsets, soft.offsets)


PAGE = Path(__file__).parents[2] / "docs" / "inpainting.md"


def test_the_example_of_the_page_on_inpainting_removes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As written there: nothing is left in the hole, and the other tasks put there what they are asked for."""
    example = PAGE.read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(example, found)
    seen = {name: shapes.read(np.asarray(found[name])) for name in ("photo", "without", "star", "circle")}
    names = {name: [(one.colour, one.shape) for one in there] for name, there in seen.items()}
    assert names["photo"] == names["circle"] == [("red", "circle")]
    assert names["without"] == [] and names["star"] == [("green", "star")]
    assert shapes.read(np.asarray(Image.open("without.png"))) == []
