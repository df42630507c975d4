"""``weft inpaint`` as a user meets it: what it writes, and what it says when it cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import weft
from weft import shapes
from weft.cli import main
from weft.methods.powerpaint.network import beside
from weft.train.task_prompts.unet import inpainting_pipeline

pytestmark = pytest.mark.usefixtures("quiet_machine")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as training makes it: a stock inpainting pipeline, and task prompts beside its parts."""
    folder = tmp_path_factory.mktemp("model")
    inpainting_pipeline(shapes.pipeline()).save_pretrained(folder)
    generator = torch.Generator().manual_seed(2)
    vectors = {name: (0.1 * torch.randn(10, 128, generator=generator),) for name in ("context", "shape", "object")}
    weft.TaskPrompts(vectors).save(folder / "task_prompts.safetensors")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A picture and a mask."""
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    Image.fromarray(shapes.render(shapes.scene(0, 1, objects=2))).save(image)
    hole = Image.new("L", (64, 64))
    hole.paste(255, (20, 20, 40, 40))
    hole.save(mask)
    yield image, mask


def run(*arguments: object) -> None:
    main(["inpaint", "--steps", "2", *map(str, arguments)])


@pytest.mark.parametrize(
    "task",
    [
        ("--task", "removal"),
        ("--task", "insert", "--prompt", "a red star", "--crop", "on"),
        ("--task", "shape", "--prompt", "a red star", "--fit", "0.8", "--blend", "poisson"),
        ("--task", "context", "--guidance-scale", "3"),
    ],
)
def test_a_task_changes_its_hole_alone(
    task: tuple[str, ...], model: Path, pictures: tuple[Path, Path], capsys
) -> None:
    image, mask = pictures
    out = image.parent / "new" / "result.png"
    run("--image", image, "--mask", mask, "--model", model, "--out", out, *task)
    assert capsys.readouterr().out.strip() == str(out)
    found, before = (np.asarray(Image.open(path)) for path in (out, image))
    assert not (found != before)[:15].any() and np.abs(found.astype(int) - before)[20:40, 20:40].max() > 2
    settings = json.loads(out.with_suffix(".json").read_text())
    assert settings["task"] == task[1] and settings["prompts"]["dialect"] == "weft"
    assert settings["guidance_scale"] == {"removal": 10.0, "insert": 7.5, "shape": 7.5, "context": 3.0}[task[1]]
    assert sorted(path.name for path in out.parent.iterdir()) == ["result.json", "result.png"], "nothing half done"


def test_the_embedded_model_needs_no_name(pictures: tuple[Path, Path]) -> None:
    image, mask = pictures
    out = image.parent / "embedded.png"
    run("--image", image, "--mask", mask, "--out", out)
    assert json.loads(out.with_suffix(".json").read_text())["prompts"]["base_name"] == "shapes inpainting"
    assert Image.open(out).size == Image.open(image).size


def test_outpainting(model: Path, pictures: tuple[Path, Path]) -> None:
    image, _ = pictures
    out = image.parent / "wider.png"
    run("--image", image, "--task", "outpaint", "--expand", "left=16,bottom=0.25", "--model", model, "--out", out)
    assert Image.open(out).size == (80, 80)


def test_a_picture_depends_on_its_seed(model: Path, pictures: tuple[Path, Path]) -> None:
    image, mask = pictures
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = image.parent / f"{name}.png"
        run("--image", image, "--mask", mask, "--model", model, "--out", out, "--seed", seed)
        found.append(np.asarray(Image.open(out)).astype(int))
    assert np.array_equal(found[0], found[1]) and np.abs(found[0] - found[2]).max() > 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mask", "MASK", "--model", "embedded-sd3"), "embedded-sd3 does not inpaint; give 'embedded'"),
        ((), "--task removal needs a --mask"),
        (("--mask", "MASK", "--task", "insert"), "needs a --prompt"),
        (("--mask", "MASK", "--fit", "0.5"), "--fit belongs to --task shape"),
        (("--mask", "MASK", "--task", "shape", "--prompt", "a", "--fit", "2"), "--fit must be between 0 and 1; got 2"),
        (("--mask", "MASK", "--guidance-scale", "nan"), "--guidance-scale must be finite; got nan"),
        (("--mask", "MASK", "--task-prompts", "./absent"), "there is nothing at --task-prompts absent"),
        (("--mask", "MASK", "--expand", "left=4"), "takes no --expand"),
        (("--mask", "MASK", "--task", "outpaint", "--expand", "left=4"), "needs no --mask"),
        (("--task", "outpaint"), "needs --expand, such as left=128,right=0.25"),
        (("--task", "outpaint", "--expand", "up=4"), "--expand must look like"),
        (("--mask", "MASK", "--dialect", "dev"), "--dialect belongs to released weights"),
        (("--mask", "MASK", "--out", "result.jpg"), "--out must end in .png"),
        (("--mask", "MASK", "--steps", "0"), "--steps must be at least 1"),
        (("--mask", "MASK", "--model", "./absent"), "--model: must be 'embedded', a diffusers folder or"),
        (("--mask", "MASK", "--model", "./absent"), "absent is not there"),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], message: str, pictures: tuple[Path, Path], capsys) -> None:
    image, mask = pictures
    given = [str(mask) if argument == "MASK" else argument for argument in arguments]
    out = [] if "--out" in given else ["--out", str(image.parent / "result.png")]
    with pytest.raises(SystemExit) as error:
        run("--image", image, *given, *out)
    assert error.value.code == 2
    said = capsys.readouterr().err.strip()
    assert message in said and said.startswith("weft: error:") and "\n" not in said


def test_a_folder_is_no_picture_to_write(pictures: tuple[Path, Path], capsys) -> None:
    image, mask = pictures
    out = image.parent / "folder.png"
    out.mkdir()
    with pytest.raises(SystemExit):
        run("--image", image, "--mask", mask, "--out", out)
    assert "--out must be a file" in capsys.readouterr().err and not list(out.iterdir())


@pytest.mark.parametrize(
    ("what", "message"),
    [("mask of another size", "as large as the picture"), ("no picture", "cannot be read as a picture")],
)
def test_pictures_that_cannot_be_taken(
    what: str, message: str, model: Path, pictures: tuple[Path, Path], capsys
) -> None:
    image, mask = pictures
    if what == "no picture":
        image.write_text("nothing")
    else:
        Image.new("L", (8, 8), 255).save(mask)
    with pytest.raises(SystemExit):
        run("--image", image, "--mask", mask, "--model", model, "--out", image.parent / "result.png")
    assert message in capsys.readouterr().err
    assert not (image.parent / "result.png").exists()


def test_a_text_to_image_model_is_refused(pictures: tuple[Path, Path], capsys) -> None:
    image, mask = pictures
    folder = image.parent / "model"
    shapes.pipeline().save_pretrained(folder)
    with pytest.raises(SystemExit):
        run("--image", image, "--mask", mask, "--model", folder, "--out", image.parent / "result.png")
    assert "this one has 4, as of a text-to-image model" in capsys.readouterr().err


@pytest.fixture(scope="module")
def branch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A text-to-image model, and a folder with a branch beside it and changes what it paints."""
    folder = tmp_path_factory.mktemp("text-to-image")
    pipe = shapes.pipeline()
    pipe.save_pretrained(folder / "model")
    network = beside(pipe.unet)
    torch.nn.init.normal_(network.mid.weight, std=0.1)
    states = {name: torch.randn(77, 128) for name in ("context", "shape", "object", "empty")}
    weft.TaskBranch(network, states, base_name="random").save(folder / "task_branch.safetensors")
    return folder / "model", folder


def test_a_branch_beside_a_text_to_image_model(branch: tuple[Path, Path], pictures: tuple[Path, Path]) -> None:
    image, mask = pictures
    out = image.parent / "result.png"
    given = ("--image", image, "--mask", mask, "--model", branch[0], "--task-prompts", branch[1], "--out", out)
    run(*given, "--reuse", 2, "--prompt", "a red star", "--task", "insert")
    found, before = (np.asarray(Image.open(path)) for path in (out, image))
    assert not (found != before)[:15].any() and np.abs(found.astype(int) - before)[20:40, 20:40].max() > 2
    settings = json.loads(out.with_suffix(".json").read_text())
    assert settings["prompts"] == {"base_name": "random", "dialect": "main-v2", "reuse": 2}


def test_what_belongs_to_a_branch(model: Path, branch: tuple[Path, Path], pictures: tuple[Path, Path], capsys) -> None:
    image, mask = pictures
    given = ("--image", image, "--mask", mask, "--model", model, "--out", image.parent / "result.png")
    for further, message in (
        (("--reuse", 2), "--reuse belongs to a branch"),
        (("--reuse", 0), "--reuse must be at least 1"),
        (("--model", branch[0], "--task-prompts", branch[1], "--dialect", "dev"), "`dialect` belongs to released"),
        (("--task-prompts", branch[1]), "needs the UNet of a text-to-image model, with 4 input channels"),
    ):
        with pytest.raises(SystemExit):
            run(*given, *further)
        assert message in capsys.readouterr().err
