"""Files of task prompts: weft's own, and synthetic ones with the names, shapes and conventions of published ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import inpainting
import pytest
import tiny_pipelines as tiny
import torch
from safetensors.torch import load_file, save_file
from task_branches import PUBLISHED, prompts, wrapped
from torch import Tensor

import weft
from weft.attach.text.learnt_words import LearntText, encode
from weft.methods.powerpaint.recipes import NAMES

WIDTH = 32  # of the tiny models


@pytest.fixture
def pipe(tmp_path: Path) -> Any:
    return tiny.inpaint(tmp_path / "tokenizer")


def fresh(module: Any) -> dict[str, Tensor]:
    """Other weights of the same names and shapes."""
    generator = torch.Generator().manual_seed(11)
    return {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value.clone()
        for name, value in module.state_dict().items()
    }


def released(pipe: Any, folder: Path, *, prefix: str = "text_model.") -> tuple[Path, dict[str, Tensor]]:
    """A folder as PowerPaint v1 was released: two files, no configuration, the table of words wrapped."""
    text = fresh(pipe.text_encoder)
    state = wrapped(text, prefix)
    for part, tensors in (("text_encoder", state), ("unet", fresh(pipe.unet))):
        (folder / part).mkdir(parents=True)
        save_file(tensors, folder / part / f"{part}.safetensors")
    return folder, text


def mirrored(pipe: Any, folder: Path, *, dialect: str = "main-v1") -> Path:
    """A folder in diffusers' layout whose tokenizer and table have 30 more rows, in the order of a dialect."""
    order = {"main-v1": ("context", "shape", "object"), "dev": ("object", "context", "shape")}[dialect]
    for name in order:
        first = f"{PUBLISHED[name]}_0" if dialect == "main-v1" else PUBLISHED[name]
        pipe.tokenizer.add_tokens([first, *(f"{PUBLISHED[name]}_{number}" for number in range(1, 10))])
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
    table = pipe.text_encoder.get_input_embeddings().weight.data
    table[-30:] = torch.cat([prompts()[name] for name in order])
    pipe.save_pretrained(folder)
    return folder


def assert_same(tasks: weft.TaskPrompts) -> None:
    for name in NAMES:
        assert torch.equal(tasks.vectors[name][0], prompts()[name]), name


@pytest.mark.parametrize("encoders", [1, 2])
def test_own_file_round_trip(encoders: int, tmp_path: Path) -> None:
    path = tmp_path / "tasks.safetensors"
    tasks = weft.TaskPrompts(
        inpainting.vectors(WIDTH, count=7, encoders=encoders), placement="before", base_name="a model", init="a word"
    )
    tasks.save(path)
    found = weft.TaskPrompts.load(path)
    for name in NAMES:
        assert all(torch.equal(a, b) for a, b in zip(found.vectors[name], tasks.vectors[name], strict=True))
    assert (found.placement, found.base_name, found.init, found.dialect) == ("before", "a model", "a word", "weft")
    assert weft.TaskPrompts.load(tmp_path).base_name == "a model", "the folder does as well"
    with pytest.raises(ValueError, match=r"`into` and `dialect` belong to released weights"):
        weft.TaskPrompts.load(path, dialect="dev")


def test_own_file_that_is_damaged_or_another(tmp_path: Path) -> None:
    path = tmp_path / "tasks.safetensors"
    weft.TaskPrompts(inpainting.vectors(WIDTH)).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut short, damaged or of another kind"):
        weft.TaskPrompts.load(path)
    weft.SoftTokens(torch.ones(2, WIDTH)).save(path)
    with pytest.raises(ValueError, match=r"holds weft's 'soft tokens', not task prompts"):
        weft.TaskPrompts.load(path)
    with pytest.raises(FileNotFoundError, match=r"cannot write .*is not there; make it first"):
        weft.TaskPrompts(inpainting.vectors(WIDTH)).save(tmp_path / "absent" / "tasks.safetensors")


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_released_folder(pipe: Any, prefix: str, tmp_path: Path) -> None:
    folder, _ = released(pipe, tmp_path / "v1", prefix=prefix)
    for path in (folder, folder / "text_encoder" / "text_encoder.safetensors"):
        tasks = weft.TaskPrompts.load(path)
        assert_same(tasks)
        assert (tasks.dialect, tasks.placement) == ("main-v1", "after")


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_released_weights_go_into_a_stock_pipeline(pipe: Any, prefix: str, tmp_path: Path) -> None:
    folder, text = released(pipe, tmp_path / "v1", prefix=prefix)
    tasks = weft.TaskPrompts.load(folder, into=pipe)
    unet = load_file(folder / "unet" / "unet.safetensors")
    assert all(torch.equal(value, unet[name]) for name, value in pipe.unet.state_dict().items())
    assert all(torch.equal(value, text[name]) for name, value in pipe.text_encoder.state_dict().items())
    assert len(pipe.text_encoder.get_input_embeddings().weight) == len(pipe.tokenizer), "its words' rows alone"
    with weft.attach(pipe, tasks):
        assert tasks.context("red")["prompt_embeds"].isfinite().all()


@pytest.mark.parametrize("dialect", ["main-v1", "dev"])
def test_folder_in_diffusers_layout(pipe: Any, dialect: str, tmp_path: Path) -> None:
    folder = mirrored(pipe, tmp_path / "mirror", dialect=dialect)
    if dialect == "dev":
        with pytest.warns(UserWarning, match=r"was shown holes in black; diffusers shows them in grey"):
            tasks = weft.TaskPrompts.load(folder)
    else:
        tasks = weft.TaskPrompts.load(folder)
    assert_same(tasks)
    assert tasks.dialect == dialect and tasks.placement == ("before" if dialect == "dev" else "after")
    if dialect == "main-v1":
        with pytest.raises(ValueError, match=r"is of the dialect 'main-v1', by its tokens; not 'dev'"):
            weft.TaskPrompts.load(folder, dialect="dev")


def test_vectors_speak_as_the_tokens_of_the_mirror_do(pipe: Any, tmp_path: Path) -> None:
    """The released way to write a task prompt, its ten tokens after the text, gives the same states."""
    folder = mirrored(pipe, tmp_path / "mirror")
    pipe.tokenizer.model_max_length = tiny.MAX_LENGTH
    tasks = weft.TaskPrompts.load(folder)
    written = "red ball " + " ".join(f"P_obj_{number}" for number in range(10))
    with torch.no_grad():
        expected = pipe.encode_prompt(written, "cpu", 1, False)[0]
        found = encode(pipe, [LearntText("red ball", tasks.vectors["object"])]).states
    assert torch.equal(found, expected)


def test_mirror_weights_go_into_a_stock_pipeline(pipe: Any, tmp_path: Path) -> None:
    other = tiny.inpaint(tmp_path / "other")
    folder = mirrored(pipe, tmp_path / "mirror")
    with torch.no_grad():
        other.unet.conv_in.weight.zero_()
    assert_same(weft.TaskPrompts.load(folder, into=other))
    assert torch.equal(other.unet.conv_in.weight, pipe.unet.conv_in.weight)
    rows = len(other.tokenizer)
    table, longer = (each.text_encoder.get_input_embeddings().weight for each in (other, pipe))
    assert len(table) == rows and torch.equal(table, longer[:rows])


def test_a_table_without_its_tokenizer(pipe: Any, tmp_path: Path) -> None:
    folder = mirrored(pipe, tmp_path / "mirror")
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(ValueError, match=r"say in which order by `dialect`"):
        weft.TaskPrompts.load(folder)
    assert_same(weft.TaskPrompts.load(folder, dialect="main-v1"))
    with pytest.warns(UserWarning, match=r"black"):
        other = weft.TaskPrompts.load(folder, dialect="dev")
    assert torch.equal(other.vectors["object"][0], prompts()["context"]), "the wrong order takes the wrong rows"
    with pytest.raises(ValueError, match=r"`dialect` must be 'main-v1' or 'dev'; got 'v1'"):
        weft.TaskPrompts.load(folder, dialect="v1")


def test_an_older_listing_of_added_tokens(pipe: Any, tmp_path: Path) -> None:
    folder = mirrored(pipe, tmp_path / "mirror")
    ids = {token: number for token, number in pipe.tokenizer.get_added_vocab().items() if token.startswith("P_")}
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "added_tokens.json").write_text(json.dumps(ids))
    assert_same(weft.TaskPrompts.load(folder))
    (folder / "tokenizer" / "added_tokens.json").write_text(json.dumps({name: ids[name] + 9 for name in ids}))
    with pytest.raises(ValueError, match=r"tokenizer and text encoder are not of the same model"):
        weft.TaskPrompts.load(folder)


def test_a_stock_text_encoder_has_no_prompts(pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "stock")
    with pytest.raises(ValueError, match=r"the tokenizer folder has no tokens such as 'P_ctxt_0'"):
        weft.TaskPrompts.load(tmp_path / "stock")


def changed(path: Path, change: Any) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


TABLE = "text_model.embeddings.token_embedding."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{TABLE}trainable_embeddings.P_obj"), r"ends in 'trainable_embeddings.P_obj'; it has 0"),
        (
            lambda t: t.update({f"{TABLE}trainable_embeddings.P_shape": torch.ones(9, WIDTH)}),
            r"trainable_embeddings.P_shape of .* must be \[10, 32\]; it is \[9, 32\]",
        ),
    ],
)
def test_released_prompts_that_are_missing(pipe: Any, change: Any, message: str, tmp_path: Path) -> None:
    folder, _ = released(pipe, tmp_path / "v1")
    changed(folder / "text_encoder" / "text_encoder.safetensors", change)
    with pytest.raises(ValueError, match=message):
        weft.TaskPrompts.load(folder)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", lambda t: t.pop("conv_out.bias"), r"it lacks 1, such as conv_out\.bias"),
        ("unet", lambda t: t.update(extra=torch.ones(1)), r"it adds 1, such as extra"),
        (
            "unet",
            lambda t: t.update({"conv_in.weight": torch.ones(16, 4, 3, 3)}),
            r"conv_in\.weight .* must be \[16, 9, 3, 3\] for the pipeline's UNet2DCondition.*; it is \[16, 4, 3, 3\]",
        ),
        (
            "text_encoder",
            lambda t: t.pop("text_model.final_layer_norm.bias"),
            r"CLIPTextModel: of its tensors it lacks 1, such as final_layer_norm\.bias",
        ),
    ],
)
def test_released_weights_that_do_not_fit_change_nothing(
    pipe: Any, part: str, change: Any, message: str, tmp_path: Path
) -> None:
    folder, _ = released(pipe, tmp_path / "v1")
    changed(folder / part / f"{part}.safetensors", change)
    before = {
        name: value.clone() for module in (pipe.unet, pipe.text_encoder) for name, value in module.state_dict().items()
    }
    with pytest.raises(ValueError, match=message):
        weft.TaskPrompts.load(folder, into=pipe)
    for module in (pipe.unet, pipe.text_encoder):
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_released_folder_without_its_unet(pipe: Any, tmp_path: Path) -> None:
    folder, _ = released(pipe, tmp_path / "v1")
    shutil.rmtree(folder / "unet")
    assert_same(weft.TaskPrompts.load(folder))
    with pytest.raises(FileNotFoundError, match=r"unet must have one of unet\.safetensors"):
        weft.TaskPrompts.load(folder, into=pipe)


def test_the_second_version_is_reported(pipe: Any, tmp_path: Path) -> None:
    branch = tmp_path / "v2" / "PowerPaint_Brushnet"
    branch.mkdir(parents=True)
    save_file({"conv_in_condition.weight": torch.ones(16, 9, 3, 3)}, branch / "diffusion_pytorch_model.safetensors")
    torch.save({"weight": torch.ones(1)}, branch / "pytorch_model.bin")
    for path in (tmp_path / "v2", branch, branch / "diffusion_pytorch_model.safetensors"):
        with pytest.raises(ValueError, match=r"is PowerPaint v2: a BrushNet branch .* use PowerPaint v1"):
            weft.TaskPrompts.load(path)
    with pytest.raises(ValueError, match=r"is a pickled file, .*text encoder of PowerPaint v2"):
        weft.TaskPrompts.load(branch / "pytorch_model.bin")
    folder, _ = released(pipe, tmp_path / "v1")
    shutil.copy(branch / "diffusion_pytorch_model.safetensors", folder / "unet" / "unet.safetensors")
    with pytest.raises(ValueError, match=r"is the branch of PowerPaint v2"):
        weft.TaskPrompts.load(folder, into=pipe)


def test_other_things(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is nothing at .*absent; needs a file of weft"):
        weft.TaskPrompts.load(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no task prompts; needs"):
        weft.TaskPrompts.load(tmp_path / "empty")
    folder, _ = released(pipe, tmp_path / "v1")
    with pytest.raises(
        ValueError, match=r"is a UNet with 9 input channels, without task prompts; give the folder above"
    ):
        weft.TaskPrompts.load(folder / "unet" / "unet.safetensors")
    save_file({"weight": torch.ones(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"no text encoder with task prompts"):
        weft.TaskPrompts.load(tmp_path / "lora.safetensors")
