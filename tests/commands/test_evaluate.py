"""``weft evaluate``: from the command line, on the embedded model, a generator, and images that were drawn before."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from weft.cli import main
from weft.commands.evaluate import NAMES, Evaluate, evaluate
from weft.evaluation import shapes_pictures
from weft.evaluation.measuring import MEASURES

pytestmark = pytest.mark.usefixtures("quiet_machine")

FEW: dict[str, Any] = {"count": 6, "groups": 2, "paraphrases": 2, "noises": 2, "steps": 1, "device": "cpu"}
WITHOUT_FID = ["kid", "cmmd", "captions", "retrieval", "consistency"]


def words(options: dict[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes as if they had been drawn: with captions, twice each."""
    folder = tmp_path_factory.mktemp("drawn")
    rows = []
    for number, pair in enumerate(shapes_pictures(8, 2, seed=4)):
        for wording, caption in enumerate(pair.captions):
            name = f"{number}-{wording}.png"
            pair.read().save(folder / name)
            rows.append({"file_name": name, "text": caption, "scene": number, "noise": 0})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_names_are_those_of_the_measures() -> None:
    assert NAMES == MEASURES


def test_the_embedded_model_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, keep = tmp_path / "new" / "found.json", tmp_path / "kept"
    main(["evaluate", *words({**FEW, "out": out, "keep": keep, "resolution": 64}), "--measures", *WITHOUT_FID])
    said = capsys.readouterr()
    assert "embedded, DDIMScheduler, 1 steps, its own guidance against 6 scenes of the shapes world" in said.out
    assert "KID" in said.out and "noises apart" in said.out and "FID" not in said.out
    assert "drawing" in said.err
    record = json.loads(out.read_text())
    # six scenes, and of two another wording and another noise
    assert record["drawn"] == 10 == len(list(keep.glob("*.png")))
    assert list(record["measures"]) == [*WITHOUT_FID, "diversity"]
    assert record["plan"] == {"count": 6, "groups": 2, "paraphrases": 2, "noises": 2, "seed": 0}
    assert record["extractor"]["name"] == "shapes" and len(record["extractor"]["weights"]) == 8
    assert {"weft", "torch", "torchmetrics"} <= set(record["versions"])

    main(["evaluate", "--images", str(keep), "--count", "6", "--out", str(out), "--measures", *WITHOUT_FID])
    again = json.loads(out.read_text())
    for name in ("kid", "cmmd", "captions", "consistency", "diversity"):
        # the embedded model had no pretrained teacher; of images it is unknown what drew them
        assert again["measures"][name] == {**record["measures"][name], "extractor_taught": None}
        assert record["measures"][name]["extractor_taught"] is False


def test_images_against_images(folder: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    for number, pair in enumerate(shapes_pictures(9, 1, seed=5)):
        pair.read().save(real / f"{number}.png")
    measures: Any = ("kid", "cmmd", "captions", "consistency")
    text = evaluate(Evaluate(images=folder, against=real, measures=measures, out=tmp_path / "e.json"))
    assert "against 9 of" in text
    found = json.loads((tmp_path / "e.json").read_text())["measures"]
    assert (found["kid"]["drawn"], found["kid"]["real"]) == (8, 9)
    assert found["captions"]["correct"]["value"] == 1
    assert found["consistency"]["same_objects"]["value"] == 1
    assert "needs two captions" in found["diversity"]["absent"]


def test_a_folder_of_captioned_pictures_is_drawn_from(folder: Path, tmp_path: Path) -> None:
    options = {**FEW, "count": 4}
    text = evaluate(Evaluate(data=str(folder), measures=("cmmd", "captions"), out=tmp_path / "e.json", **options))
    assert f"against 4 pictures of {folder}, squares of 64 pixels" in text


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained one, as ``weft train gan`` keeps it."""
    from weft.train.gan.config import RECIPES, GanConfig
    from weft.train.gan.generator import Generator, network_of
    from weft.train.gan.text import Recurrent, Vocabulary

    torch.manual_seed(0)
    record = GanConfig(recipe=replace(RECIPES["ssa", "cpu"], generator_width=2, hidden=8)).record(text_width=16)
    text = Recurrent(Vocabulary(["a", "red", "blue", "ring", "circle"], 8), width=16, embedding=8, dropout=0.0)
    folder = tmp_path_factory.mktemp("generator")
    Generator(network_of(record), text, record).save(folder)
    return folder


def test_a_generator_is_measured_whole(generator: Path, tmp_path: Path) -> None:
    measures: Any = ("fid", "retrieval", "diversity")
    options: dict[str, Any] = {
        "model": str(generator),
        "count": 200,
        "groups": 4,
        "measures": measures,
        "device": "cpu",
    }
    text = evaluate(Evaluate(out=tmp_path / "e.json", **options))
    assert text.startswith(f"generator {generator} against 200 scenes")
    found = json.loads((tmp_path / "e.json").read_text())["measures"]
    # it has learnt nothing
    assert found["fid"]["value"] > 100
    assert found["retrieval"]["mean"] < 0.1 < 0.9 < found["retrieval"]["real"]["mean"]
    with pytest.raises(ValueError, match="is 64; got 128; leave it out"):
        evaluate(Evaluate(out=tmp_path / "e.json", resolution=128, **options))


@pytest.mark.parametrize("model", [None, "embedded"])
def test_a_folder_called_embedded_is_not_the_embedded_model(
    model: str | None, generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loaded(Exception):
        pass

    def load(name: str, *others: Any) -> Any:
        raise Loaded(name)

    shutil.copytree(generator, tmp_path / "embedded")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("weft.commands.evaluate.load_pipeline", load)
    said = contextlib.nullcontext() if model is None else pytest.warns(UserWarning, match="give ./embedded for")
    with pytest.raises(Loaded, match="embedded"), said:
        evaluate(Evaluate(model=model, **FEW))
    with pytest.raises(ValueError, match="is 64; got 128"):
        evaluate(Evaluate(model="./embedded", resolution=128, **FEW))


def test_an_extractor_that_taught_the_generator_flatters(generator: Path, tmp_path: Path) -> None:
    from weft.evaluation import Judge
    from weft.train.core.weights import digest_of_weights
    from weft.train.gan.generator import Generator

    taught = Generator.load(generator)
    taught.record["taught_by"] = [digest_of_weights([Judge.load().image])]
    taught.save(tmp_path / "taught")
    options: Any = {**FEW, "measures": ("retrieval",), "out": tmp_path / "e.json"}
    with pytest.warns(UserWarning, match="the extractor 'shapes' took part in training what draws"):
        text = evaluate(Evaluate(model=str(tmp_path / "taught"), **options))
    assert "its encoder took part in training, which flatters" in text and "measure with another" in text
    assert json.loads((tmp_path / "e.json").read_text())["measures"]["retrieval"]["extractor_taught"] is True
    assert "is not known" in evaluate(Evaluate(model=str(generator), **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "--count must be at least 1; got 0"),
        ({"count": 1}, "`count` must be at least 2"),
        ({"batch-size": 0}, "--batch-size must be at least 1"),
        ({"out": "found.txt"}, "--out must be a file that ends in .json"),
        ({"count": 20, "steps": 1}, "fid at least 193; there are 20 real and 20 drawn; give more (--count, "),
        (
            {"extractor": "shape"},
            "--extractor must be 'shapes' or a folder of a vision model of transformers; 'shape'",
        ),
        (
            {"extractor": "/nowhere"},
            "as a folder /nowhere is not there; no model id is looked up and nothing is downloaded",
        ),
        ({"data": "shape"}, "--data must be 'shapes' or a folder of pictures with captions; 'shape' is no such word"),
        ({"data": __file__}, "test_evaluate.py is a file"),
        ({"keep": __file__}, "--keep must be a folder"),
        ({"model": str(Path(__file__).parent)}, "has neither generator.safetensors nor model_index.json"),
        ({"split": "val"}, "--split of the shapes world must be train or test; got 'val'"),
        ({"images": "/nowhere"}, "--images: must be a folder of pictures; /nowhere is not there"),
        ({"images": "/nowhere", "model": "embedded"}, "--model belong to a model; leave them out with --images"),
        ({"against": "/nowhere"}, "--against belongs to --images"),
        ({"model": "/nowhere"}, "/nowhere is not there"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    options: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *words({"out": tmp_path / "e.json", "device": "cpu", **options})])
    assert stop.value.code == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("weft: error: ")]
    assert message in line
    assert not (tmp_path / "e.json").exists()


def test_images_that_cannot_be_judged(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.json"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        evaluate(Evaluate(images=empty, out=out))
    Image.new("RGB", (64, 64)).save(empty / "a.png")
    with pytest.raises(ValueError, match=r"every picture needs a caption; a\.png has none"):
        evaluate(Evaluate(images=empty, out=out))
    Image.new("RGB", (32, 32)).save(empty / "b.png")
    with pytest.raises(ValueError, match="looks at images of 64 x 64 pixels; got 32 x 32"):
        evaluate(Evaluate(images=empty, against=folder, measures=("cmmd",), out=out))
    (empty / "b.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"b\.png cannot be read as a picture"):
        evaluate(Evaluate(images=empty, against=folder, measures=("cmmd",), out=out))


def test_a_single_real_image_is_no_set(folder: Path, tmp_path: Path) -> None:
    real, out = tmp_path / "real", tmp_path / "e.json"
    real.mkdir()
    Image.new("RGB", (64, 64)).save(real / "a.png")
    some: Any = ("kid", "cmmd", "retrieval")
    with pytest.raises(ValueError, match="kid at least 2, cmmd at least 2; there are 1 real and 8 drawn; give more"):
        evaluate(Evaluate(images=folder, against=real, measures=some, out=out))
    with pytest.raises(ValueError, match="fid at least 193, kid at least 2, cmmd at least 2; there are 1 real"):
        evaluate(Evaluate(images=folder, against=real, out=out))


def test_of_one_real_image_diversity_has_no_ruler(tmp_path: Path) -> None:
    for name in ("drawn", "real"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "real" / "a.png")
    rows = []
    for number, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / "drawn" / f"{number}.png")
        scene, noise = divmod(number, 2)
        rows.append({"file_name": f"{number}.png", "text": f"scene {scene}", "scene": scene, "noise": noise})
    (tmp_path / "drawn" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options: Any = {"images": tmp_path / "drawn", "against": tmp_path / "real", "out": tmp_path / "e.json"}
    text = evaluate(Evaluate(measures=("diversity",), **options))
    assert "noises apart" in text and "unrelated" not in text


def test_without_torchmetrics_it_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.image.kid", None)
    with pytest.raises(ValueError, match=r"--measures: kid: needs torchmetrics: pip install torchmetrics"):
        evaluate(Evaluate(images=folder, against=folder, measures=("kid",), out=tmp_path / "e.json"))
    evaluate(Evaluate(images=folder, against=folder, measures=("cmmd",), out=tmp_path / "e.json"))
