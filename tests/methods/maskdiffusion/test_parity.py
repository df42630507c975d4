"""``weft.MaskDiffusion`` against an eager restatement that shares no line with it: maps, regions and latents."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from maskdiffusion_pipelines import EVERY_LEVEL, PROMPTS, four_levels, noise
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import weft
import weft.attach.processors.seam
from weft.methods.maskdiffusion.control import MODES
from weft.ops import attention, regions
from weft.testing import assert_bitwise
from weft.testing.maskdiffusion import CLEAN, RELEASED, EagerRun, maskdiffusion_eager

STEPS, EDITED, REFRESHES = 20, 6, 4
GRID = (16, 16)  # cells of the maps for a latent of 32 x 32: the layers at its second level
# relative error of final latents: what another order of summation makes of 20 steps; a switch makes far more
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
# a window must beat all others by more than rounding, or the comparison would be a matter of luck
CLEAR_GAP = 1e-5


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of four levels, fp32. Every run gives it back as it was."""
    return four_levels(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def exact_pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same in float64, where even the smallest difference exceeds rounding."""
    return four_levels(tmp_path_factory.mktemp("tokenizer"), torch.float64)


def eager(pipe: Any, objects: int, latents: Tensor, **changes: Any) -> EagerRun:
    prompt, phrases = PROMPTS[objects]
    return maskdiffusion_eager(pipe, prompt, phrases, latents=latents, **{"steps": STEPS, "map_grid": GRID, **changes})


@functools.cache
def released(pipe: Any, objects: int, seed: int = 0) -> EagerRun:
    """What several tests compare with."""
    return eager(pipe, objects, noise(seed, dtype=pipe.dtype))


def attached(pipe: Any, prompt: Any, control: Any, latents: Tensor, **changes: Any) -> tuple[Tensor, list[Any]]:
    """Final latents, and the regions after every step."""
    seen: list[Any] = []

    def look(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        assert control._run is not None
        chosen = control._run.finder.windows  # `regions` are those that an edited step has followed
        seen.append(None if chosen is None else chosen.clone())
        return tensors

    h, w = latents.shape[2:]
    call = {"num_inference_steps": STEPS, "guidance_scale": 7.5, "height": 2 * h, "width": 2 * w, **changes}
    with weft.attach(pipe, control):
        made = pipe(prompt, latents=latents.clone(), output_type="latent", callback_on_step_end=look, **call).images
    return made, seen


def distance(actual: Tensor, expected: Tensor | None) -> float:
    """Relative, of the whole."""
    assert expected is not None
    return ((actual - expected).norm() / expected.norm()).item()


def assert_same(made: Tensor, seen: Sequence[Any], run: EagerRun, image: int = 0) -> None:
    """Latents and the regions of every refresh, of one image of a batch."""
    assert distance(made[image : image + 1], run.latents) <= TOLERANCE[made.dtype]
    assert len(run.regions) == REFRESHES and len(seen) == STEPS
    for step, found in enumerate(seen):
        expected = [list(each.rectangle) for each in run.regions[min(step, REFRESHES - 1)]]
        assert found[image, : len(expected)].tolist() == expected, f"after step {step}"
        assert not found[image, len(expected) :].any()
    assert all(each.gap > CLEAR_GAP for chosen in run.regions for each in chosen if each.mean > 0)


def assert_same_maps(control: Any, run: EagerRun, image: int = 0) -> None:
    """The maps of the last refresh."""
    for found in run.objects:
        maps = control.maps[found.phrase][image]
        expected = run.maps[REFRESHES - 1][found.head].view(maps.shape)
        assert (maps - expected).abs().max() <= 1e-5 * expected.max()


# --- the same as the restatement ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("objects", [1, 2, 3])
def test_released(pipe: Any, objects: int, seed: int) -> None:
    prompt, phrases = PROMPTS[objects]
    control = weft.MaskDiffusion(phrases, mode="released")
    assert control.regions is None
    assert_same(*attached(pipe, prompt, control, noise(seed)), released(pipe, objects, seed))
    assert_same_maps(control, released(pipe, objects, seed))


def test_released_in_float64(exact_pipe: Any) -> None:
    prompt, phrases = PROMPTS[3]
    run = released(exact_pipe, 3)
    assert run.latents is not None and run.latents.dtype == torch.float64
    control = weft.MaskDiffusion(phrases, mode="released")
    assert_same(*attached(exact_pipe, prompt, control, noise(dtype=torch.float64)), run)
    assert_same_maps(control, run)


SIZES: dict[str, tuple[tuple[int, int], tuple[int, int], dict[str, Any]]] = {
    "every level": ((32, 32), (16, 16), EVERY_LEVEL),
    "64 x 64": ((64, 64), (16, 16), {}),
    "wide": ((32, 48), (16, 24), {}),
    "heads by level": ((32, 32), (16, 16), {"attention_head_dim": (1, 2, 4, 4), "use_linear_projection": True}),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(tmp_path: Path, name: str) -> None:
    size, grid, changes = SIZES[name]
    pipe, (prompt, phrases) = four_levels(tmp_path, **changes), PROMPTS[3]
    # which windows to try on other grids than 16 x 16 is the op's own matter
    run = eager(pipe, 3, noise(size=size), map_grid=grid, sizes=regions.window_sizes(grid, 0.2))
    control = weft.MaskDiffusion(phrases, mode="released")
    assert_same(*attached(pipe, prompt, control, noise(size=size)), run)
    assert_same_maps(control, run)


# each accident of the released code left out by itself, as the restatement and as the method calls it
SWITCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "double_logits": ({"double_logits": False}, {"double_logits": False}),
    "tail_from": ({"tail_from": 1}, {"tail_from": 1}),
    "swap_steps": ({"swap_steps": "edited"}, {"swap": "edited"}),
    "search_margin": ({"search_margin": 0}, {"search_margin": 0}),
    "exclusion": ({"exclusion": "forbid"}, {"exclusion": None}),
    "fallback": ({"fallback": "none"}, {"corner_fallback": False}),
    "keep_negative": ({"keep_negative": True}, {"keep_negative": True}),
}
SEED_WITH_OVERLAPS = 2  # of three objects, so that ``exclusion`` makes a difference
ALL_OFF = {name: value for _, off in SWITCHES.values() for name, value in off.items()}


@pytest.mark.parametrize("name", [*SWITCHES, "all"])
def test_every_switch(exact_pipe: Any, name: str) -> None:
    prompt, phrases = PROMPTS[3]
    latents = noise(SEED_WITH_OVERLAPS, dtype=torch.float64)
    theirs, ours = SWITCHES.get(name, (None, ALL_OFF))
    switches = CLEAN if theirs is None else replace(RELEASED, **theirs)
    # words that guidance should keep away from, so that ``keep_negative`` has something to keep
    run = eager(exact_pipe, 3, latents, switches=switches, negative_prompt="green ball")
    # an object that is nowhere does not occur here, see below
    if name != "fallback":
        assert run.latents is not None
        assert distance(run.latents, released(exact_pipe, 3, SEED_WITH_OVERLAPS).latents) > 1e-5
    control = weft.MaskDiffusion(phrases, mode=replace(MODES["released"], **ours))
    assert_same(*attached(exact_pipe, prompt, control, latents, negative_prompt="green ball"), run)


@pytest.mark.parametrize("fallback", ["corner", "none"])
def test_an_object_that_is_nowhere(exact_pipe: Any, fallback: str) -> None:
    """Regions that may not overlap and a wide margin leave no window for the third object."""
    prompt, phrases = PROMPTS[3]
    latents = noise(dtype=torch.float64)
    switches = replace(RELEASED, exclusion="forbid", search_margin=4, fallback=fallback)
    run = eager(exact_pipe, 3, latents, switches=switches)
    assert all(chosen[2].mean == 0 for chosen in run.regions)
    settings = replace(MODES["released"], exclusion=None, search_margin=4, corner_fallback=fallback == "corner")
    assert_same(*attached(exact_pipe, prompt, weft.MaskDiffusion(phrases, mode=settings), latents), run)


BOXES = {
    "on cells": {"a red circle": (0, 8, 28, 40), "a blue square": (20, 24, 64, 64)},
    "between cells": {"a red circle": (3, 7, 31, 42), "a blue square": (25, 21, 62, 59)},
}


@pytest.mark.parametrize("name", BOXES)
def test_overlapping_boxes(pipe: Any, name: str) -> None:
    prompt, phrases = PROMPTS[2]
    run = eager(pipe, 2, noise(), boxes=BOXES[name])
    made, _ = attached(pipe, prompt, weft.MaskDiffusion(phrases, boxes=BOXES[name], mode="released"), noise())
    assert distance(made, run.latents) <= TOLERANCE[torch.float32]
    assert distance(made, released(pipe, 2).latents) > 100 * TOLERANCE[torch.float32]


def test_without_guidance_every_row_is_edited(pipe: Any) -> None:
    prompt, phrases = PROMPTS[2]
    run = eager(pipe, 2, noise(), guidance_scale=1.0)
    control = weft.MaskDiffusion(phrases, mode="released")
    assert_same(*attached(pipe, prompt, control, noise(), guidance_scale=1.0), run)


def test_a_batch_of_prompts_with_objects_of_their_own(pipe: Any) -> None:
    prompts, phrases = zip(*(PROMPTS[objects] for objects in (2, 3, 1)), strict=True)
    latents = torch.cat([noise(seed) for seed in (0, 1, 0)])
    made, seen = attached(pipe, list(prompts), weft.MaskDiffusion(phrases, mode="released"), latents)
    for image, (objects, seed) in enumerate([(2, 0), (3, 1), (1, 0)]):
        assert_same(made, seen, released(pipe, objects, seed), image)


def test_several_images_of_one_prompt(pipe: Any) -> None:
    prompt, phrases = PROMPTS[2]
    control = weft.MaskDiffusion(phrases, mode="released")
    latents = torch.cat([noise(0), noise(1)])
    made, seen = attached(pipe, prompt, control, latents, num_images_per_prompt=2)
    for image in range(2):
        assert_same(made, seen, released(pipe, 2, image), image)
        assert_same_maps(control, released(pipe, 2, image), image)


# --- what is left alone -------------------------------------------------------------------------------------------


class Spy:
    """Stands in for the op where processors call it, and does the same work without an edit beside it."""

    def __init__(self, pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.step = -1
        self.calls: list[tuple[int, int, int, bool]] = []  # step, Nq, Nk, edited
        self.unconditional: list[tuple[Tensor, Tensor]] = []  # found and expected
        monkeypatch.setattr(weft.attach.processors.seam, "attention", self)
        self.hook = pipe.unet.register_forward_pre_hook(self.count)

    def count(self, *arguments: Any) -> None:
        self.step += 1

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> Any:
        result = attention(q, k, v, **arguments)
        out = result[0] if isinstance(result, tuple) else result
        self.calls.append((self.step, q.shape[1], k.shape[1], arguments["edit"] is not None))
        plain = attention(q, k, v, scale=arguments["scale"], key_padding=arguments["key_padding"])
        half = len(q) // 2
        self.unconditional.append((out[:half].clone(), plain[:half]))
        return result


def test_layers_and_steps_that_are_not_edited_run_the_models_own_attention(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, phrases = PROMPTS[2]
    tokens, pixels = 16, (256, 64, 16)
    spy = Spy(pipe, monkeypatch)
    attached(pipe, prompt, weft.MaskDiffusion(phrases, mode="released"), noise())
    spy.hook.remove()
    assert spy.step == STEPS - 1
    for step in range(STEPS):
        edited = {(nq, nk) for at, nq, nk, edit in spy.calls if at == step and edit}
        read_only = {(nq, nk) for at, nq, nk, edit in spy.calls if at == step and not edit}
        cross = {(nq, tokens) for nq in pixels} if 2 <= step < EDITED else set()
        own = {(nq, nq) for nq in pixels} if 1 <= step < EDITED else set()
        assert edited == cross | own, f"step {step}"
        assert read_only == ({(256, tokens)} if step < 2 else set()), f"step {step}"


@pytest.mark.parametrize("mode", ["released", "clean"])
def test_unconditional_rows_are_those_of_plain_attention(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """For the same layer input, bit by bit, at every step."""
    prompt, phrases = PROMPTS[2]
    spy = Spy(pipe, monkeypatch)
    attached(pipe, prompt, weft.MaskDiffusion(phrases, mode=mode), noise())
    spy.hook.remove()
    assert len(spy.unconditional) > 100
    for found, expected in spy.unconditional:
        assert_bitwise("unconditional rows", found, expected)


def test_strength_0_without_accidents_is_the_stock_pipeline(pipe: Any) -> None:
    prompt, phrases = PROMPTS[2]
    call = {"num_inference_steps": STEPS, "height": 64, "width": 64, "output_type": "latent"}
    stock = pipe(prompt, latents=noise(), **call).images
    settings = replace(MODES["released"], **{**ALL_OFF, "swap": "never"})
    made, _ = attached(pipe, prompt, weft.MaskDiffusion(phrases, mode=settings, strength=0.0), noise())
    assert distance(made, stock) <= TOLERANCE[torch.float32]


class Largest(TorchDispatchMode):
    """How many values the largest tensor has that any operator of torch makes."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(made, Tensor):
                self.values = max(self.values, made.numel())
        return result


def test_no_tensor_relates_all_pixels(pipe: Any) -> None:
    """At 64 x 64 the layers see 1024 pixels; what is made for them is no larger than what the UNet makes itself.

    The restatement relates all pixels of the latent, like the released code, whether a layer sees them or not.
    """
    prompt, phrases = PROMPTS[2]
    latents, steps = noise(size=(64, 64)), 10

    with Largest() as stock:
        pipe(prompt, latents=latents, num_inference_steps=steps, height=128, width=128, output_type="latent")
    with Largest() as ours:
        attached(pipe, prompt, weft.MaskDiffusion(phrases, mode="released"), latents, num_inference_steps=steps)
    with Largest() as theirs:
        eager(pipe, 2, latents, steps=steps)
    assert ours.values == stock.values < 1024**2
    assert theirs.values == 4096**2
