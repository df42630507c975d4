"""``weft train soft-tokens`` as a user meets it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image, ImageDraw
from records import changed

import weft
from weft import cli, shapes
from weft.commands.train_soft_tokens import TrainSoftTokens, train_soft_tokens
from weft.testing import assert_differs
from weft.train import DistributionConfig, SoftTokensConfig
from weft.train.distribution import FakeToFake

pytestmark = pytest.mark.usefixtures("quiet_machine")

CAPTIONS = {"circle": "a red circle", "square": "a red square", "both": "a red circle and a blue square"}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three pictures with a text file beside each."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for number, (name, caption) in enumerate(CAPTIONS.items()):
        picture = Image.new("RGB", (64, 64), (20, 30, 40))
        ImageDraw.Draw(picture).ellipse((10, 10, 30 + 5 * number, 30 + 5 * number), fill=(200, 30, 30))
        picture.save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption + "\n")
    return folder


def options(pairs: Path, **changes: object) -> TrainSoftTokens:
    out = pairs.parent / "out" / "soft.safetensors"
    standard = {"steps": 2, "batch_size": 3, "negatives": 2, "rows_at_once": 1}
    return changed(TrainSoftTokens(pairs=pairs, out=out), **{**standard, **changes})


def test_trains_and_writes_what_can_be_attached(pairs: Path) -> None:
    said = train_soft_tokens(options(pairs))
    path = pairs.parent / "out" / "soft.safetensors"
    assert str(path) in said and "4 tokens" in said
    soft, pipe = weft.SoftTokens.load(path), shapes.pipeline()
    assert soft.base_name == "embedded" and soft.offsets is not None

    def draw() -> object:
        generator = torch.Generator().manual_seed(0)
        return pipe("a red circle", num_inference_steps=2, generator=generator, output_type="latent").images

    stock = draw()
    with weft.attach(pipe, soft):
        assert_differs(draw(), stock)  # type: ignore[arg-type]


def test_the_configuration_that_is_parsed_is_the_one_that_is_trained(
    pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[SoftTokensConfig] = []

    def take(pipe: object, pairs: object, *, config: SoftTokensConfig, **rest: object) -> None:
        taken.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("weft.train.soft_tokens.fit_soft_tokens", take)
    monkeypatch.setattr("weft.train.core.make_accelerator", lambda *args, **options: Accelerator(cpu=True))
    given = options(pairs, losses="f2f", f2f_weight=0.7, layout="released", seed=5)
    with pytest.raises(KeyboardInterrupt):
        train_soft_tokens(given)
    distribution = DistributionConfig((FakeToFake(weight=0.7),))
    assert taken == [replace(given.config, distribution=distribution)]


@pytest.mark.parametrize("objective", ["contrast", "agsm"])
def test_the_joint_model(objective: str, pairs: Path) -> None:
    said = train_soft_tokens(options(pairs, model="embedded-sd3", text_length=1, objective=objective, negatives=2))
    soft = weft.SoftTokens.load(pairs.parent / "out" / "soft.safetensors")
    assert "4 tokens" in said and soft.base_name == "embedded-sd3"
    assert soft.tokens.shape == (4, 4, 160) and (soft.space, soft.text_length) == ("block", 1)


def test_encoded_pictures_are_kept_for_another_run(pairs: Path) -> None:
    folder = pairs.parent / "encoded"
    paths = [pairs.parent / f"{name}.safetensors" for name in ("straight", "encodes", "reads")]
    for path, encoded in zip(paths, (None, folder, folder), strict=True):
        train_soft_tokens(options(pairs, out=path, encoded=encoded))
    assert sorted(path.name for path in folder.iterdir()) == ["index.json", "latents-00000.safetensors"]
    straight, *others = (weft.SoftTokens.load(path).tokens for path in paths)
    assert all(torch.equal(straight, other) for other in others)


def test_resumes(pairs: Path) -> None:
    train_soft_tokens(options(pairs, out=pairs / "straight.safetensors", steps=3))
    train_soft_tokens(options(pairs))
    train_soft_tokens(options(pairs, steps=3, resume=True))
    straight = weft.SoftTokens.load(pairs / "straight.safetensors")
    resumed = weft.SoftTokens.load(pairs.parent / "out" / "soft.safetensors")
    assert torch.equal(straight.tokens, resumed.tokens)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "1"], "`batch_size` must be at least 2"),
        (["--objective", "agsm", "--negatives", "8"], "`negatives` must be fewer than the 8 pictures"),
        (["--learn-logit", "--objective", "agsm", "--negatives", "1"], "`learn_logit` and `direction` are of the"),
        (["--text-length", "9"], "`text_length` is of Stable Diffusion 3"),
        (["--out", "soft.pth"], "--out must be a file that ends in .safetensors; got soft.pth"),
        (["--pairs", "nowhere"], "pairs must be a folder; there is none at nowhere"),
    ],
)
def test_a_mistake_is_one_line(
    pairs: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(pairs.parent / "out" / "soft.safetensors")]
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "soft-tokens", "--pairs", str(pairs), *out, *arguments])
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("weft: error: ") and message in line
