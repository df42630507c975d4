"""MaskDiffusion on stock pipelines: what it touches, what it leaves alone, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image
from torch import Tensor

import weft
from weft.attach import LayerInfo
from weft.methods.maskdiffusion.run import tapped_layers
from weft.methods.maskdiffusion.settings import CLEAN, MODES, RELEASED
from weft.ops.regions.op import window_sizes
from weft.testing import assert_differs

PROMPT = "a red circle and a blue square"
PHRASES = ["a red circle", "a blue square"]


@pytest.fixture
def pipe(tmp_path: Path) -> Any:
    return tiny.sd1(tmp_path)


def run(pipe: Any, prompt: Any = PROMPT, steps: int = 10, **changes: Any) -> Tensor:
    images = len(prompt) if isinstance(prompt, list) else 1
    images *= changes.get("num_images_per_prompt", 1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(images)]
    arguments = {"num_inference_steps": steps, "output_type": "latent", "generator": generators, **changes}
    return pipe(prompt, **arguments).images


class Recorder:
    """Which layers ran weft's attention at which step, and what they were given."""

    def __init__(self, control: weft.MaskDiffusion) -> None:
        self.seen: list[tuple[int, LayerInfo, Any]] = []
        request = control.request_layer

        def recording(layer: LayerInfo, step: Any) -> Any:
            made = request(layer, step)
            if made is not None:
                self.seen.append((step.index, layer, made))
            return made

        control.request_layer = recording  # type: ignore[method-assign]

    def steps(self, cross: bool, of: str) -> list[int]:
        return sorted(
            {step for step, layer, made in self.seen if layer.is_cross == cross and getattr(made, of) is not None}
        )


@pytest.mark.parametrize(("mode", "cross_from", "end"), [("clean", 1, 10), ("released", 2, 6)])
def test_layers_are_edited_in_the_noisy_part_only(pipe: Any, mode: str, cross_from: int, end: int) -> None:
    control = weft.MaskDiffusion(PHRASES, mode=mode)
    recorder = Recorder(control)
    with weft.attach(pipe, control):
        run(pipe, steps=20)  # timesteps 951, 901, ...: six lie above 700, ten above 500
    assert recorder.steps(cross=True, of="edit") == list(range(cross_from, end))
    assert recorder.steps(cross=False, of="edit") == list(range(1, end))
    assert recorder.steps(cross=True, of="readout") == [0, 1, 2, 3]
    assert recorder.steps(cross=False, of="readout") == []


def test_requests_are_the_same_objects_at_every_step(pipe: Any) -> None:
    control = weft.MaskDiffusion(PHRASES)
    recorder = Recorder(control)
    with weft.attach(pipe, control):
        run(pipe, steps=20)
    for name in {layer.name for _, layer, _ in recorder.seen}:
        late = [made for step, layer, made in recorder.seen if layer.name == name and step >= 4]
        assert all(made is late[0] for made in late)


def test_what_it_found_can_be_read(pipe: Any) -> None:
    with weft.attach(pipe, weft.MaskDiffusion(PHRASES)) as attachment:
        (control,) = attachment.controls
        assert isinstance(control, weft.MaskDiffusion)
        assert control.regions is None
        assert control.phrases is None
        run(pipe)
    assert control.phrases == (tuple(PHRASES),)
    assert control.regions is not None
    assert control.regions.shape == (1, 2, 4)
    top, left, height, width = control.regions.unbind(-1)
    assert bool(((top >= 0) & (top + height <= 8) & (left >= 0) & (left + width <= 8)).all())
    sizes = window_sizes((8, 8), CLEAN.region_share, aspects=CLEAN.aspects)
    assert set(zip(height.flatten().tolist(), width.flatten().tolist(), strict=True)) <= set(sizes)
    assert list(control.maps) == PHRASES
    assert control.maps["a red circle"].shape == (1, 8, 8)
    assert control.maps.image("a red circle").size == (256, 256)


def test_regions_can_be_drawn(pipe: Any) -> None:
    black = Image.new("RGB", (32, 32))
    control = weft.MaskDiffusion(boxes={"a red circle": (0, 0, 16, 32), "a blue square": (16, 0, 32, 32)})
    with pytest.raises(ValueError, match="no image was made"):
        control.image(black)
    with weft.attach(pipe, control):
        run(pipe)
    picture = control.image(black)
    assert picture.size == (256, 256)
    assert picture.getpixel((1, 200)) == (230, 159, 0), "the outline of the first region"
    assert picture.getpixel((254, 200)) == (86, 180, 233)
    assert picture.getpixel((64, 200)) == (0, 0, 0)
    with pytest.raises(IndexError, match="below the 1 images; got 1"):
        control.image(black, 1)


def test_images_of_a_batch_do_not_know_each_other(pipe: Any) -> None:
    five = ["circle", "square", "ball", "red", "green"]
    prompts = [PROMPT, "a green ball", "a circle and a red square and a blue ball", " and ".join(five)]
    phrases = [PHRASES, ["a green ball"], ["a circle", "a red square", "a blue ball"], five]
    with weft.attach(pipe, weft.MaskDiffusion(phrases)) as attachment:
        together = run(pipe, prompts)
        regions = attachment.controls[0].regions  # type: ignore[attr-defined]
    assert regions[1, 1:].eq(0).all(), "an image with fewer objects has no more regions than objects"
    for number, (prompt, named) in enumerate(zip(prompts, phrases, strict=True)):
        with weft.attach(pipe, weft.MaskDiffusion(named)):
            alone = run(pipe, prompt, generator=[torch.Generator().manual_seed(number)])
        torch.testing.assert_close(together[number], alone[0], rtol=1e-3, atol=1e-3)


def test_several_images_of_a_prompt(pipe: Any) -> None:
    with weft.attach(pipe, weft.MaskDiffusion([PHRASES, ["a green ball"]])) as attachment:
        images = run(pipe, [PROMPT, "a green ball"], num_images_per_prompt=2)
        (control,) = attachment.controls
        assert control.phrases == (tuple(PHRASES),) * 2 + (("a green ball",),) * 2  # type: ignore[attr-defined]
    with weft.attach(pipe, weft.MaskDiffusion(PHRASES)):
        alone = run(pipe, PROMPT, num_images_per_prompt=2)
    torch.testing.assert_close(images[:2], alone, rtol=1e-3, atol=1e-3)


def test_without_guidance_every_row_is_the_prompt(pipe: Any) -> None:
    stock = run(pipe, guidance_scale=1.0)
    with weft.attach(pipe, weft.MaskDiffusion(PHRASES)):
        found = run(pipe, guidance_scale=1.0)
    assert not torch.allclose(found, stock, atol=1e-3)


def test_unconditional_rows_see_the_stock_text(pipe: Any) -> None:
    rows: list[Tensor] = []
    hook = pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    run(pipe, negative_prompt="green ball")
    stock = rows[0]
    rows.clear()
    with weft.attach(pipe, weft.MaskDiffusion(PHRASES, mode="clean")):
        run(pipe, negative_prompt="green ball")
    clean = list(rows)
    rows.clear()
    with weft.attach(pipe, weft.MaskDiffusion(PHRASES, mode="released")):
        run(pipe, negative_prompt="green ball")
    hook.remove()
    assert torch.equal(clean[0][0], stock[0]), "clean keeps the negative prompt"
    assert_differs(clean[0][1], stock[1])
    assert torch.equal(clean[-1], stock), "and exchanges nothing at late steps"
    empty = pipe.encode_prompt("", "cpu", 1, False)[0]
    torch.testing.assert_close(rows[-1][0], empty[0])
    assert_differs(rows[-1][1], stock[1])
    exchanged = (clean[0][1] != stock[1]).any(-1).nonzero()[:, 0]
    assert set(exchanged.tolist()) <= {1, 2, 3, 5, 6, 7}, "only the tokens of the phrases"


def test_strength_nothing_and_no_exchange_is_stock(pipe: Any) -> None:
    stock = run(pipe)
    settings = dataclasses.replace(CLEAN, swap="never")
    with weft.attach(pipe, weft.MaskDiffusion(PHRASES, mode=settings, strength=0.0)):
        torch.testing.assert_close(run(pipe), stock, rtol=1e-3, atol=1e-3)


def test_a_prompt_without_objects_is_stock(pipe: Any) -> None:
    stock = run(pipe, "red")
    with weft.attach(pipe, weft.MaskDiffusion()) as attachment:
        assert torch.equal(run(pipe, "red"), stock)
        assert attachment.controls[0].phrases == ((),)  # type: ignore[attr-defined]


def test_a_single_object_is_left_alone_unless_it_has_a_box(pipe: Any) -> None:
    stock = run(pipe, "a red ball")
    with weft.attach(pipe, weft.MaskDiffusion()) as attachment:
        assert torch.equal(run(pipe, "a red ball"), stock)
        control = attachment.controls[0]
        assert control.phrases == (("a red ball",),)  # type: ignore[attr-defined]
        assert control.image(Image.new("RGB", (32, 32))).size == (256, 256)  # type: ignore[attr-defined]
    with weft.attach(pipe, weft.MaskDiffusion(boxes={"a red ball": (0, 0, 16, 16)})):
        assert_differs(run(pipe, "a red ball"), stock)
    with weft.attach(pipe, weft.MaskDiffusion(mode="released")):
        assert_differs(run(pipe, "a red ball"), stock)


def test_phrases_are_found_in_the_prompt(pipe: Any) -> None:
    with weft.attach(pipe, weft.MaskDiffusion(PHRASES)):
        named = run(pipe)
    with weft.attach(pipe, weft.MaskDiffusion()) as attachment:
        found = run(pipe)
        assert attachment.controls[0].phrases == (tuple(PHRASES),)  # type: ignore[attr-defined]
    assert torch.equal(found, named)


def test_equal_phrases_are_two_objects(pipe: Any) -> None:
    with weft.attach(pipe, weft.MaskDiffusion()) as attachment:
        run(pipe, "a red ball and a red ball")
        control = attachment.controls[0]
        assert control.phrases == (("a red ball#1", "a red ball#2"),)  # type: ignore[attr-defined]
        assert (control.regions[0][0] != control.regions[0][1]).any()  # type: ignore[attr-defined]


def test_boxes_are_the_regions(pipe: Any) -> None:
    boxes = {"a red circle": (0, 0, 16, 32), "a blue square": (16, 0, 32, 16)}
    control = weft.MaskDiffusion(boxes=boxes)
    recorder = Recorder(control)
    with weft.attach(pipe, control):
        run(pipe)
    assert recorder.steps(cross=True, of="readout") == [], "no map is wanted"
    labels = next(
        made.query_labels for _, layer, made in recorder.seen if layer.level == 0 and made.query_labels is not None
    )
    grid = labels[1].view(16, 16)
    assert grid[:, :8].eq(2).all()
    assert grid[:8, 8:].eq(3).all()
    assert grid[8:, 8:].eq(1).all()
    assert labels[0].eq(0).all(), "the unconditional row is left alone"
    assert control.regions is None


@pytest.mark.parametrize(
    "changes",
    [
        {"soft_edge": 1.0},
        {"shape": "top"},
        {"shape": "median"},
        {"swap": "all"},
        {"choice": "in turn", "protect_share": 0.5, "protect_factor": 0.0},
        {"choice": "in turn", "exclusion": -2.0},
        {"gap": 0.0, "region_share": 0.4},
        {"background_weight": 1.0},
        {"share": 0.6, "refreshes": 2},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_choice_runs_and_matters(pipe: Any, changes: dict[str, Any]) -> None:
    with weft.attach(pipe, weft.MaskDiffusion(PHRASES)):
        default = run(pipe)
    with weft.attach(pipe, weft.MaskDiffusion(PHRASES, mode=dataclasses.replace(CLEAN, **changes))):
        found = run(pipe)
    # some matter little to random weights; rounding makes less than 1e-5 of a run
    assert_differs(found, default, share=3e-5)


def test_momentum_weighs_the_latest_maps(pipe: Any) -> None:
    found = {}
    for momentum in (None, 0.0, 0.5):
        settings = dataclasses.replace(CLEAN, momentum=momentum, refreshes=2, swap="never")
        with weft.attach(pipe, weft.MaskDiffusion(PHRASES, mode=settings, strength=0.0)) as attachment:
            run(pipe)
            found[momentum] = attachment.maps["a red circle"]
    torch.testing.assert_close(found[None], found[0.5])  # two maps, half and half either way
    assert_differs(found[0.0], found[0.5])


@pytest.mark.parametrize("height", [32, 48])
def test_other_sizes_and_families(height: int, tmp_path: Path) -> None:
    for name, pipe in (
        ("sd2", tiny.sd1(tmp_path / "2", config=tiny.SD2)),
        ("sdxl", tiny.sdxl(tmp_path / "xl")),
    ):
        with weft.attach(pipe, weft.MaskDiffusion(PHRASES)) as attachment:
            latents = run(pipe, height=height, width=32)
            control = attachment.controls[0]
        assert bool(latents.isfinite().all()), name
        assert control.maps["a red circle"].shape[-2:] == (height // 4, 8)  # type: ignore[attr-defined]


def test_a_late_start_edits_nothing(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path, StableDiffusionImg2ImgPipeline)
    control = weft.MaskDiffusion(PHRASES)
    recorder = Recorder(control)
    with weft.attach(pipe, control):
        image = torch.rand(1, 3, 32, 32)
        with pytest.warns(UserWarning, match="nothing is edited: this generation begins at timestep 401"):
            pipe(PROMPT, image=image, strength=0.5, num_inference_steps=10, output_type="latent")
    assert recorder.steps(cross=True, of="edit") == []
    assert control.regions is None, "no step followed any"


@pytest.mark.parametrize(("steps", "edited"), [(4, [1, 2, 3]), (0.5, [1, 2, 3, 4]), (1.0, list(range(1, 10)))])
def test_how_long(pipe: Any, steps: float, edited: list[int]) -> None:
    control = weft.MaskDiffusion(PHRASES, steps=steps)
    recorder = Recorder(control)
    with weft.attach(pipe, control):
        run(pipe, steps=10)
    assert recorder.steps(cross=False, of="edit") == edited


def test_maps_of_another_control_are_read_beside_it(pipe: Any) -> None:
    maps = weft.AttentionMaps(["circle"])
    with weft.attach(pipe, weft.MaskDiffusion(PHRASES)):
        alone = run(pipe)
    with weft.attach(pipe, weft.MaskDiffusion(PHRASES), maps):
        torch.testing.assert_close(run(pipe), alone, rtol=1e-3, atol=1e-3)
    assert maps.maps["circle"].shape == (1, 16, 16)


@pytest.mark.parametrize(
    ("model", "latent_size", "smallest", "level"),
    [
        ("sd1", (64, 64), 8, 2),
        ("sd1", (64, 64), 16, 2),
        ("sd1", (96, 64), 8, 2),
        ("sd1", (32, 32), 16, 1),
        ("sd1", (16, 16), 8, 1),
        ("sd1", (6, 6), 8, 0),
        ("sdxl", (128, 128), 8, 2),
    ],
)
def test_which_layers_are_read(model: str, latent_size: tuple[int, int], smallest: int, level: int) -> None:
    levels = {
        "sd1": {"down_blocks.0": 0, "down_blocks.1": 1, "down_blocks.2": 2, "mid_block": 3, "up_blocks.1": 2},
        "sdxl": {"down_blocks.1": 1, "down_blocks.2": 2, "mid_block": 2, "up_blocks.0": 2},
    }[model]
    layers = tuple(LayerInfo(f"{name}.attn2", True, 8, 40, level) for name, level in levels.items())
    read = {layer.name for layer in tapped_layers(layers, latent_size, smallest)}
    assert read == {f"{name}.attn2" for name, at in levels.items() if at == level and name != "mid_block"}


def test_presets() -> None:
    assert MODES == {"clean": CLEAN, "released": RELEASED}
    assert RELEASED.overlap
    assert not CLEAN.overlap


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"phrases": "a red circle"},
            TypeError,
            r"a sequence of phrases; got 'a red circle'; write \['a red circle'\]",
        ),
        ({"phrases": []}, ValueError, "must name an object"),
        ({"phrases": ["a red circle", 3]}, TypeError, "a phrase must be a string; got 3"),
        ({"phrases": [" "]}, ValueError, "must not be empty"),
        ({"phrases": ["a ball", "a ball"]}, ValueError, "got 'a ball' twice; write 'a ball#1' and 'a ball#2'"),
        ({"phrases": [["a ball"], "a ball"]}, TypeError, "all strings or all sequences"),
        ({"boxes": {}}, ValueError, "leave it out"),
        ({"boxes": [(0, 0, 1, 1)]}, TypeError, "must map phrases"),
        ({"boxes": {"a ball": (0, 0, 1)}}, TypeError, r"\(left, top, right, bottom\), or a mask .*; got \(0, 0, 1\)"),
        ({"boxes": {"a ball": (4, 0, 2, 8)}}, ValueError, "left < right"),
        ({"phrases": ["a"], "boxes": {"b": (0, 0, 8, 8)}}, ValueError, "'a' is in one only"),
        (
            {"mode": "dirty"},
            ValueError,
            "must be 'clean', 'released', a MaskDiffusionSettings or a JointSettings; got 'dirty'",
        ),
        ({"strength": -1.0}, ValueError, "`strength` must be from 0 to 2; got -1.0"),
        ({"mode": ["clean"]}, ValueError, r"a JointSettings; got \['clean'\]"),
        ({"boxes": {"a ball": 5}}, TypeError, r"\(left, top, right, bottom\), or a mask .*; got 5"),
        ({"steps": 0}, ValueError, "share in"),
        ({"steps": float("nan")}, ValueError, "share in"),
        ({"steps": 1.5}, ValueError, "at most 1; got 1.5; write 1 for steps"),
        ({"parser": "best"}, ValueError, "parser"),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        weft.MaskDiffusion(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choice": "In Turn"}, "`choice` must be one of 'together', 'in turn'; got 'In Turn'"),
        ({"shape": "circle"}, "`shape` must be one of 'window', 'top', 'median'; got 'circle'"),
        ({"swap": "often"}, "`swap` must be one of 'never', 'edited', 'all'; got 'often'"),
        ({"background_weight": 5}, "`background_weight` must be from 0 to 1; got 5"),
        ({"gap": -1}, "`gap` must be from 0 to 1; got -1"),
        ({"share": float("nan")}, "`share` must be from 0 to 1; got nan"),
        ({"momentum": 1.0}, "`momentum` must be below 1"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CLEAN, **changes)


def test_every_number_of_the_settings_has_a_range() -> None:
    from weft.methods.maskdiffusion.settings import CHOICES, RANGES

    free = {"double_logits", "keep_negative", "aspects", "corner_fallback"}
    assert {field.name for field in dataclasses.fields(CLEAN)} == free | set(CHOICES) | set(RANGES)


@pytest.mark.parametrize(
    ("arguments", "prompt", "message"),
    [
        ({"phrases": ["a green ball"]}, PROMPT, "'a green ball' is not in the prompt"),
        (
            {"phrases": ["a red circle", "circle"]},
            PROMPT,
            "must not overlap; 'circle' shares tokens with 'a red circle'",
        ),
        ({"phrases": ["a"]}, PROMPT, "occurs 2 times; write 'a#1'"),
        (
            {"phrases": ["red#1"] * 0 + [f"red#{i}" for i in range(1, 13)], "mode": "released"},
            "red " * 12,
            "at most 5",
        ),
        ({"phrases": [["a red circle"], ["a"], ["b"]]}, [PROMPT, PROMPT], "one sequence a prompt; got 3 for 2 images"),
        ({"boxes": {"a red circle": (0, 0, 33, 32)}}, PROMPT, "inside the image of 32 x 32 pixels"),
        ({"boxes": {"a red circle": (-1, 0, 8, 8)}}, PROMPT, "inside the image"),
    ],
)
def test_prompts_that_are_refused(pipe: Any, arguments: dict[str, Any], prompt: Any, message: str) -> None:
    passes: list[int] = []
    hook = pipe.unet.conv_in.register_forward_hook(lambda *ignored: passes.append(1))
    with weft.attach(pipe, weft.MaskDiffusion(**arguments)), pytest.raises(ValueError, match=message):
        run(pipe, prompt)
    hook.remove()
    assert passes == [], "before the first step"
    assert bool(run(pipe).isfinite().all()), "the pipeline works as before"


def test_embeddings_need_their_text(pipe: Any) -> None:
    embeddings, negative = pipe.encode_prompt(PROMPT, "cpu", 1, True)
    with (
        weft.attach(pipe, weft.MaskDiffusion(PHRASES)),
        pytest.raises(ValueError, match="`prompt_embeds` without their text"),
    ):
        pipe(prompt_embeds=embeddings, negative_prompt_embeds=negative, num_inference_steps=2)
    with weft.attach(pipe, weft.MaskDiffusion(PHRASES)):
        embeddings, negative = pipe.encode_prompt(PROMPT, "cpu", 1, True)
        known = run(pipe, None, prompt_embeds=embeddings, negative_prompt_embeds=negative)
        torch.testing.assert_close(known, run(pipe))


def test_a_model_without_text_is_refused() -> None:
    model = tiny.unet()
    with weft.attach(model, weft.MaskDiffusion(PHRASES)), pytest.raises(ValueError, match="attach the pipeline"):
        model(torch.randn(1, 4, 16, 16), 5, torch.randn(1, 5, 32))
