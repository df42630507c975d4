"""TaskPrompts: what each task says to a stock pipeline, and that text never pushes it out."""

from __future__ import annotations

import warnings
from typing import Any

import inpainting
import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline

import weft
from weft.attach.text.learnt_words import LearntText, encode, token_count
from weft.methods.powerpaint.prompts import TaskPrompts
from weft.methods.powerpaint.recipes import QUALITY_WORDS, RECIPES

LONG = " ".join(["red circle"] * 60)


@pytest.fixture
def pipe() -> Any:
    return inpainting.pipeline()


def states(pipe: Any, tasks: TaskPrompts, text: str, name: str | None = None, leads: bool = False) -> torch.Tensor:
    with torch.no_grad():
        return encode(pipe, [LearntText(text, tasks.vectors[name] if name else (), leads)]).states


@pytest.mark.parametrize(
    ("task", "said", "prompt", "unsaid", "against", "guidance"),
    [
        ("removal", "empty scene blur a red star", "context", "dark", "object", 10.0),
        ("insert", "a red star", "object", "dark", "object", 7.5),
        ("context", "a red star", "context", "dark", None, 7.5),
    ],
)
def test_what_a_task_says(
    pipe: Any, task: str, said: str, prompt: str, unsaid: str, against: str | None, guidance: float
) -> None:
    tasks = inpainting.tasks()
    with weft.attach(pipe, tasks):
        given = getattr(tasks, task)("a red star", negative="dark")
        assert torch.allclose(given["prompt_embeds"], states(pipe, tasks, said, prompt), atol=1e-5)
        assert torch.allclose(given["negative_prompt_embeds"], states(pipe, tasks, unsaid, against), atol=1e-5)
        assert given["task_guidance_scale"] == guidance


@pytest.mark.parametrize("fit", [0.0, 0.3, 0.8, 1.0])
def test_shape_mixes_after_the_encoder(pipe: Any, fit: float) -> None:
    tasks = inpainting.tasks()
    with weft.attach(pipe, tasks):
        given = tasks.shape("a red star", fit=fit, negative="dark")
        tight, loose = (states(pipe, tasks, "a red star", name) for name in ("shape", "context"))
        against = [states(pipe, tasks, "dark", name) for name in ("shape", "context")]
    mixed, unsaid = given["prompt_embeds"], given["negative_prompt_embeds"]
    assert torch.allclose(mixed, fit * tight + (1 - fit) * loose, atol=1e-5)
    assert torch.allclose(unsaid, fit * against[0] + (1 - fit) * against[1], atol=1e-5)
    if fit in (0.0, 1.0):
        ends = tasks_alone(pipe, "shape" if fit else "context")
        assert torch.equal(mixed, ends), "an end of the scale is that prompt's encoding, bit for bit"


def tasks_alone(pipe: Any, name: Any) -> torch.Tensor:
    """The states of a shape task whose two prompts are the same one."""
    tasks = inpainting.tasks()
    with weft.attach(pipe, tasks):
        return tasks.shape("a red star", fit=0.5, negative="dark", prompts=(name, name), against=("shape", "context"))[
            "prompt_embeds"
        ]


def test_every_value_can_be_replaced(pipe: Any) -> None:
    tasks = inpainting.tasks()
    with weft.attach(pipe, tasks):
        given = tasks.removal(
            words="", prompts=("shape", "shape"), against=(None, None), quality_words="ugly", guidance_scale=3.0
        )
        assert torch.allclose(given["prompt_embeds"], states(pipe, tasks, "", "shape"), atol=1e-5)
        assert torch.allclose(given["negative_prompt_embeds"], states(pipe, tasks, "ugly"), atol=1e-5)
        assert given["task_guidance_scale"] == 3.0
        with pytest.raises(TypeError, match=r"has no option `blur`; it has 'prompts', 'against', 'words'"):
            tasks.removal(blur="")
        for prompts in ("context", ("remove", "context"), ("context",)):
            with pytest.raises(ValueError, match=r"`prompts` must be two of 'context', 'shape', 'object', None"):
                tasks.removal(prompts=prompts)
        with pytest.raises(ValueError, match=r"`guidance_scale` must be finite; got nan"):
            tasks.removal(guidance_scale=float("nan"))


@pytest.mark.parametrize(("dialect", "quality"), [("weft", ""), ("main-v1", QUALITY_WORDS), ("dev", "")])
def test_quality_words_are_those_of_the_dialect(pipe: Any, dialect: str, quality: str) -> None:
    tasks = inpainting.tasks(dialect=dialect)
    with weft.attach(pipe, tasks):
        for given, name in ((tasks.insert("a star"), "object"), (tasks.shape("a star"), "shape")):
            assert torch.allclose(given["negative_prompt_embeds"], states(pipe, tasks, quality, name), atol=1e-5)
        without = tasks.insert("a star", quality_words="")["negative_prompt_embeds"]
        assert torch.allclose(without, states(pipe, tasks, "", "object"), atol=1e-5)


def test_placement_before(pipe: Any) -> None:
    tasks = inpainting.tasks(placement="before")
    with weft.attach(pipe, tasks):
        given = tasks.insert("a red star")["prompt_embeds"]
        assert torch.allclose(given, states(pipe, tasks, "a red star", "object", leads=True), atol=1e-5)


@pytest.mark.parametrize(("task", "space"), [("insert", 65), ("removal", 62)])
@pytest.mark.parametrize("placement", ["after", "before"])
def test_long_text_is_cut_and_the_task_is_not(pipe: Any, placement: Any, task: str, space: int) -> None:
    tasks = inpainting.tasks(placement=placement)
    # the shapes tokenizer has no word for these three
    words = {"words": "a a a"} if task == "removal" else {}
    with weft.attach(pipe, tasks):
        with pytest.warns(UserWarning, match=r"cut off: '(circle )?(red circle ?)+'"):
            given = getattr(tasks, task)(LONG, **words)["prompt_embeds"]
        kept = " ".join(LONG.split()[:space])
        assert token_count(pipe, kept) == space
        name = "context" if task == "removal" else "object"
        said = f"a a a {kept}" if task == "removal" else kept
        assert torch.allclose(given, states(pipe, tasks, said, name, leads=placement == "before"), atol=1e-5)


def test_a_word_without_end_is_cut_by_letters(pipe: Any) -> None:
    tasks = inpainting.tasks()
    with weft.attach(pipe, tasks), pytest.warns(UserWarning, match=r"cut off: 'q+'") as warned:
        tasks.insert("q" * 200)
    assert warned[0].filename == __file__, "it names the line that asked for the task"


def test_the_released_placement_cuts_the_task_and_warns(pipe: Any) -> None:
    tasks = inpainting.tasks(placement="released")
    with weft.attach(pipe, tasks):
        with pytest.warns(UserWarning, match="no space for all 10 vectors of the task"):
            given = tasks.insert(LONG)
        bare = states(pipe, tasks, LONG)
        assert torch.allclose(given["prompt_embeds"], bare, atol=1e-5), "nothing is left of the task"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tasks.insert("a red star")


def test_words_that_leave_no_space_are_refused(pipe: Any) -> None:
    tasks = inpainting.tasks()
    with weft.attach(pipe, tasks), pytest.raises(ValueError, match="must fit the 65 tokens"):
        tasks.removal(words=LONG)


def test_texts_of_several_pictures(pipe: Any) -> None:
    tasks = inpainting.tasks()
    with weft.attach(pipe, tasks):
        given = tasks.insert(["a red star", "a blue ring"], negative="dark")
        assert torch.allclose(given["prompt_embeds"][1:], states(pipe, tasks, "a blue ring", "object"), atol=1e-5)
        assert given["prompt_embeds"].shape == given["negative_prompt_embeds"].shape == (2, 77, inpainting.WIDTH)
        with pytest.raises(ValueError, match="needs one negative text, or one for each of 3 texts; got 2"):
            tasks.insert(["a", "b", "c"], negative=["d", "e"])
        with pytest.raises(TypeError, match="`text` must be a text"):
            tasks.insert(None)
        with pytest.raises(ValueError, match=r"`fit` must be between 0 and 1; got 1\.5"):
            tasks.shape("a red star", fit=1.5)


def test_without_guidance_the_negative_prompt_does_nothing(pipe: Any) -> None:
    tasks = inpainting.tasks()
    call = {"image": inpainting.picture(), "mask_image": inpainting.box_mask(), "num_inference_steps": 2}
    with weft.attach(pipe, tasks):
        found = [
            pipe(prompt="", **call, **tasks.removal(against=against, guidance_scale=1.0), generator=generator).images[
                0
            ]
            for against, generator in (
                (("object", "object"), inpainting.generator()),
                ((None, None), inpainting.generator()),
            )
        ]
    assert not inpainting.changed(*found).any()


def test_the_issues_example_and_exact_undo() -> None:
    pipe, tasks = inpainting.pipeline(), inpainting.tasks()
    before = {name: value.clone() for name, value in pipe.text_encoder.state_dict().items()}
    vocabulary, parts = dict(pipe.tokenizer.get_vocab()), dict(pipe.components)
    image, mask = inpainting.picture(), inpainting.box_mask()
    call = {"image": image, "mask_image": mask, "num_inference_steps": 2}
    with weft.attach(pipe, tasks):
        for given in (
            tasks.removal(),
            tasks.insert("a green star"),
            tasks.shape("a red circle", fit=0.8),
            tasks.context(),
        ):
            found = pipe(prompt="", **call, **given).images[0]
            assert found.size == image.size and inpainting.repainted(found, image).any()
        wider = pipe(prompt="", num_inference_steps=2, **tasks.outpaint(image, left=8, bottom=0.25)).images[0]
        assert wider.size == (72, 80)
    assert type(pipe) is StableDiffusionInpaintPipeline and "encode_prompt" not in vars(pipe)
    assert all(pipe.components[name] is part for name, part in parts.items())
    assert pipe.tokenizer.get_vocab() == vocabulary
    assert all(torch.equal(value, before[name]) for name, value in pipe.text_encoder.state_dict().items())
    with pytest.raises(RuntimeError, match=r"within `with weft.attach"):
        tasks.removal()


def test_the_denoiser_sees_the_embeddings_and_the_stock_loop() -> None:
    """With nothing cut or pasted, an image is that of the stock pipeline given the same embeddings."""
    pipe, tasks = inpainting.pipeline(), inpainting.tasks(paste_back=None)
    call = {
        "image": inpainting.picture(),
        "mask_image": inpainting.box_mask(),
        "num_inference_steps": 3,
        "output_type": "np",
    }
    with weft.attach(pipe, tasks):
        given = tasks.shape("a red star", fit=0.5)
        mine = pipe(prompt="", **call, **given, generator=inpainting.generator()).images
    stock = pipe(**call, **given, generator=inpainting.generator()).images
    assert np.array_equal(mine, stock)


def test_text_beside_embeddings_is_refused(pipe: Any) -> None:
    tasks = inpainting.tasks()
    call = {"image": inpainting.picture(), "mask_image": inpainting.box_mask()}
    with weft.attach(pipe, tasks):
        with pytest.raises(ValueError, match="`prompt` must be empty beside the embeddings of a task; got 'a star'"):
            pipe(prompt="a star", **call, **tasks.removal())
        with pytest.raises(ValueError, match="as `negative`"):
            pipe(negative_prompt="dark", **call, **tasks.removal())


def test_words_alone_are_pasted_too(pipe: Any) -> None:
    """A call without a task keeps the picture as well."""
    image = inpainting.picture()
    with weft.attach(pipe, inpainting.tasks()):
        found = pipe("a red star", image=image, mask_image=inpainting.box_mask(), num_inference_steps=2).images[0]
    assert 0 < inpainting.changed(found, image).mean() < 0.3


def test_sdxl(tmp_path: Any) -> None:
    pipe = tiny.sdxl(tmp_path, StableDiffusionXLInpaintPipeline)
    pipe.unet = tiny.unet({**tiny.SDXL, "in_channels": 9})
    tasks = weft.TaskPrompts(inpainting.vectors(32, count=3, encoders=2))
    image = inpainting.picture(size=(tiny.SIDE, tiny.SIDE))
    with weft.attach(pipe, tasks):
        given = tasks.shape("a red circle", fit=0.5)
        assert given["pooled_prompt_embeds"].shape == given["negative_pooled_prompt_embeds"].shape == (1, 32)
        mask = inpainting.box_mask((8, 8, 20, 20), image.size)
        found = pipe(prompt="", image=image, mask_image=mask, num_inference_steps=2, **given).images[0]
    assert found.size == image.size and 0 < inpainting.changed(found, image).mean() < 1


def test_one_call_from_beginning_to_end() -> None:
    pipe, tasks, image = inpainting.pipeline(), inpainting.tasks(), inpainting.picture()
    mask = inpainting.box_mask()
    found = tasks.inpaint(
        pipe, image, mask, "shape", text="a red star", fit=0.7, blend="hard", num_inference_steps=2, generator=None
    )
    differs = inpainting.changed(found, image)
    assert inpainting.repainted(found, image).any() and not differs[np.asarray(mask) == 0].any()
    assert type(pipe) is StableDiffusionInpaintPipeline and tasks.paste_back.blend == "feather"
    several = tasks.inpaint(pipe, [image, image], mask, num_inference_steps=2)
    assert len(several) == 2
    assert tasks.inpaint(pipe, image, task="outpaint", top=8, num_inference_steps=2).size == (64, 72)


def test_controls_beside_it_read_maps(pipe: Any) -> None:
    maps, tasks = weft.AttentionMaps([1, 2]), inpainting.tasks()
    with weft.attach(pipe, tasks, maps):
        pipe(
            prompt="",
            image=inpainting.picture(),
            mask_image=inpainting.box_mask(),
            num_inference_steps=2,
            **tasks.insert("a red star"),
        )
    assert len(list(maps.maps)) == 2


def test_recipes_are_those_of_the_sheet() -> None:
    assert {task: (recipe.words, recipe.guidance_scale) for task, recipe in RECIPES.items()} == {
        "removal": ("empty scene blur", 10.0),
        "outpaint": ("empty scene blur", 10.0),
        "insert": ("", 7.5),
        "shape": ("", 7.5),
        "context": ("", 7.5),
    }
