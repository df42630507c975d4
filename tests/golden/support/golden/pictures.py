"""Rows of pictures: a few steps of each embedded model, with each control and without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import weft
from golden import models
from golden.inputs import Draw
from golden.models import BLUE, PROMPT, RED, residual, soft_tokens
from golden.row import Tensors, add_row, compact

STEPS = 4
# of values in [0, 1]; a few steps and a decoder multiply rounding. Scalar, AVX2 and AVX-512 paths differ by up to 2e-5
TOLERANCE = 4e-4
# pasted pictures are bytes: one of sixteen pixels that rounds to the next is 2.5e-4
PASTED = 2e-3
INPAINTING = ("inpainting", "fill")

Controls = Sequence[Any]


def draw(model: str, **changes: Any) -> Tensor:
    """A picture [images, h, w, 3] in [0, 1], of whatever is attached."""
    prompts = changes.get("prompt", PROMPT)
    count = len(prompts) if isinstance(prompts, list) else 1
    call: dict[str, Any] = {
        "num_inference_steps": STEPS,
        "guidance_scale": 5.0,
        "latents": Draw(50).normal(count, 4, 16, 16),
        "generator": torch.Generator().manual_seed(0),
        "output_type": "np",
    }
    if "prompt_embeds" not in changes:
        call["prompt"] = PROMPT
    if model in INPAINTING:
        call |= {"image": models.picture(), "mask_image": models.hole()}
    return torch.as_tensor(models.pipeline(model)(**{**call, **changes}).images)


def small(images: Tensor) -> Tensor:
    """[images, 3, h / 4, w / 4], means of four by four pixels."""
    return F.avg_pool2d(images.float().movedim(-1, 1), 4)


def _maps(control: Any) -> Tensors:
    return {f"map {token}": value for token, value in control.maps.items()}


def _made_by(control: Any) -> Tensors:
    """What a control itself found, beside the picture."""
    if isinstance(control, weft.AttentionMaps):
        return _maps(control)
    if isinstance(control, weft.LocalizedResiduals):
        return {f"mask {phrase}": value for phrase, value in control.masks.items()}
    if isinstance(control, weft.MaskDiffusion) and control.regions is not None:
        return {**_maps(control), "regions": control.regions}
    return {}


def _enter(
    name: str,
    model: str,
    controls: Callable[[], Controls] = tuple,
    said: Callable[[Any], Mapping[str, Any]] = lambda control: {},
    backend: str = "auto",
    **call: Any,
) -> None:
    """A row; ``said`` gives arguments of the call that the first control makes."""

    def make() -> Tensors:
        chosen = controls()
        with weft.backend(backend), weft.attach(models.pipeline(model), *chosen):
            images = draw(model, **call, **(said(chosen[0]) if chosen else {}))
        found = [_made_by(control) for control in chosen]
        return compact({"picture": small(images), **{name: x for one in found for name, x in one.items()}})

    add_row(f"pictures/{model}/{name}", make, TOLERANCE)


def _stock(model: str) -> None:
    add_row(f"pictures/{model}/stock", lambda: {"picture": small(draw(model))}, TOLERANCE)


def _both() -> list[weft.Residual]:
    return [residual(RED), residual(BLUE)]


BOXES: Any = {"red circle": (0, 0, 36, 64), "blue square": (28, 0, 64, 64)}
OBJECTS: Any = {"a red circle": (4, 4, 28, 28), "a blue square": (34, 30, 60, 60)}
WORDS = ["red circle", "square", 1]

for _model in ("sd1", "sd3", "inpainting"):
    _stock(_model)
    _enter("maps", _model, lambda: [weft.AttentionMaps(WORDS)])
    _enter("soft-tokens", _model, lambda model=_model: [soft_tokens(model)])

_enter("maps-apart", "sd1", lambda: [weft.AttentionMaps("circle", reduce=(), steps=[1, 3], layers="up_blocks")])
_enter("maps-reference", "sd1", lambda: [weft.AttentionMaps(WORDS)], backend="reference")
_enter("maps-reference", "sd3", lambda: [weft.AttentionMaps(WORDS)], backend="reference")
_enter(
    "maps-two-prompts",
    "sd1",
    lambda: [weft.AttentionMaps(["red", "square"], missing="zero")],
    prompt=[PROMPT, "a green star and a red ring"],
)

for _model in ("sd1", "inpainting"):
    _enter("maskdiffusion", _model, lambda: [weft.MaskDiffusion()])
    _enter("residual-median", _model, lambda: [weft.LocalizedResiduals(residual())])
_enter("maskdiffusion-reference", "sd1", lambda: [weft.MaskDiffusion()], backend="reference")
_enter("maskdiffusion-released", "sd1", lambda: [weft.MaskDiffusion(mode="released", steps=3)])
_enter("maskdiffusion-boxes", "sd1", lambda: [weft.MaskDiffusion(boxes=OBJECTS)])
_enter("residuals-otsu", "sd1", lambda: [weft.LocalizedResiduals(_both(), threshold="otsu", cfg="both")])
_enter("residuals-boxes", "sd1", lambda: [weft.LocalizedResiduals(_both(), BOXES, scale=[0.5, 1.0])])
_enter("residuals-everywhere", "sd1", lambda: [weft.LocalizedResiduals(_both(), "none", exact=False)])
_enter(
    "together",
    "sd1",
    lambda: [weft.AttentionMaps(WORDS), weft.MaskDiffusion(), weft.LocalizedResiduals(residual()), soft_tokens()],
)

# guidance of the call, not of the artefact: what an artefact advises may be learnt better
_GUIDANCE = {"guidance_scale": 3.0}
_TASKS: dict[str, Callable[[Any], Mapping[str, Any]]] = {
    "removal": lambda tasks: tasks.removal(**_GUIDANCE),
    "insert": lambda tasks: tasks.insert("a red circle", **_GUIDANCE),
    "shape": lambda tasks: tasks.shape("a blue square", 0.6, negative="a star", **_GUIDANCE),
    "context": lambda tasks: tasks.context(**_GUIDANCE),
    "outpaint": lambda tasks: tasks.outpaint(models.picture(), right=0.5, **_GUIDANCE),
}


def _enter_task(model: str, task: str, control: Callable[[], Any], name: str = "") -> None:
    def make() -> Tensors:
        chosen = control()
        with weft.attach(models.pipeline(model), chosen):
            given = dict(_TASKS[task](chosen))
            # named in the call, too: there it comes before what a task gives
            images = draw(model, **given, **_GUIDANCE, **({"latents": None} if task == "outpaint" else {}))
        return compact({"picture": small(images)})

    add_row(f"pictures/{model}/{name or task}", make, PASTED)


def _branch(**options: Any) -> weft.TaskBranch:
    return models.task_branch(models.pipeline("fill").unet, 128, **options)


for _task in _TASKS:
    _enter_task("inpainting", _task, models.task_prompts)
_stock("fill")
_enter_task("fill", "removal", _branch)
_enter_task("fill", "insert", lambda: _branch(reuse=2, until=3, scale=0.5, surroundings="held"), "insert-reused")
