"""Copies of controls, before, while and after they are attached; and the text of a control, which makes it again."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

import weft
from weft import shapes
from weft.attach import base_model
from weft.methods.maskdiffusion.settings import CLEAN, MaskDiffusionSettings
from weft.methods.powerpaint.branch_states import STATE_NAMES
from weft.methods.powerpaint.network import beside

PROMPT = "a sks circle and a blue square"
BOXES = {"a sks circle": (0, 0, 32, 64), "a blue square": (32, 0, 64, 64)}
COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda value: pickle.loads(pickle.dumps(value))}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return shapes.pipeline()


@pytest.fixture(scope="module")
def inpainting() -> Any:
    return shapes.pipeline("inpainting")


def residual(pipe: Any) -> weft.Residual:
    """A concept "sks circle" of random factors."""
    base, generator = base_model(pipe), torch.Generator().manual_seed(0)
    down = {p.name: torch.randn(2, p.width, generator=generator) / p.width**0.5 for p in base.projections}
    up = {p.name: torch.randn(p.width, 2, generator=generator) / 4 for p in base.projections}
    return weft.Residual(down, up, "sks", "circle", "shapes", base.text_width, base.projections[0].is_convolution)


def soft_tokens(pipe: Any) -> weft.SoftTokens:
    return weft.SoftTokens(torch.randn(3, pipe.unet.config.cross_attention_dim), blocks=("up_blocks",))


def task_branch(pipe: Any) -> weft.TaskBranch:
    text = torch.zeros(8, pipe.unet.config.cross_attention_dim)
    network = beside(pipe.unet)
    torch.nn.init.normal_(network.mid.weight, std=0.1)  # or it adds nothing
    return weft.TaskBranch(network, dict.fromkeys(STATE_NAMES, text), reuse=2, surroundings="held")


MAKERS: dict[str, Callable[[Any], Any]] = {
    "AttentionMaps": lambda pipe: weft.AttentionMaps(["circle", "square"], steps=iter([0, 1]), layers=["up_blocks"]),
    "MaskDiffusion": lambda pipe: weft.MaskDiffusion(boxes=BOXES, steps=2),
    "LocalizedResiduals": lambda pipe: weft.LocalizedResiduals(residual(pipe), threshold=0.4),
    "SoftTokens": soft_tokens,
    "TaskPrompts": lambda pipe: weft.TaskPrompts.load(shapes.model_path("inpainting")),
    "TaskBranch": task_branch,
}


def draw(pipe: Any, inpainting: Any, control: Any, meanwhile: Callable[[], None] = lambda: None) -> bytes:
    """The picture that the pipeline of its kind makes with ``control``."""
    call = {"num_inference_steps": 3, "generator": torch.Generator().manual_seed(0)}
    if isinstance(control, (weft.TaskPrompts, weft.TaskBranch)):
        host = inpainting if isinstance(control, weft.TaskPrompts) else _around(pipe, inpainting)
        hole = Image.new("L", (64, 64))
        hole.paste(255, (16, 16, 40, 40))
        with weft.attach(host, control):
            picture = host(image=Image.new("RGB", (64, 64), "gray"), mask_image=hole, **control.removal(), **call)
            meanwhile()
    else:
        with weft.attach(pipe, control):
            picture = pipe(PROMPT, **call)
            meanwhile()
    return picture.images[0].tobytes()


def _around(pipe: Any, inpainting: Any) -> Any:
    """The inpainting pipeline of a text-to-image model."""
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    host = type(inpainting)(**parts, requires_safety_checker=False)
    host.set_progress_bar_config(disable=True)
    return host


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_acts_as_its_original(kind: str, copied: Callable[[Any], Any], pipe: Any, inpainting: Any) -> None:
    """Made before, while, and after the original is attached; it is not attached itself, and has read nothing."""
    original = MAKERS[kind](pipe)
    before, during = copied(original), []
    picture = draw(pipe, inpainting, original, lambda: during.append(copied(original)))
    for one in (before, *during, copied(original)):
        assert type(one) is type(original) and vars(one).keys() == vars(original).keys()
        if kind in ("AttentionMaps", "MaskDiffusion"):
            with pytest.raises(ValueError, match=r"no image was made|nothing was read"):
                _ = one.maps
        assert draw(pipe, inpainting, one) == picture
        assert json.dumps(one.settings()) == json.dumps(original.settings()), "what is recorded beside a picture"


@pytest.mark.parametrize(
    ("kind", "captions"),
    [
        ("AttentionMaps", ["map: circle", "map: square"]),
        ("MaskDiffusion", ["regions"]),
        ("LocalizedResiduals", ["where: sks circle"]),
        ("SoftTokens", []),
    ],
)
def test_what_a_control_did_can_be_drawn(kind: str, captions: list[str], pipe: Any, inpainting: Any) -> None:
    control, over = MAKERS[kind](pipe), Image.new("RGB", (48, 32), "gray")
    drawn: dict[str, Image.Image] = {}
    draw(pipe, inpainting, control, lambda: drawn.update(control.pictures(over)))
    assert list(drawn) == captions
    for picture in drawn.values():
        least, most = picture.convert("L").getextrema()
        assert least < most, "something is drawn over the grey"


def test_results_can_be_copied(pipe: Any, inpainting: Any) -> None:
    control = MAKERS["AttentionMaps"](pipe)
    draw(pipe, inpainting, control)
    maps = pickle.loads(pickle.dumps(control.maps))
    assert all(torch.equal(maps[token], control.maps[token]) for token in control.maps)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_residual_can_be_copied(copied: Callable[[Any], Any], pipe: Any) -> None:
    original = residual(pipe)
    one = copied(original)
    assert one.phrase == original.phrase and one.ranks == original.ranks
    assert all(torch.equal(one.up[name], original.up[name]) for name in original.up)


@pytest.mark.parametrize(
    "control",
    [
        weft.AttentionMaps("circle"),
        weft.AttentionMaps(["circle", 3], layers="up_blocks", steps=range(3), reduce="steps", size=16, missing="zero"),
        weft.AttentionMaps(["circle"], layers=["mid_block", 8], steps=slice(1, 5, 2), reduce=()),
        weft.MaskDiffusion(),
        weft.MaskDiffusion(["a circle", "a square"], strength=0.5, steps=4),
        weft.MaskDiffusion(boxes={"a circle": (0, 0, 1, 2)}, parser="rules"),
        weft.MaskDiffusion(["a circle"], boxes={"a circle": (0, 0, 1, 2)}, mode="released"),
        weft.MaskDiffusion([["a circle"], ["a square"]], mode=MaskDiffusionSettings(share=0.25), steps=0.5),
    ],
    ids=repr,
)
def test_the_text_of_a_control_makes_it_again(control: Any) -> None:
    names = {**vars(weft), "AttentionMaps": weft.AttentionMaps, "MaskDiffusion": weft.MaskDiffusion}
    again = eval(repr(control), {**names, "MaskDiffusionSettings": MaskDiffusionSettings})
    assert repr(again) == repr(control)
    plain = {name: value for name, value in vars(control).items() if isinstance(value, (int, str, tuple, dict))}
    assert plain == {name: vars(again)[name] for name in plain}


def test_what_was_not_given_is_not_in_the_text() -> None:
    assert repr(weft.MaskDiffusion(boxes={"a circle": (0, 0, 1, 2)})) == (
        "MaskDiffusion(boxes={'a circle': (0.0, 0.0, 1.0, 2.0)})"
    )
    assert repr(weft.MaskDiffusion()) == "MaskDiffusion()"
    assert repr(weft.MaskDiffusion(mode=CLEAN)).startswith("MaskDiffusion(mode=MaskDiffusionSettings(")


def test_the_text_of_localized_residuals_has_what_was_given(pipe: Any) -> None:
    text = repr(weft.LocalizedResiduals(residual(pipe), {"sks circle": (0, 0, 8, 8)}, scale=0.5, cfg="both"))
    assert text.startswith("LocalizedResiduals([Residual(identifier='sks', class_word='circle',")
    assert text.endswith("{'sks circle': (0, 0, 8, 8)}, scale=0.5, cfg='both')")
