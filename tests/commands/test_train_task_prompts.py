"""``weft train task-prompts`` as a user meets it: what it makes is what ``weft inpaint`` takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

import weft
from weft import shapes
from weft.cli import main
from weft.train.task_prompts.unet import inpainting_pipeline

pytestmark = pytest.mark.usefixtures("quiet_machine")


def train(folder: Path, *options: object) -> None:
    given = ["--pictures", "shapes", "--out", folder, "--steps", "2", "--batch-size", "2", "--precision", "no"]
    main(["train", "task-prompts", *map(str, [*given, *options])])


def paint(folder: Path, *options: object) -> np.ndarray:
    """[64, 64], where the picture was changed by more than rounding."""
    image, mask, out = folder / "image.png", folder / "mask.png", folder / "out.png"
    Image.fromarray(shapes.render(shapes.scene(0, 1, objects=2))).save(image)
    hole = Image.new("L", (64, 64))
    hole.paste(255, (20, 20, 40, 40))
    hole.save(mask)
    main(
        ["inpaint", "--image", str(image), "--mask", str(mask), "--steps", "1", "--out", str(out), *map(str, options)]
    )
    one, other = (np.asarray(Image.open(path)).astype(int) for path in (image, out))
    return (np.abs(one - other) > 2).any(-1)


@pytest.mark.parametrize("trains", ["unet", "lora", "residuals"])
def test_a_text_to_image_model_becomes_an_inpainting_model(trains: str, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "model"
    train(folder, "--trains", trains, "--lora-rank", 2, "--learning-rate", 1e-3)
    said = capsys.readouterr().out
    assert f"weft inpaint --model {folder}" in said
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder)
    assert pipe.unet.config.in_channels == 9 and pipe.unet.conv_in.weight[:, 4:].abs().max() > 1e-4
    assert not hasattr(pipe.unet, "peft_config"), "a stock pipeline"
    assert paint(tmp_path, "--model", folder)[20:40, 20:40].any()


def test_prompts_alone_for_the_embedded_model(tmp_path: Path) -> None:
    train(tmp_path / "prompts", "--borrowed", 0.5)
    own, found = (weft.TaskPrompts.load(folder) for folder in (shapes.model_path("inpainting"), tmp_path / "prompts"))
    assert found.widths == own.widths and found.base_name == "embedded"
    assert paint(tmp_path, "--task-prompts", tmp_path / "prompts" / "task_prompts.safetensors").any()


def test_prompts_alone_for_an_inpainting_model(tmp_path: Path, capsys) -> None:
    model, folder = tmp_path / "model", tmp_path / "prompts"
    inpainting_pipeline(shapes.pipeline()).save_pretrained(model)
    train(folder, "--model", model)
    assert "--task-prompts" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["task_prompts.safetensors"]
    tasks = weft.TaskPrompts.load(folder)
    assert tasks.base_name.endswith("/model")
    assert paint(tmp_path, "--model", model, "--task-prompts", folder / "task_prompts.safetensors").any()


def test_a_run_goes_on(tmp_path: Path) -> None:
    straight, halves = tmp_path / "straight", tmp_path / "halves"
    train(straight, "--trains", "unet")
    train(halves, "--trains", "unet", "--steps", "1")
    train(halves, "--trains", "unet", "--resume")
    a, b = (weft.TaskPrompts.load(folder) for folder in (straight, halves))
    assert all(torch.equal(a.vectors[name][0], b.vectors[name][0]) for name in a.vectors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "embedded-sd3"), "embedded-sd3 does not inpaint; give 'embedded'"),
        (
            ("--model", str(shapes.model_path())),
            "is a text-to-image model, whose UNet sees no mask; train it too, with --trains unet, lora or residuals",
        ),
        (("--model", "embedded-sd3", "--trains", "unet"), "StableDiffusion3Pipeline has no UNet"),
        (("--learning-rate", "0"), "`learning_rate` must be above 0; got 0"),
        (("--pictures", "absent"), "pictures must be a folder; there is none at absent"),
        (("--trains", "unet", "--init-word", ""), "'' has no token"),
    ],
)
def test_errors_are_one_line(options: tuple[str, ...], message: str, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as error:
        train(tmp_path / "model", *options)
    assert error.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("weft: error:")]
    assert len(said) == 1 and message in said[0]
