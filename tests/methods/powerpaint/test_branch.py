"""TaskBranch: what UNet and branch read in a stock pipeline, and what is computed how often."""

from __future__ import annotations

import copy
from typing import Any

import branches
import inpainting
import numpy as np
import pytest
import task_branches
import tiny_pipelines as tiny
import torch
from diffusers import StableDiffusionControlNetInpaintPipeline, StableDiffusionInpaintPipeline
from task_branches import SIZE, call, task_branch

import weft
from weft.methods.inpainting.inputs import CONVENTIONS
from weft.testing.branch_eager import branch_residuals, denoised


@pytest.fixture
def pipe(tmp_path: Any) -> Any:
    return branches.pipeline(tmp_path)


@pytest.fixture
def bare() -> dict[str, Any]:
    """A branch whose images are the pipeline's own."""
    return {"paste_back": None}


class Passes:
    """Notes what reaches UNet and branch in every pass."""

    def __init__(self, pipe: Any, branch: weft.TaskBranch) -> None:
        self.of_unet: list[dict[str, Any]] = []
        self.of_branch: list[tuple[torch.Tensor, ...]] = []
        self.noise: list[torch.Tensor] = []
        pipe.unet.register_forward_pre_hook(self._before, with_kwargs=True)
        pipe.unet.register_forward_hook(lambda module, args, output: self.noise.append(output[0].clone()))
        branch.network.register_forward_pre_hook(lambda module, args: self.of_branch.append(args))

    def _before(self, module: Any, args: Any, kwargs: Any) -> None:
        self.of_unet.append({"sample": args[0].clone(), "timestep": args[1], **kwargs})


# --- what is said ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "said", "first", "unsaid", "second", "guidance"),
    [
        ("removal", "a ball empty scene blur", "context", "red", "object", 10.0),
        ("insert", "a ball", "object", "red", "object", 7.5),
        ("context", "a ball", "context", "red", "empty", 7.5),
    ],
)
def test_what_a_task_says(
    pipe: Any, monkeypatch: Any, task: str, said: str, first: str, unsaid: str, second: str, guidance: float
) -> None:
    tiny_limit(pipe)
    branch = task_branch(pipe)
    with weft.attach(pipe, branch):
        given = getattr(branch, task)("a ball", negative="red")
        assert torch.allclose(given["prompt_embeds"], encoded(pipe, said), atol=1e-6), "the UNet reads words alone"
        assert torch.allclose(given["negative_prompt_embeds"], encoded(pipe, unsaid), atol=1e-6)
    assert torch.equal(given["task_embeds"][0], branch.states[first])
    assert torch.equal(given["negative_task_embeds"][0], branch.states[second])
    assert given["task_guidance_scale"] == guidance


def tiny_limit(pipe: Any) -> None:
    """Let the tiny tokenizer's letters fit."""
    pipe.text_encoder = task_branches.long_text_encoder(len(pipe.tokenizer))
    pipe.tokenizer.model_max_length = task_branches.LONG


def encoded(pipe: Any, text: str) -> torch.Tensor:
    with torch.no_grad():
        return pipe.encode_prompt(text, "cpu", 1, False)[0]


def test_outpainting_says_empty_scene(pipe: Any) -> None:
    tiny_limit(pipe)
    branch = task_branch(pipe)
    with weft.attach(pipe, branch):
        given = branch.outpaint(inpainting.picture(size=SIZE), left=8)
        assert torch.allclose(given["prompt_embeds"], encoded(pipe, "empty scene"), atol=1e-6)
        assert given["image"][0].size == (40, 32)
        assert torch.equal(given["task_embeds"][0], branch.states["context"])
        assert torch.equal(given["negative_task_embeds"][0], branch.states["object"])


@pytest.mark.parametrize("fit", [0.0, 0.3, 1.0])
def test_shape_mixes_the_constants(pipe: Any, fit: float) -> None:
    branch = task_branch(pipe)
    with weft.attach(pipe, branch):
        given = branch.shape(["a ball", "red"], fit=fit)
    expected = fit * branch.states["shape"] + (1 - fit) * branch.states["context"]
    for name in ("task_embeds", "negative_task_embeds"):
        assert given[name].shape == (2, *expected.shape)
        assert torch.allclose(given[name], expected.expand(2, -1, -1), atol=1e-6)
    if fit in (0.0, 1.0):
        assert torch.equal(given["task_embeds"][0], branch.states["shape" if fit else "context"])


# --- what is seen and added --------------------------------------------------------------------------------------


def test_zero_convolutions_change_no_bit(pipe: Any, bare: dict) -> None:
    for surroundings in ("free", "held"):
        branch = task_branch(pipe, 0.0, surroundings=surroundings, **bare)
        with weft.attach(pipe, branch):
            given = branch.removal("red")
            found = pipe(**call(), **given).images
        plain = {name: value for name, value in given.items() if "task" not in name}
        plain["guidance_scale"] = given["task_guidance_scale"]
        mask = {"mask_image": torch.ones(1, 1, *SIZE)} if surroundings == "free" else {}
        assert np.array_equal(found, pipe(**call(**mask), **plain).images), surroundings


@pytest.mark.parametrize("dialect", ["main-v2", "dev"])
@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_a_pass_is_that_of_the_plain_walk(pipe: Any, bare: dict, dialect: str, guidance: float) -> None:
    branch = task_branch(pipe, dialect=dialect, **bare)
    passes = Passes(pipe, branch)
    with weft.attach(pipe, branch):
        given = branch.removal("red", negative="blue", guidance_scale=guidance)
        pipe(**call(), **given)
    image = pipe.image_processor.preprocess(call()["image"], tiny.SIDE, tiny.SIDE)
    hole = pipe.mask_processor.preprocess(call()["mask_image"], tiny.SIDE, tiny.SIDE)
    convention = CONVENTIONS[dialect]
    black = torch.where(hole > 0.5, torch.tensor(-1.0), image)
    with torch.no_grad():
        masked = pipe.vae.encode(black).latent_dist.mode() * pipe.vae.config.scaling_factor
    cells = hole[..., ::2, ::2]
    rows = 2 if guidance > 1 else 1
    text = torch.stack([branch.states["object"], branch.states["context"]])[-rows:]
    assert len(passes.of_unet) == 3
    for seen, noise in zip(passes.of_unet, passes.noise, strict=True):
        inputs = convention.joined(seen["sample"], masked.repeat(rows, 1, 1, 1), cells.repeat(rows, 1, 1, 1))
        with torch.no_grad():
            residuals = branch_residuals(branch.network, inputs, seen["timestep"], text)
            of_prompt = seen["encoder_hidden_states"]
            expected = denoised(pipe.unet, seen["sample"], seen["timestep"], of_prompt, residuals)
            alone = denoised(pipe.unet, seen["sample"], seen["timestep"], of_prompt, [0 * one for one in residuals])
        assert torch.allclose(noise, expected, atol=1e-4, rtol=1e-4)
        assert (alone - expected).abs().max() > 1e-2


def test_conventions_by_hand(pipe: Any, bare: dict) -> None:
    branch = task_branch(pipe, **bare)
    passes = Passes(pipe, branch)
    with weft.attach(pipe, branch):
        pipe(**call(), **branch.removal())
    inputs = passes.of_branch[0][0]
    keep = inputs[:, 8]
    assert inputs.shape == (2, 9, 16, 16) and set(keep.unique().tolist()) == {0.0, 1.0}
    left, top, right, bottom = (side // 2 for side in task_branches.BOX)
    expected = torch.ones(16, 16)
    expected[top:bottom, left:right] = 0
    assert torch.equal(keep[0], expected) and torch.equal(keep[1], expected)
    assert torch.equal(inputs[:, :4], passes.of_unet[0]["sample"])


def test_every_wrong_convention_is_another_picture(pipe: Any, bare: dict) -> None:
    branch = task_branch(pipe, **bare)
    found = []
    for dialect in ("main-v2", "dev"):
        branch.dialect = dialect
        with weft.attach(pipe, branch):
            found.append(pipe(**call(), **branch.removal()).images)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_surroundings(pipe: Any, bare: dict) -> None:
    """Held, what is outside of the hole is the picture's own latents; free, the branch has to find it."""
    image = call()["image"]
    latents = {}
    for surroundings in ("free", "held"):
        branch = task_branch(pipe, surroundings=surroundings, **bare)
        with weft.attach(pipe, branch):
            latents[surroundings] = pipe(**call(output_type="latent"), **branch.removal()).images
    pixels = pipe.image_processor.preprocess(image, tiny.SIDE, tiny.SIDE)
    with torch.no_grad():
        kept = pipe._encode_vae_image(pixels, inpainting.generator())
    left, top, right, bottom = (side // 2 for side in task_branches.BOX)
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[top:bottom, left:right] = False
    assert torch.allclose(latents["held"][..., outside], kept[..., outside], atol=1e-5)
    assert (latents["free"][..., outside] - kept[..., outside]).abs().max() > 1e-2


def test_a_call_without_a_task_leaves_the_branch_with_nothing_said(pipe: Any, bare: dict) -> None:
    branch = task_branch(pipe, **bare)
    passes = Passes(pipe, branch)
    with weft.attach(pipe, branch):
        pipe("a ball", **call())
    text = passes.of_branch[0][2]
    assert torch.equal(text, branch.states["empty"].expand(2, -1, -1))


def test_batches_and_their_rows(pipe: Any, bare: dict) -> None:
    """Two pictures with two holes, texts and tasks in one call are the two calls."""
    branch = task_branch(pipe, **bare)
    boxes = task_branches.masks((8, 10, 20, 24), (2, 4, 12, 30))
    pictures = [inpainting.picture(index, SIZE) for index in (1, 2)]
    noise = torch.randn(2, 4, 16, 16, generator=inpainting.generator())
    with weft.attach(pipe, branch):
        tasks = [branch.removal("red"), branch.context("a ball", guidance_scale=10.0)]
        together = {
            name: torch.cat([task[name] for task in tasks]) if name != "task_guidance_scale" else 10.0
            for name in tasks[0]
        }
        both = pipe(**call(image=pictures, mask_image=boxes, latents=noise), **together).images
        for row in range(2):
            alone = call(image=pictures[row], mask_image=boxes[row], latents=noise[row : row + 1])
            assert np.allclose(pipe(**alone, **tasks[row]).images[0], both[row], atol=2e-4)
    assert np.abs(both[0] - both[1]).max() > 0.01


def test_several_images_of_a_prompt(pipe: Any, bare: dict) -> None:
    branch = task_branch(pipe, **bare)
    noise = torch.randn(4, 4, 16, 16, generator=inpainting.generator())
    passes = Passes(pipe, branch)
    with weft.attach(pipe, branch):
        given = branch.shape(["a ball", "red"], fit=0.5)
        given["task_embeds"] = torch.stack([branch.states["shape"], branch.states["object"]])
        pipe(**call(latents=noise), num_images_per_prompt=2, **given)
    text = passes.of_branch[0][2]
    assert torch.equal(text[4:], given["task_embeds"].repeat_interleave(2, 0))
    assert torch.equal(text[:4], given["negative_task_embeds"].repeat_interleave(2, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(pipe: Any, bare: dict, dtype: torch.dtype) -> None:
    exact = task_branch(pipe, **bare)
    with weft.attach(pipe, exact):
        expected = pipe(**call(), **exact.removal()).images
    pipe.to(dtype)
    branch = weft.TaskBranch(copy.deepcopy(exact.network).to(dtype), exact.states, **bare)
    with weft.attach(pipe, branch):
        found = pipe(**call(), **branch.removal()).images
        branch.network.float()
        mixed = pipe(**call(), **branch.removal()).images
    tolerance = {torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.25}[dtype]
    assert np.abs(found - expected).max() < tolerance and np.abs(mixed - expected).max() < tolerance


# --- how often ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reuse", "computed"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (3, [0, 3])])
def test_reuse(pipe: Any, bare: dict, reuse: int, computed: list[int]) -> None:
    branch = task_branch(pipe, reuse=reuse, **bare)
    passes = Passes(pipe, branch)
    with weft.attach(pipe, branch):
        pipe(**call(num_inference_steps=5), **branch.removal())
    steps = [seen["timestep"].item() for seen in passes.of_unet]
    assert [given[1].item() for given in passes.of_branch] == [steps[index] for index in computed]
    for index, (seen, noise) in enumerate(zip(passes.of_unet, passes.noise, strict=True)):
        with torch.no_grad():
            residuals = branch_residuals(branch.network, *passes.of_branch[index // reuse])
            expected = denoised(pipe.unet, seen["sample"], seen["timestep"], seen["encoder_hidden_states"], residuals)
        assert torch.allclose(noise, expected, atol=1e-4, rtol=1e-4), "the last found is added in between"


def test_a_range_of_steps(pipe: Any, bare: dict) -> None:
    """Outside of it the UNet finds what it finds alone, bit for bit."""
    branch = task_branch(pipe, start=1, until=3, reuse=2, **bare)
    passes = Passes(pipe, branch)
    with weft.attach(pipe, branch):
        given = branch.removal()
        pipe(**call(num_inference_steps=4), **given)
    assert len(passes.of_branch) == 1
    for index in (0, 3):
        seen = passes.of_unet[index]
        with torch.no_grad():
            alone = pipe.unet(
                seen["sample"], seen["timestep"], encoder_hidden_states=seen["encoder_hidden_states"]
            ).sample
        assert torch.equal(alone, passes.noise[index])


def test_scale(pipe: Any, bare: dict) -> None:
    found = []
    for scale in (0.0, 0.5, 1.0):
        branch = task_branch(pipe, scale=scale, **bare)
        with weft.attach(pipe, branch):
            found.append(pipe(**call(), **branch.removal()).images)
    nothing = task_branch(pipe, 0.0, **bare)
    with weft.attach(pipe, nothing):
        assert np.array_equal(pipe(**call(), **nothing.removal()).images, found[0])
    assert np.abs(found[1] - found[0]).max() > 1e-3 and np.abs(found[2] - found[1]).max() > 1e-3


def test_keys_and_values_of_the_branchs_texts_are_computed_once(pipe: Any, bare: dict) -> None:
    branch = task_branch(pipe, **bare)
    layers = sum(name.endswith("attn2") for name, _ in branch.network.unet.named_modules())
    with weft.attach(pipe, branch):
        pipe(**call(), **branch.removal())
        cache = branch.text_cache
        assert cache is not None
        assert (cache.misses, cache.hits, cache.bypassed) == (layers, 2 * layers, 0)
        pipe(**call(), **branch.removal())
        assert cache.misses == 2 * layers
    assert branch.text_cache is None


# --- beside a pipeline -------------------------------------------------------------------------------------------


def test_exact_undo(pipe: Any) -> None:
    branch, image = task_branch(pipe), inpainting.picture(size=SIZE)
    parts, processors = dict(pipe.components), dict(pipe.unet.attn_processors)
    mine = dict(branch.network.unet.attn_processors)
    weights = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    with weft.attach(pipe, branch):
        for given in (branch.removal(), branch.insert("a ball"), branch.shape("red", fit=0.8), branch.context()):
            found = pipe(prompt="", **call(output_type="pil"), **given).images[0]
            assert found.size == image.size and inpainting.repainted(found, image).any()
            assert not inpainting.changed(found, image)[-2:].any(), "the rim of the picture keeps its bits"
    assert type(pipe) is StableDiffusionInpaintPipeline and "encode_prompt" not in vars(pipe)
    assert all(pipe.components[name] is part for name, part in parts.items())
    assert all(pipe.unet.attn_processors[name] is processor for name, processor in processors.items())
    assert all(branch.network.unet.attn_processors[name] is processor for name, processor in mine.items())
    assert all(torch.equal(value, weights[name]) for name, value in pipe.unet.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pipe.unet.modules())
    with pytest.raises(RuntimeError, match=r"TaskBranch\.removal: needs the pipeline's text encoder"):
        branch.removal()


def test_one_call_from_beginning_to_end(pipe: Any) -> None:
    branch, image = task_branch(pipe), inpainting.picture(size=(48, 40))
    mask = inpainting.box_mask((10, 10, 24, 24), image.size)
    found = branch.inpaint(pipe, image, mask, "shape", text="a ball", fit=0.7, blend="hard", num_inference_steps=2)
    differs = inpainting.changed(found, image)
    assert inpainting.repainted(found, image).any() and not differs[np.asarray(mask) == 0].any()
    assert branch.inpaint(pipe, image, task="outpaint", top=8, num_inference_steps=2).size == (48, 48)
    several = branch.inpaint(pipe, [image, image], mask, num_inference_steps=2)
    assert len(several) == 2 and type(pipe) is StableDiffusionInpaintPipeline


def test_with_a_controlnet(tmp_path: Any, bare: dict) -> None:
    plain = tiny.controlnet(tmp_path / "controlnet").controlnet
    pipe = tiny.sd1(tmp_path, StableDiffusionControlNetInpaintPipeline, controlnet=plain)
    branch = weft.TaskBranch(branches.branch(pipe.unet), task_branches.states(), **bare)
    with weft.attach(pipe, branch):
        given = branch.removal()
        found = pipe(**call(), control_image=tiny.picture(), **given).images
    plain_call = {name: value for name, value in given.items() if "task" not in name}
    stock = pipe(**call(), control_image=tiny.picture(), **plain_call).images
    assert found.shape == stock.shape and np.abs(found - stock).max() > 1e-3


def test_what_is_refused(pipe: Any, tmp_path: Any) -> None:
    branch = task_branch(pipe)
    with pytest.raises(ValueError, match=r"needs the UNet of a text-to-image model, with 4 input channels.* has 9"):
        weft.attach(tiny.inpaint(tmp_path / "inpaint"), branch)
    with pytest.raises(ValueError, match=r"needs an inpainting pipeline"):
        weft.attach(tiny.sd1(tmp_path / "plain", config=branches.BASE), branch)
    with pytest.raises(ValueError, match=r"does not fit StableDiffusionInpaintPipeline: it adds at 28 places"):
        weft.attach(tiny.sd1(tmp_path / "other", StableDiffusionInpaintPipeline), branch)
    with pytest.raises(TypeError, match="attach the pipeline, not its UNet"):
        weft.attach(pipe.unet, branch)
    with pytest.raises(ValueError, match=r"UNet made for inpainting, with 9 input channels.*this one has 4"):
        weft.attach(pipe, weft.TaskPrompts(inpainting.vectors(32)))
    assert not weft.attach(pipe).detach(), "nothing of these stayed"
    with weft.attach(pipe, branch):
        with pytest.raises(ValueError, match=r"`prompt` must be empty beside the embeddings of a task"):
            pipe(prompt="a ball", **call(), **branch.removal())
        with pytest.raises(ValueError, match="`padding_mask_crop` cannot be used"):
            pipe(**call(padding_mask_crop=2), **branch.removal())
        with pytest.raises(RuntimeError, match="called outside of a call of the pipeline"):
            pipe.unet(*branches.inputs()[:2], encoder_hidden_states=branches.inputs()[2])
        branch.paste_back = None
        with pytest.raises(ValueError, match=r"3 tasks do not fit 1 images"):
            pipe(**call(), **{**branch.removal(), "task_embeds": torch.zeros(3, 7, 32)})
        with pytest.raises(ValueError, match=r"picture of 3 channels"):
            pipe(**call(image=torch.zeros(1, 4, 32, 32)), **branch.removal())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reuse": 0}, r"`reuse` must be a whole number of steps from 1 on; got 0"),
        ({"start": -1}, r"`start` must be a whole number of steps from 0 on; got -1"),
        ({"start": 3, "until": 2}, r"`until` must be a step from `start` on, or None; got 2"),
        ({"scale": float("nan")}, r"`scale` must be finite; got nan"),
        ({"surroundings": "kept"}, r"`surroundings` must be 'free' or 'held'; got 'kept'"),
        ({"dialect": "main-v1"}, r"`dialect` must be one of 'main-v2', 'dev'; got 'main-v1'"),
        ({"states": {}}, r"`states` must have the texts 'context', 'shape', 'object', 'empty'"),
        ({"states": {**task_branches.states(), "empty": torch.ones(7, 16)}}, r"'empty' must be a finite matrix"),
        ({"states": {**task_branches.states(), "empty": torch.ones(6, 32)}}, r"must be equally long"),
        ({"network": torch.nn.Linear(1, 1)}, r"`network` must be a Branch; got Linear"),
    ],
)
def test_values_that_are_refused(pipe: Any, changes: dict, message: str) -> None:
    given = {"network": branches.branch(pipe.unet), "states": task_branches.states(), **changes}
    with pytest.raises((TypeError, ValueError), match=message):
        weft.TaskBranch(**given)
