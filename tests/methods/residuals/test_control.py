"""LocalizedResiduals: against an eager restatement, and what it must leave as it is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from compiled_graphs import CompiledGraphs
from concepts import BLUE, POSITIONS, PROMPT, RED, draw, residual_for
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image
from torch import Tensor

import weft
from weft.attach import base_model
from weft.attach.projections import GatedProjection
from weft.testing import assert_differs
from weft.testing.lag_eager import eager_lag


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_equals_an_eager_restatement(kind: str, tmp_path: Path) -> None:
    pipe = tiny.build(kind, tmp_path).to(torch.float64)
    residual = residual_for(pipe)
    with eager_lag(pipe.unet, [(residual.down, residual.up)], [[POSITIONS[RED]]]):
        expected = tiny.generate(pipe, kind, PROMPT, output_type="latent")
    stock = tiny.generate(pipe, kind, PROMPT, output_type="latent")
    assert (expected - stock).abs().max() > 0.05
    control = weft.LocalizedResiduals(residual, cfg="both")
    torch.testing.assert_close(draw(pipe, control, kind=kind), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("cfg", ["both", "conditional"])
def test_two_concepts_and_images_that_name_one_each(cfg: str, tmp_path: Path) -> None:
    """The larger scaled map has a pixel; an image whose prompt does not name a concept does without it."""
    pipe = tiny.sd1(tmp_path).to(torch.float64)
    residuals = [residual_for(pipe, RED), residual_for(pipe, BLUE, rank=2)]
    prompts = [PROMPT, "a blue square", "a red ball"]  # of the last one the identifier alone
    positions = [[POSITIONS[RED], POSITIONS[BLUE]], [(), (2, 3)], [(2,), ()]]
    factors = [(residual.down, residual.up) for residual in residuals]
    with eager_lag(pipe.unet, factors, positions, conditional_only=cfg == "conditional"):
        expected = tiny.generate(pipe, "sd1", prompts, output_type="latent")
    control = weft.LocalizedResiduals(residuals, cfg=cfg)
    torch.testing.assert_close(draw(pipe, control, prompt=prompts), expected, atol=1e-9, rtol=0)
    masks = control.masks
    assert masks["blue square"][2].max() == 0 and masks["red circle"][1].max() == 0
    assert masks["red circle"][2].mean() > 0.3


def test_a_localized_concept_acts_in_the_rows_of_the_prompt_by_default(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    residual = residual_for(pipe)
    for localize, rows in (("attention", "conditional"), ((2, 2, 20, 30), "conditional"), ("none", "both")):
        drawn = {cfg: draw(pipe, weft.LocalizedResiduals(residual, localize, cfg=cfg)) for cfg in (None, "both")}
        drawn["conditional"] = draw(pipe, weft.LocalizedResiduals(residual, localize, cfg="conditional"))
        assert torch.equal(drawn[None], drawn[rows])
        assert not torch.allclose(drawn["both"], drawn["conditional"], atol=1e-3)


def test_everywhere_equals_merged_weights(kind: str, tmp_path: Path) -> None:
    pipe = tiny.build(kind, tmp_path)
    residual, merged = residual_for(pipe), copy.deepcopy(pipe)
    with torch.no_grad():
        for name, down in residual.down.items():
            weight = merged.unet.get_submodule(name).weight
            weight += (residual.up[name] @ down).view_as(weight)
    expected = tiny.generate(merged, kind, PROMPT, output_type="latent")
    for exact in (False, True):
        drawn = draw(pipe, weft.LocalizedResiduals(residual, "none", exact=exact), kind=kind)
        torch.testing.assert_close(drawn, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "closed",
    [
        {"scale": 0.0},
        {"scale": [0.0], "localize": "none"},
        {"localize": np.zeros((tiny.SIDE, tiny.SIDE), dtype=bool)},
        {"threshold": 0.9999999},
    ],
    ids=["scale", "scale everywhere", "empty mask", "nothing above"],
)
def test_a_gate_that_is_closed_everywhere_is_the_base_model(closed: dict[str, Any], kind: str, tmp_path: Path) -> None:
    pipe = tiny.build(kind, tmp_path)
    control = weft.LocalizedResiduals(residual_for(pipe), **closed)
    if "threshold" in closed:  # a concept of which no pixel thinks more than of its rivals: the end token's share
        pipe.unet.load_state_dict({k: v * 0 if ".attn2.to_q" in k else v for k, v in pipe.unet.state_dict().items()})
        reader = weft.AttentionMaps([2, 3])  # its own rounding, so that both sides have it
        assert torch.equal(draw(pipe, control, kind=kind), draw(pipe, reader, kind=kind))
    else:
        assert torch.equal(draw(pipe, control, kind=kind), draw(pipe, kind=kind))


def test_pixels_outside_the_mask_keep_their_bits_in_every_block(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    outside, different = [], []

    def compare(module: Any, args: tuple[Tensor], out: Tensor) -> None:
        plain = module.host_class.forward(module, args[0])
        is_open = module.terms.gate.ne(0).transpose(1, 2).unflatten(2, out.shape[2:]).expand_as(out)
        outside.append(torch.equal(out[~is_open], plain[~is_open]))
        different.append((out != plain)[is_open].float().mean().item())

    with weft.attach(pipe, weft.LocalizedResiduals(residual_for(pipe))):
        for module in [m for m in pipe.unet.modules() if isinstance(m, GatedProjection)]:
            module.register_forward_hook(compare)
        tiny.generate(pipe, "sd1", PROMPT)
    assert len(outside) == 3 * len(base_model(pipe).projections) and all(outside)
    assert min(different) > 0.99


def test_the_network_runs_as_often_as_without(tmp_path: Path) -> None:
    pipe, calls = tiny.sd1(tmp_path), []
    pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    tiny.generate(pipe)
    without = len(calls)
    draw(pipe, weft.LocalizedResiduals(residual_for(pipe)))
    assert len(calls) == 2 * without


def test_images_do_not_depend_on_what_else_is_drawn(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    control = weft.LocalizedResiduals([residual_for(pipe, RED), residual_for(pipe, BLUE)], threshold="otsu")
    prompts = ["a blue square", "a red circle"]

    def seeded() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(2)]

    together = draw(pipe, control, prompt=prompts, generator=seeded())
    for prompt, generator, image in zip(prompts, seeded(), together, strict=True):
        alone = draw(pipe, control, prompt=prompt, generator=generator)[0]
        torch.testing.assert_close(alone, image, atol=1e-4, rtol=1e-4)


def test_the_order_of_concepts_does_not_matter(tmp_path: Path) -> None:
    """But where the scaled maps of two are equal, as at a peak that they share: hence "sum"."""
    pipe = tiny.sd1(tmp_path).to(torch.float64)
    residuals = [residual_for(pipe, RED), residual_for(pipe, BLUE, rank=2)]
    one, other = (draw(pipe, weft.LocalizedResiduals(given, overlap="sum")) for given in (residuals, residuals[::-1]))
    torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def test_the_strength_of_every_image_and_concept(tmp_path: Path) -> None:
    """A table of strengths serves every image of a batch with its own concepts, at their own strength."""
    pipe = tiny.sd1(tmp_path)
    residuals = [residual_for(pipe, RED), residual_for(pipe, BLUE)]
    table = [[0.5, 0.0], [0.0, 0.0], [0.0, 1.5]]
    latents = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    drawn = draw(pipe, weft.LocalizedResiduals(residuals, "none", scale=table), prompt=[PROMPT] * 3, latents=latents)
    for row, image, start in zip(table, drawn, latents, strict=True):
        alone = draw(pipe, weft.LocalizedResiduals(residuals, "none", scale=row), latents=start[None])[0]
        torch.testing.assert_close(image, alone, atol=1e-4, rtol=1e-4)


def test_scale_may_change_between_steps(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    control = weft.LocalizedResiduals(residual_for(pipe), "none")
    expected = draw(pipe, num_inference_steps=3)

    def close(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        control.scale = 0.0
        return {}

    control.scale = 0.0
    assert torch.equal(draw(pipe, control), expected)
    control.scale = 1.0
    whole = draw(pipe, control)
    assert not torch.allclose(draw(pipe, control, callback_on_step_end=close), whole, atol=1e-3)
    assert control.scale == 0.0


def test_concepts_with_one_identifier_are_distinguished(tmp_path: Path) -> None:
    """Each "red" belongs to the class word behind it, also where another word is between."""
    pipe = tiny.sd1(tmp_path)
    residuals = [residual_for(pipe, ("red", "circle")), residual_for(pipe, ("red", "square"))]
    for prompt, acting in {
        "a red square": [1],
        "a red blue circle and a red square": [0, 1],
        "a red green square": [1],
        "a square and a red circle": [0],
    }.items():
        control = weft.LocalizedResiduals(residuals, overlap="sum")
        drawn = draw(pipe, control, prompt=prompt, num_inference_steps=1)
        assert [bool(control.masks[phrase].max() > 0) for phrase in control.phrases] == [k in acting for k in (0, 1)]
        if len(acting) == 1:
            alone = weft.LocalizedResiduals(residuals[acting[0]])
            expected = draw(pipe, alone, prompt=prompt, num_inference_steps=1)
            torch.testing.assert_close(drawn, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="no prompt names a concept"):
        draw(pipe, weft.LocalizedResiduals(residuals), prompt="a red ball")  # of which of the two?


def test_a_generation_in_inference_mode_leaves_later_ones_alone(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    control = weft.LocalizedResiduals(residual_for(pipe))
    with weft.attach(pipe, control):
        with torch.inference_mode():
            first = tiny.generate(pipe, output_type="latent").clone()
        torch.testing.assert_close(tiny.generate(pipe, output_type="latent"), first, atol=1e-5, rtol=1e-5)


def test_layers_that_were_refused_once_are_refused_again(tmp_path: Path) -> None:
    """A processor exchanged for one that weft does not know takes the map of its block away."""

    class Own(AttnProcessor2_0):
        pass

    pipe = tiny.sd1(tmp_path)
    attn = pipe.unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn2")
    with weft.attach(pipe, weft.LocalizedResiduals(residual_for(pipe))):
        drawn = tiny.generate(pipe, output_type="latent")
        served = attn.processor
        attn.set_processor(Own())
        for _ in range(2):
            with pytest.raises(ValueError, match=r"not serve the cross-attention of down_blocks\.0\.attentions\.0"):
                tiny.generate(pipe)
        attn.set_processor(served)
        assert torch.equal(tiny.generate(pipe, output_type="latent"), drawn)


def test_memory_does_not_grow_with_every_size(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    control, kept = weft.LocalizedResiduals(residual_for(pipe)), []
    with weft.attach(pipe, control):
        for side in (64, 56, 48, 40, 32):
            tiny.generate(pipe, height=side, width=side, num_inference_steps=1)
            kept.append(sum(tensor.numel() for tensor in control._workspace._tensors.values()))
        shares = control.masks["red circle"]
    assert kept[-1] < 0.6 * max(kept) and len(control._workspace._tensors) == 0
    assert torch.equal(control.masks["red circle"], shares), "what was seen last stays readable"


def test_numbers_of_numpy(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    residual = residual_for(pipe)
    box = tuple(np.array([4, 8, 20, 30]))
    control = weft.LocalizedResiduals(residual, box, threshold=np.float32(0.5), scale=np.array([0.5]))
    expected = weft.LocalizedResiduals(residual, (4, 8, 20, 30), scale=0.5)
    assert torch.equal(draw(pipe, control), draw(pipe, expected))


def test_a_box_is_the_mask_that_covers_it(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    residual, box = residual_for(pipe), (4, 8, 20, 30)
    mask = np.zeros((tiny.SIDE, tiny.SIDE), dtype=np.uint8)
    mask[8:30, 4:20] = 255
    regions: list[Any] = [box, {"red circle": box}, mask, [torch.from_numpy(mask) > 0], Image.fromarray(mask)]
    regions += [mask // 255, mask / 255.0, Image.fromarray(mask / np.float32(255))]  # as segmentation models give them
    drawn = [draw(pipe, weft.LocalizedResiduals(residual, region)) for region in regions]
    assert all(torch.equal(one, drawn[0]) for one in drawn[1:])
    assert_differs(drawn[0], draw(pipe))


@pytest.mark.parametrize("kind", ["img2img", "inpaint", "controlnet", "refiner"])
def test_other_pipelines(kind: str, tmp_path: Path) -> None:
    pipe = tiny.build(kind, tmp_path)
    stock = draw(pipe, kind=kind)
    control = weft.LocalizedResiduals(residual_for(pipe))
    localized = draw(pipe, control, kind=kind)
    assert_differs(localized, stock)
    control.scale = 0.0
    assert torch.equal(draw(pipe, control, kind=kind), stock)


@pytest.mark.parametrize("images", [1, 2])
def test_guidance_may_end_midway(images: int, tmp_path: Path) -> None:
    """A callback that drops the rows without the prompt changes the batch within a generation."""
    pipe = tiny.sd1(tmp_path)
    control, sizes = weft.LocalizedResiduals(residual_for(pipe)), []

    def end(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            pipe._guidance_scale = 0.0
            given["prompt_embeds"] = given["prompt_embeds"].chunk(2)[1]
        return given

    pipe.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    call = {"callback_on_step_end": end, "callback_on_step_end_tensor_inputs": ["prompt_embeds", "latents"]}
    drawn = draw(pipe, control, num_images_per_prompt=images, **call)
    assert sizes == [2 * images, images, images] and drawn.isfinite().all()
    assert control.masks["red circle"].shape == (images, 16, 16)


def test_adapters_of_peft_stay_where_they_are(tmp_path: Path) -> None:
    """A LoRA around the same projections adds to what the residual adds."""
    pipe = tiny.sd1(tmp_path)
    residual, other = residual_for(pipe), residual_for(pipe, BLUE)
    other.save(tmp_path / "other.safetensors")
    both = draw(pipe, weft.LocalizedResiduals([residual, other], "none"))
    pipe.load_lora_weights(tmp_path / "other.safetensors")
    drawn = draw(pipe, weft.LocalizedResiduals(residual, "none"))
    torch.testing.assert_close(drawn, both, atol=2e-4, rtol=1e-3)


def test_it_reads_beside_other_controls(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    control, maps = weft.LocalizedResiduals(residual_for(pipe)), weft.AttentionMaps(["circle", "square"])
    torch.testing.assert_close(draw(pipe, maps, control), draw(pipe, control), atol=1e-5, rtol=1e-5)
    assert maps.maps["circle"].shape == (1, 16, 16)


def test_a_picture_of_where_it_acted(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    control = weft.LocalizedResiduals(residual_for(pipe))
    with pytest.raises(ValueError, match="no image was made"):
        _ = control.masks
    draw(pipe, control)
    assert control.masks["red circle"].mean() == pytest.approx(0.5, abs=0.05)  # halves, on grids that are not even
    assert control.image(Image.new("RGB", (64, 48))).size == (64, 48)


def test_detaching_restores_the_model(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    before, stock = [type(module) for module in pipe.unet.modules()], tiny.generate(pipe)
    attachment = weft.attach(pipe, control := weft.LocalizedResiduals(residual_for(pipe)))
    assert np.abs(tiny.generate(pipe) - stock).max() > 1e-3
    attachment.remove(control)
    assert [type(module) for module in pipe.unet.modules()] == before
    assert np.array_equal(tiny.generate(pipe), stock)
    attachment.add(control)
    tiny.generate(pipe)
    attachment.detach()
    assert [type(module) for module in pipe.unet.modules()] == before


@pytest.mark.parametrize("localize", ["attention", "none", (2, 2, 20, 30)])
def test_compiled_models_are_not_compiled_again(localize: Any, tmp_path: Path) -> None:
    """Other steps, strengths and concepts of the same sizes use what there is."""
    pipe = tiny.sd1(tmp_path)
    graphs = CompiledGraphs()
    torch._dynamo.reset()
    eager = pipe.unet
    controls = [weft.LocalizedResiduals(residual_for(pipe, words), localize) for words in (RED, BLUE)]
    expected = [draw(pipe, control) for control in controls]
    with weft.attach(pipe, controls[0]) as attachment:
        pipe.unet = torch.compile(eager, backend=graphs)
        torch.testing.assert_close(
            tiny.generate(pipe, output_type="latent"), expected[0], atol=1e-4, rtol=1e-3, msg="compiled"
        )
        compiled = len(graphs)
        controls[0].scale = 0.5
        tiny.generate(pipe)
        controls[0].scale = 1.0
        torch.testing.assert_close(tiny.generate(pipe, output_type="latent"), expected[0], atol=1e-4, rtol=1e-3)
        attachment.remove(controls[0])
        attachment.add(controls[1])
        torch.testing.assert_close(tiny.generate(pipe, output_type="latent"), expected[1], atol=1e-4, rtol=1e-3)
        assert len(graphs) == compiled
    pipe.unet = eager
