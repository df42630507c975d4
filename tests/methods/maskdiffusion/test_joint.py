"""Boxes in joint attention: against stock attention with a dense bias, what they leave alone, and what they refuse."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_joint
import tiny_models
import tiny_pipelines
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import weft
from weft.attach import Control, LayerInfo, LayerRequest, Step
from weft.methods.maskdiffusion import JointSettings, MaskDiffusionSettings
from weft.methods.maskdiffusion.joint_settings import JOINT, RANGES
from weft.testing import assert_differs

PROMPT = "a red circle and a blue square"
WIDTH, HEIGHT = tiny_models.WIDTH, tiny_models.HEIGHT
# the second box overlaps the first, and both leave background
BOXES = {"red circle": (0, 0, 32, 16), "blue square": (16, 0, 48, 32)}
H, W = HEIGHT // 4, WIDTH // 4  # of the grid of tokens
STEPS = 3
EVERY_TERM = JointSettings(
    share=0.5,
    exponent=0.5,
    inside=1.5,
    outside=-2.0,
    between_pixels=-1.0,
    from_words=-0.7,
    between_words=-math.inf,
)
FLUX = tiny_models.TINY["flux"]


@dataclass(frozen=True)
class Host:
    """A tiny model: its pipeline, how it draws latents, and where the words of both objects are in its text."""

    build: Callable[[Path], Any]
    generate: Callable[..., Tensor]
    words: tuple[tuple[int, ...], tuple[int, ...]]
    texts: int
    text_first: bool

    def draw(self, pipe: Any, *controls: Control, **changes: Any) -> Tensor:
        with weft.attach(pipe, *controls):
            return self.generate(pipe, PROMPT, **{"num_inference_steps": STEPS, "output_type": "latent", **changes})


HOSTS = {
    # CLIP has 16 tokens, the first of them the start; T5's 12 follow
    "sd3": Host(
        lambda folder: tiny_joint.pipeline(folder, dual_attention_layers=(0,), qk_norm="rms_norm"),
        lambda pipe, prompt, **changes: tiny_joint.generate(pipe, prompt, height=HEIGHT, width=WIDTH, **changes),
        ((2, 3, 17, 18), (6, 7, 21, 22)),
        texts=28,
        text_first=False,
    ),
    "flux": Host(lambda folder: FLUX.build(), FLUX.generate, ((1, 2), (5, 6)), texts=16, text_first=True),
}
every_host = pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)


def boxed(settings: Any = JOINT, **changes: Any) -> weft.MaskDiffusion:
    return weft.MaskDiffusion(boxes=BOXES, mode=settings, **changes)


# --- the same by a bias of every query and key --------------------------------------------------------------------


def kinds_of(host: Host) -> list[Any]:
    """Every token of an attention: a set of objects for a pixel, the object of a word, None for other text."""
    pixels: list[Any] = []
    for cell in range(H * W):
        x, y = (cell % W + 0.5) * WIDTH / W, (cell // W + 0.5) * HEIGHT / H
        inside = [left < x < right and top < y < bottom for left, top, right, bottom in BOXES.values()]
        pixels.append(frozenset(o for o, yes in enumerate(inside) if yes))
    text: list[Any] = [None] * host.texts
    for o, places in enumerate(host.words):
        for place in places:
            text[place] = o
    return text + pixels if host.text_first else pixels + text


def term(query: Any, key: Any, settings: JointSettings) -> tuple[float, float]:
    """alpha and delta of a query and a key at strength 1."""
    from_pixel, to_pixel = isinstance(query, frozenset), isinstance(key, frozenset)
    if from_pixel and isinstance(key, int):
        return (settings.gain, settings.inside) if key in query else (1.0, settings.outside)
    if from_pixel and to_pixel and query and not query & key:
        return 1.0, settings.between_pixels
    if isinstance(query, int) and to_pixel and query not in key:
        return 1.0, settings.from_words
    if isinstance(query, int) and isinstance(key, int) and key != query:
        return 1.0, settings.between_words
    return 1.0, 0.0


@contextmanager
def biased(pipe: Any, host: Host, settings: JointSettings, strengths: list[float]) -> Iterator[None]:
    """Stock attention in which the last row of every batch has the bias of its step."""
    kinds, stock, step = kinds_of(host), F.scaled_dot_product_attention, iter(strengths)
    terms = torch.tensor([[term(query, key, settings) for key in kinds] for query in kinds])
    is_pixel = torch.tensor([isinstance(kind, frozenset) for kind in kinds])
    running: list[float] = []

    def attention(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        own = {len(kinds): terms, int(is_pixel.sum()): terms[is_pixel][:, is_pixel]}.get(query.shape[2])
        if own is None or not running or not running[-1]:
            return stock(query, key, value, **options)
        gain, shift = 1 + running[-1] * (own[..., 0] - 1), running[-1] * own[..., 1]
        logits = gain * (query[-1:] @ key[-1:].mT) / math.sqrt(query.shape[-1]) + shift
        return torch.cat([stock(query[:-1], key[:-1], value[:-1]), logits.softmax(-1) @ value[-1:]])

    hook = pipe.transformer.register_forward_pre_hook(lambda *ignored: running.append(next(step)))
    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = stock
        hook.remove()


@every_host
@pytest.mark.parametrize(
    "settings", [JOINT, EVERY_TERM, dataclasses.replace(EVERY_TERM, gain=1.5)], ids=["default", "every term", "gain"]
)
def test_it_is_stock_attention_with_a_dense_bias(host: Host, settings: JointSettings, tmp_path: Path) -> None:
    pipe = host.build(tmp_path)
    stock = host.draw(pipe)
    noise = [float(t) / 1000 for t in pipe.scheduler.timesteps]
    strengths = [0.8 * t**settings.exponent if t > 1 - settings.share else 0.0 for t in noise]
    assert strengths[0] and not strengths[-1]
    found = host.draw(pipe, boxed(settings, strength=0.8))
    with biased(pipe, host, settings, strengths):
        expected = host.generate(pipe, PROMPT, num_inference_steps=STEPS, output_type="latent")
    assert_differs(expected, stock, share=1e-3)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


# --- what it leaves alone ------------------------------------------------------------------------------------------


@every_host
@pytest.mark.parametrize(
    "changes", [{"strength": 0.0}, {"mode": JointSettings(outside=0.0)}], ids=["strength", "zeros"]
)
def test_alpha_1_and_delta_0_is_stock_but_for_rounding(host: Host, changes: dict[str, Any], tmp_path: Path) -> None:
    pipe = host.build(tmp_path)
    stock = host.draw(pipe)
    found = host.draw(pipe, weft.MaskDiffusion(boxes=BOXES, **changes))
    torch.testing.assert_close(found, stock, atol=1e-5, rtol=1e-4)


@every_host
def test_it_can_be_drawn_and_recorded(host: Host, tmp_path: Path) -> None:
    control = boxed()
    host.draw(host.build(tmp_path), control)
    assert control.phrases == (tuple(BOXES),)
    assert control.regions is None
    with pytest.raises(ValueError, match="nothing was read"):
        _ = control.maps
    black = Image.new("RGB", (WIDTH, HEIGHT))
    picture = control.image(black)
    assert picture.getpixel((1, 60)) == (230, 159, 0), "the outline of the first box"
    assert list(control.pictures(black)) == ["regions"]
    assert control.settings() == dataclasses.asdict(JOINT)


@every_host
def test_steps_may_be_counted(host: Host, tmp_path: Path) -> None:
    pipe = host.build(tmp_path)
    seen: list[int] = []
    control = boxed(steps=2)
    request = control.request_layer

    def recording(layer: LayerInfo, step: Step) -> LayerRequest | None:
        made = request(layer, step)
        seen.extend([step.index] * (made is not None))
        return made

    control.request_layer = recording  # type: ignore[method-assign]
    host.draw(pipe, control)
    assert set(seen) == {0, 1}


# --- what is refused -----------------------------------------------------------------------------------------------


@every_host
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "finds regions in the attention of UNets; this model has a joint attention"),
        ({"boxes": BOXES, "mode": "released"}, "mode 'released' is for UNets; this model has a joint attention"),
        ({"boxes": BOXES, "mode": MaskDiffusionSettings()}, r"is for UNets; .* give \"clean\" or a JointSettings"),
    ],
)
def test_what_is_made_for_unets_is_refused(
    host: Host, arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        weft.attach(host.build(tmp_path), weft.MaskDiffusion(**arguments))


def test_what_is_made_for_joint_attention_is_refused_on_unets(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`JointSettings` are for joint attention; this model is a UNet"):
        weft.attach(tiny_pipelines.sd1(tmp_path), boxed())


@every_host
@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ({"red circle": (0, 0, WIDTH + 1, 8)}, f"inside the image of {WIDTH} x {HEIGHT} pixels"),
        ({"a green ball": (0, 0, 8, 8)}, "'a green ball' is not in the prompt"),
        ({"red circle": (0, 0, 8, 8), "circle": (8, 0, 16, 8)}, "must not overlap; 'circle' shares tokens"),
    ],
)
def test_boxes_that_do_not_fit_the_prompt_or_the_image(host: Host, boxes: Any, message: str, tmp_path: Path) -> None:
    pipe = host.build(tmp_path)
    with pytest.raises(ValueError, match=message):
        host.draw(pipe, weft.MaskDiffusion(boxes=boxes))
    assert bool(host.draw(pipe).isfinite().all()), "the pipeline works as before"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outside": 1.0}, "`outside` must be from -inf to 0, and not inf; got 1.0"),
        ({"inside": math.inf}, "`inside` must be from 0 to inf, and not inf; got inf"),
        ({"share": float("nan")}, "`share` must be from 0 to 1"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JointSettings(**changes)


def test_every_number_of_the_settings_has_a_range() -> None:
    assert {field.name for field in dataclasses.fields(JOINT)} == set(RANGES)


# --- masks --------------------------------------------------------------------------------------------------------


def masks() -> dict[str, Any]:
    """``BOXES`` as masks: one as booleans, one as an image."""
    made = {}
    for phrase, (left, top, right, bottom) in BOXES.items():
        mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        mask[int(top) : int(bottom), int(left) : int(right)] = True
        made[phrase] = mask
    last = next(reversed(made))
    made[last] = Image.fromarray(255 * made[last].to(torch.uint8).numpy())
    return made


@every_host
def test_a_mask_of_a_box_is_that_box(host: Host, tmp_path: Path) -> None:
    pipe = host.build(tmp_path)
    by_box = host.draw(pipe, boxed())
    assert torch.equal(host.draw(pipe, weft.MaskDiffusion(boxes=masks(), mode=JOINT)), by_box)
    one, *others = masks().items()
    mixed = weft.MaskDiffusion(boxes={one[0]: one[1], **{phrase: BOXES[phrase] for phrase, _ in others}}, mode=JOINT)
    assert "mask of" in repr(mixed)
    assert torch.equal(host.draw(pipe, pickle.loads(pickle.dumps(mixed))), by_box)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(HEIGHT, WIDTH), "must have a pixel inside"),
        (torch.ones(3, HEIGHT, WIDTH), r"must be \[h, w\]"),
        (2.0 * torch.ones(HEIGHT, WIDTH), "from 0 to 1"),
    ],
    ids=["empty", "channels", "range"],
)
def test_masks_that_cannot_be_used(mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weft.MaskDiffusion(boxes={phrase: mask for phrase in BOXES})


def test_a_mask_of_another_size_than_the_image(tmp_path: Path) -> None:
    host = HOSTS["flux"]
    pipe = host.build(tmp_path)
    with pytest.raises(ValueError, match=r"must have the size of the image, \d+ x \d+ \(rows x columns\); got 5 x 7"):
        host.draw(pipe, weft.MaskDiffusion(boxes={phrase: torch.ones(5, 7) for phrase in BOXES}, mode=JOINT))
