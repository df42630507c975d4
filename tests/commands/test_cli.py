"""What every command shares: one message for what ends it, its exit status, and how models are named."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image

import weft
from weft import _device, cli, shapes
from weft.commands import command_line
from weft.commands.loading import load_inpainting, load_pipeline
from weft.evaluation import open_extractor
from weft.train.distribution.vision import vision_features
from weft.train.gan.pretrained import load_text, load_vision


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    """Exit status, and what was said of it."""
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return stop.value.code, capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--version"])
    assert capsys.readouterr().out == f"weft {weft.__version__}\n"


def test_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "weft", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"weft {weft.__version__}\n"


def test_the_name_is_said_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ("--steps", "1", "--out", str(tmp_path / "out"))
    status, said = ended(capsys, "generate", "--prompt", "a red circle", "--maps", "star", *out)
    assert status == 2
    assert (
        said.splitlines()[-1]
        == "weft: error: 'star' is not in the prompt 'a red circle'; its words are a, red, circle"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("no map of 'x' was read"), "error: no map of 'x' was read"),
        (MemoryError(), "error: MemoryError"),
        (ImportError("FID needs torchmetrics"), "error: FID needs torchmetrics"),
        (OSError("first\nsecond"), "error: first"),
        (weft.BackendUnavailableError("attention: none\n  cpu: no"), "error: attention: none\n  cpu: no"),
        (torch.OutOfMemoryError("CUDA out of memory."), "error: not enough memory; ask for less: CUDA out of memory."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_expected_error_is_one_message(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: object) -> None:
        raise error

    monkeypatch.setattr(command_line, "run", fail)
    assert ended(capsys, "doctor") == (2, f"weft: {said}\n")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: object) -> None:
        raise AssertionError("not a user's doing")

    monkeypatch.setattr(command_line, "run", fail)
    with pytest.raises(AssertionError):
        cli.main(["doctor"])


INTERRUPTED = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
from weft.cli import main
main(["generate", "--prompt", "a red circle", "--out", {out!r}])
"""


# when options are parsed, devices chosen, the model loaded
@pytest.mark.parametrize("module", ["tyro", "torch", "diffusers"])
def test_ctrl_c_while_importing_is_one_line(module: str, tmp_path: Path) -> None:
    script = INTERRUPTED.format(module=module, out=str(tmp_path / "out"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "weft: interrupted\n")


def test_ctrl_c_while_drawing_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(shapes.pipeline().scheduler), "step", interrupt)
    status, said = ended(capsys, "generate", "--prompt", "a red circle", "--out", str(tmp_path))
    assert status == 130
    assert said.splitlines()[-1].endswith("weft: interrupted")


# --- models ---


@pytest.mark.parametrize("loads", [load_pipeline, load_inpainting])
@pytest.mark.parametrize("model", ["embedded", None], ids=["embedded", "folder"])
def test_loading_warns_of_no_deprecated_name(loads, model, caplog: pytest.LogCaptureFixture) -> None:
    name = "inpainting" if loads is load_inpainting else "sd1"
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error", FutureWarning)
        pipe = loads(model or str(shapes.model_path(name)), torch.float16, torch.device("cpu"))
    assert pipe.unet.dtype == pipe.text_encoder.dtype == torch.float16
    assert "torch_dtype" not in caplog.text


@pytest.mark.parametrize(
    ("diffusers", "name"),
    [("0.35.2", "torch_dtype"), ("0.39.1", "torch_dtype"), ("0.40.0", "dtype"), ("0.42.1", "dtype"), ("1.0", "dtype")],
)
def test_dtype_has_the_name_that_diffusers_knows(diffusers: str, name: str) -> None:
    assert _device.dtype_argument(torch.float16, diffusers) == {name: torch.float16}


@pytest.mark.parametrize("loads", [load_pipeline, load_inpainting])
def test_a_model_id_without_a_network_is_one_sentence(loads, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = HfHubHTTPError.__bases__[0]

    def unreachable(*args: object, **kwargs: object) -> None:
        raise transport("Name or service not known")

    monkeypatch.setattr("huggingface_hub.model_info", unreachable)
    with pytest.raises(
        ValueError,
        match=r"--model no/model: is no folder here and not in the cache .* cannot be "
        r"reached \(Name or service not known\); fetch it .* `hf download no/model .*give that folder",
    ):
        loads("no/model", torch.float32, torch.device("cpu"))


def test_a_model_id_offline_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"the hub cannot be reached \(.*offline"):
        load_pipeline("no/model", torch.float32, torch.device("cpu"))


def test_a_model_id_that_the_hub_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: object, **kwargs: object) -> None:
        raise HfHubHTTPError("404 Client Error", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr("huggingface_hub.model_info", absent)
    with pytest.raises(ValueError, match=r"the hub does not give a model of that id \(404 Client Error\)"):
        load_pipeline("no/model", torch.float32, torch.device("cpu"))


@pytest.mark.parametrize(
    "loads",
    [open_extractor, vision_features, lambda x: load_text(Path(x)), lambda x: load_vision(Path(x))],
    ids=["extractor", "features", "text", "vision"],
)
def test_what_takes_folders_alone_says_so_of_a_model_id(loads) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no model id is looked up.*hf download|hf download.*no model id is looked"
    ):
        loads("openai/clip-vit-base-patch32")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("meta", "sees no device meta here; use --device cpu"),
        ("cpu:7", "the last device of this kind here is cpu; use that"),
        ("tpu-ish", "must be auto, cpu or cuda"),
        ("", "must be auto, cpu or cuda"),
        ("cuda:-1", "must be auto, cpu or cuda"),
        ("cuda:99", "sees no device cuda here|the last device of this kind"),
        ("hpu", "sees no device hpu here"),
    ],
)
def test_a_device_that_is_not_here(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _device.choose_device(device)


def test_a_device_that_is_here() -> None:
    assert _device.choose_device("cpu") == torch.device("cpu")
    assert _device.choose_device("cpu:0").type == "cpu"


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "generate --prompt a",
        "inpaint --image {picture} --mask {picture}",
        "evaluate",
        "train residual --images {folder} --class-word circle",
        "train soft-tokens --pairs {folder}",
        "train task-prompts --pictures shapes",
        "train gan",
    ],
)
def test_every_command_refuses_a_device_alike(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.linear_gradient("L").resize((64, 64)).save(tmp_path / "picture.png")
    (tmp_path / "picture.txt").write_text("a white square")
    monkeypatch.chdir(tmp_path)
    words = command.format(picture="picture.png", folder=".").split()
    status, said = ended(capsys, *words, "--device", "meta")
    assert status == 2
    assert said.splitlines()[-1].startswith("weft: error: --device meta: torch")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--steps 0", "--steps must be at least 1; got 0"),
        ("--seed -1", "--seed must not be negative; got -1"),
        ("--seed 9223372036854775808", "--seed must be below 2 ** 63"),
        ("--seed 99999999999999999999999", "--seed must be below 2 ** 63"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "generate --prompt a",
        "inpaint --image picture.png --mask picture.png",
        "evaluate",
        "train residual --images . --class-word circle",
        "train soft-tokens --pairs .",
        "train task-prompts --pictures shapes",
        "train gan",
    ],
)
def test_every_command_refuses_absurd_numbers(
    command: str,
    arguments: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.linear_gradient("L").resize((64, 64)).save(tmp_path / "picture.png")
    (tmp_path / "picture.txt").write_text("a white square")
    monkeypatch.chdir(tmp_path)
    status, said = ended(capsys, *command.split(), *arguments.split())
    assert status == 2
    # configurations of training say `steps`
    assert message in said.splitlines()[-1] or message.replace("--steps", "`steps`") in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--height -8", "--height must be at least 1; got -8"),
        ("--width 0", "--width must be at least 1; got 0"),
        ("--width 7", "divisible by 8|multiple"),
        ("--images 100000000", "--images must be at most 4096"),
        ("--guidance-scale nan", "--guidance-scale must be finite; got nan"),
        ("--guidance-scale inf", "--guidance-scale must be finite; got inf"),
        ("--height 100000000", "--height must be at most 16384 pixels; got 100000000"),
    ],
)
def test_generate_refuses_absurd_numbers(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = ended(capsys, "generate", "--prompt", "a", "--out", str(tmp_path), *arguments.split())
    assert status == 2
    assert re.search(message, said.splitlines()[-1]), said


def test_one_side_alone_is_not_passed_over(tmp_path: Path) -> None:
    cli.main(["generate", "--prompt", "a red circle", "--steps", "1", "--height", "32", "--out", str(tmp_path)])
    (picture,) = tmp_path.glob("*.png")
    assert Image.open(picture).size == (64, 32)
