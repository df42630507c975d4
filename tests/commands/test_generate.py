"""``weft generate`` as a user meets it: what it writes, and what it says when it cannot."""

from __future__ import annotations

import itertools
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import weft
from weft import cli, shapes
from weft.attach import base_model
from weft.commands.generate import Generate, generate
from weft.testing import assert_differs

PROMPT = "a red circle and a blue square"


def options(folder: Path, **changes: object) -> Generate:
    return Generate(**{"prompt": (PROMPT,), "out": folder, "steps": 2, **changes})


def test_writes_pictures_settings_and_a_map_sheet(tmp_path: Path) -> None:
    written = generate(options(tmp_path / "new" / "folder", images=2, seed=7, maps=("circle", "square")))
    assert [picture.seed for picture in written] == [7, 8]
    for picture in written:
        assert Image.open(picture.path).size == (64, 64)
        settings = json.loads(picture.path.with_suffix(".json").read_text())
        assert (settings["prompt"], settings["seed"], settings["steps"]) == (PROMPT, picture.seed, 2)
        assert {"weft", "torch"} <= settings["versions"].keys()
    sheets = list(written[0].path.parent.glob("*-maps.png"))
    assert len(sheets) == 1 and Image.open(sheets[0]).width > 64
    leftovers = [path.name for path in written[0].path.parent.iterdir() if path.name.startswith(".")]
    assert leftovers == []


def test_a_prompt_may_lack_a_word_that_another_has(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prompts = ("a red circle", "a blue square", "a green star")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="AttentionMaps")
        cli.main(
            ["generate", "--prompt", *prompts, "--maps", "circle", "square", "--steps", "1", "--out", str(tmp_path)]
        )
    said = capsys.readouterr().out.splitlines()
    assert [Path(line).suffix for line in said[:3]] == [".png"] * 3
    assert said[3:] == [
        "'a red circle': maps of 'circle'; it lacks 'square'",
        "'a blue square': maps of 'square'; it lacks 'circle'",
        "'a green star': no maps; it lacks 'circle', 'square'",
    ]
    assert [path.name for path in sorted(tmp_path.glob("*-maps.png"))] == [
        "00-a-red-circle-maps.png",
        "01-a-blue-square-maps.png",
    ]


def test_a_picture_depends_on_its_seed_alone(tmp_path: Path) -> None:
    """The second of two pictures equals the first of one with the next seed."""
    pair = generate(options(tmp_path / "pair", images=2, seed=3))
    single = generate(options(tmp_path / "single", images=1, seed=4))
    difference = np.asarray(pair[1].image, dtype=int) - np.asarray(single[0].image, dtype=int)
    # batch size changes the order of sums in the network's products, so a rounding of a pixel may flip
    assert np.abs(difference).max() <= 2


def test_a_method_takes_phrases_and_boxes(tmp_path: Path) -> None:
    steps = 10  # two of them are edited
    stock = generate(options(tmp_path / "stock", steps=steps))
    found, named, placed = (
        generate(options(tmp_path / str(number), method="maskdiffusion", steps=steps, **changes))
        for number, changes in enumerate(
            (
                {},
                {"phrases": ("a red circle", "a blue square")},
                {"boxes": ("a red circle=0,0,32,64", "a blue square=32,0,64,64")},
            )
        )
    )
    pictures = [np.array(one[0].image) for one in (stock, found, named, placed)]
    assert np.array_equal(pictures[1], pictures[2]), "these phrases are what it finds by itself"
    for one, other in ((0, 1), (2, 3)):
        assert_differs(pictures[one], pictures[other], 0.02)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A concept "sks circle" of random factors for the embedded model."""
    base, generator = base_model(shapes.pipeline()), torch.Generator().manual_seed(0)
    down = {p.name: torch.randn(2, p.width, generator=generator) / p.width**0.5 for p in base.projections}
    up = {p.name: torch.randn(p.width, 2, generator=generator) / 4 for p in base.projections}
    is_convolution = base.projections[0].is_convolution
    path = tmp_path_factory.mktemp("residual") / "sks.safetensors"
    weft.Residual(down, up, "sks", "circle", "shapes", base.text_width, is_convolution).save(path)
    return path


def test_residuals_are_drawn_where_they_are_localized(residual: Path, tmp_path: Path) -> None:
    asked = {"prompt": ("a sks circle and a blue square",), "residual": (residual,)}
    whole, localized, boxed, weak = (
        generate(options(tmp_path / str(number), **asked, **changes))
        for number, changes in enumerate(
            (
                {"localize": "none"},
                {"threshold": "0.4", "compare": True},
                {"boxes": ("sks circle=0,0,32,64",), "method": "maskdiffusion"},
                {"residual_scale": 0.0},
            )
        )
    )
    stock = generate(options(tmp_path / "stock", prompt=asked["prompt"]))
    pictures = [np.array(one[0].image) for one in (whole, localized, boxed, stock, weak)]
    for one, other in itertools.combinations(pictures[:4], 2):
        assert_differs(one, other, 0.02)
    assert np.array_equal(pictures[3], pictures[4])
    (sheet,) = (tmp_path / "1").glob("*-compare.png")
    assert Image.open(sheet).width > 3 * 64
    record = json.loads(localized[0].path.with_suffix(".json").read_text())
    assert record["threshold"] == "0.4" and record["methods"][0]["concepts"] == ["sks circle"]


def test_a_prompt_without_a_concept_is_drawn_without(residual: Path, tmp_path: Path) -> None:
    prompts = ("a sks circle", "a green star")
    with pytest.warns(UserWarning, match="'a green star' names no concept of --residual and is drawn without"):
        drawn = generate(options(tmp_path / "both", prompt=prompts, residual=(residual,), compare=True))
    stock = generate(options(tmp_path / "stock", prompt=prompts))
    same = [np.array_equal(np.asarray(a.image), np.asarray(b.image)) for a, b in zip(drawn, stock, strict=True)]
    assert same == [False, True]


def test_soft_tokens(tmp_path: Path) -> None:
    width = shapes.pipeline().unet.config.cross_attention_dim
    soft = weft.SoftTokens(torch.randn(4, width, generator=torch.Generator().manual_seed(0)))
    soft.save(tmp_path / "soft.safetensors")
    drawn = generate(options(tmp_path / "soft", soft_tokens=tmp_path / "soft.safetensors", compare=True))
    stock = generate(options(tmp_path / "stock"))
    assert_differs(np.array(drawn[0].image), np.array(stock[0].image), 0.02)
    record = json.loads(drawn[0].path.with_suffix(".json").read_text())
    assert record["methods"] == [{"method": "SoftTokens", "tokens": 4, "blocks": ["down_blocks"]}]


def test_boxes_are_in_place_of_a_threshold(residual: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="replace --localize and --threshold"):
        generate(options(tmp_path, residual=(residual,), boxes=("sks circle=0,0,9,9",), threshold="otsu"))


def test_a_box_needs_an_object_or_a_concept(residual: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--boxes names 'a ring', which is no concept of --residual: 'sks circle'"):
        generate(options(tmp_path, residual=(residual,), boxes=("a ring=0,0,9,9",)))


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    embedded = generate(options(tmp_path / "embedded"))
    by_folder = generate(options(tmp_path / "folder", model=str(shapes.model_path())))
    assert np.array_equal(np.asarray(embedded[0].image), np.asarray(by_folder[0].image))


def test_a_joint_model_without_its_t5(tmp_path: Path) -> None:
    """By the name of the shipped one, and as a folder, whose T5 is not there."""
    embedded = generate(options(tmp_path / "embedded", model="embedded-sd3", maps=("circle",)))
    assert list(embedded[0].path.parent.glob("*-maps.png"))
    shapes.pipeline("sd3").save_pretrained(tmp_path / "model")
    by_folder = generate(options(tmp_path / "folder", model=str(tmp_path / "model")))
    difference = np.asarray(embedded[0].image, dtype=int) - np.asarray(by_folder[0].image, dtype=int)
    assert np.abs(difference).max() <= 2, "maps change a picture by rounding only"


def test_soft_tokens_choose_the_length_of_the_t5_text(tmp_path: Path) -> None:
    """Without a word from the user, and without a warning."""
    width = shapes.pipeline("sd3").transformer.config.caption_projection_dim
    soft = weft.SoftTokens(torch.randn(2, width), None, ("transformer_blocks.0",), space="block", text_length=3)
    soft.save(tmp_path / "soft.safetensors")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="SoftTokens")
        drawn = generate(
            options(tmp_path / "out", model="embedded-sd3", soft_tokens=tmp_path / "soft.safetensors", compare=True)
        )
    assert list(drawn[0].path.parent.glob("*-compare.png"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "--steps must be at least 1; got 0"),
        ({"images": 0}, "--images must be at least 1; got 0"),
        ({"seed": -1}, "--seed must not be negative; got -1"),
        ({"prompt": ("  ",)}, "--prompt must not be empty"),
        (
            {"model": "./nowhere"},
            "must be 'embedded' or 'embedded-sd3', a diffusers folder or a model.* nowhere is not there",
        ),
        ({"device": "meta"}, "sees no device meta here; use --device cpu"),
        ({"device": "cpu:7"}, "the last device of this kind here is cpu"),
        ({"device": "tpu-ish"}, "--device must be auto, cpu or cuda"),
        ({"maps": ("triangle",)}, "triangle"),
        ({"prompt": ("a circle", "a star"), "maps": ("triangle",)}, "--maps has 'triangle', which is in no --prompt"),
        ({"phrases": ("a red circle",)}, "belongs to a method; add --method maskdiffusion"),
        (
            {"threshold": "otsu", "residual_scale": 0.3},
            "--residual-scale belong to concepts; add --resid",
        ),
        ({"compare": True}, "--boxes and --compare belong to a method; add --method maskdiffusion or --residual"),
        ({"method": "maskdiffusion", "phrases": ("a ring",)}, "'a ring' is not in the prompt"),
        ({"method": "maskdiffusion", "boxes": ("a red circle 0,0,9,9",)}, "must look like .*; got 'a red circle 0,0"),
        ({"method": "maskdiffusion", "boxes": ("a red circle=0,0,9",)}, "must look like"),
        ({"method": "maskdiffusion", "boxes": ("a red circle=0,0,9,99",)}, "inside the image of 64 x 64 pixels"),
        ({"method": "maskdiffusion", "boxes": ("a ring=0,0,9,9", "a ring=0,0,8,8")}, "gives 'a ring' twice"),
        ({"residual": (Path("nowhere.safetensors"),)}, "nowhere.safetensors"),
    ],
    ids=[
        *("steps", "images", "seed", "prompt", "folder", "device-meta", "device-index", "device", "word", "words"),
        *(
            "no-method",
            "no-residual",
            "no-comparison",
            "phrase",
            "box-form",
            "box-sides",
            "box-outside",
            "box-twice",
            "residual",
        ),
    ],
)
def test_bad_option_is_one_clear_error(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        generate(options(tmp_path, **changes))
    assert list(tmp_path.iterdir()) == [], "nothing is written before an option is known to be good"


def test_a_folder_without_a_model_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} has no model_index.json")):
        generate(options(tmp_path / "out", model=str(tmp_path)))


def test_output_that_is_a_file_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "taken"
    file.write_text("mine")
    with pytest.raises(OSError, match=r"--out must be a folder; .*taken is a file"):
        generate(options(file))
    assert file.read_text() == "mine"


def test_output_that_cannot_be_written_is_reported_before_the_model_is_loaded() -> None:
    # read-only for everybody, also for root
    with pytest.raises(OSError, match=r"generate: cannot .* choose another folder with --out"):
        generate(options(Path("/proc/weft")))


def test_an_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["generate", "--prompt", PROMPT, "--steps", "0", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "weft: error: generate: --steps must be at least 1; got 0\n"


def test_interrupted_writing_leaves_the_old_file(tmp_path: Path) -> None:
    from weft._files import whole_file

    path = tmp_path / "picture.png"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["picture.png"]
