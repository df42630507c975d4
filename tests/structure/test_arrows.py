"""Who may import whom: csrc, kernels -> ops -> attach -> methods -> train -> cli, read from every file's imports."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOUNDATION = frozenset({"_dispatch", "_env", "_errors", "_names", "_native_loader"})
# third parties that only some rooms may know; every other package is anybody's
GUARDED = frozenset({"accelerate", "diffusers", "peft", "transformers", "triton", "tyro"})


@dataclass(frozen=True)
class Room:
    """A set of files and what they may import.

    Attributes:
        pattern: Regular expression for the path of a file, from the top of the repository.
        weft: Parts of weft beside its own room, as the path after ``weft.``; "op/x" are the modules of the same op
            whose names begin with x.
        guarded: Those of ``GUARDED`` that it may import.
        only: If given, the only packages outside weft and the standard library that it may import.
    """

    pattern: str
    weft: frozenset[str] = frozenset()
    guarded: frozenset[str] = frozenset()
    only: frozenset[str] | None = None


def _room(pattern: str, *, weft: str = "", guarded: str = "", only: str | None = None) -> Room:
    known = frozenset(weft.split()) | (FOUNDATION if "FOUNDATION" in weft else frozenset())
    return Room(pattern, known, frozenset(guarded.split()), None if only is None else frozenset(only.split()))


# the first pattern that matches a path is its room
ROOMS = {
    "definition": _room(r"kernels/\w+/reference\w*\.py", weft="op/reference kernels.common.capture", only="torch"),
    "launch": _room(r"kernels/\w+/launch\w*\.py", weft="op/launch", only=""),
    "kernel packages": _room(r"(kernels/\w+|python/weft/kernels)/__init__\.py", only=""),
    # what measures a device checks each tile against the definition
    "tune": _room(
        r"kernels/\w+/tune\w*\.py", weft="_env _errors kernels.common op/", guarded="triton", only="torch triton"
    ),
    "triton": _room(r"kernels/\w+/\w+\.py", weft="kernels.common op/launch", guarded="triton", only="torch triton"),
    "foundation": _room(
        r"python/weft/_(env|errors|names|native_loader|dispatch|files|device)\.py",
        weft="FOUNDATION",
        only="lazy_loader torch",
    ),
    "ops": _room(r"python/weft/ops/.*", weft="FOUNDATION kernels _device", only="torch"),
    "attach": _room(r"python/weft/attach/.*", weft="FOUNDATION ops _device", guarded="diffusers peft transformers"),
    "methods": _room(
        r"python/weft/methods/.*", weft="FOUNDATION ops attach _files _device", guarded="diffusers transformers"
    ),
    "train": _room(
        r"python/weft/train/.*",
        weft="FOUNDATION ops attach methods _files _device",
        guarded="accelerate diffusers transformers peft",
    ),
    "shapes": _room(
        r"python/weft/shapes/.*",
        weft="_errors _files _names _device train",
        guarded="accelerate diffusers transformers tyro",
    ),
    "evaluation": _room(
        r"python/weft/evaluation/.*", weft="FOUNDATION ops train shapes _files _device", guarded="transformers tyro"
    ),
    "testing": _room(r"python/weft/testing/.*"),
    "surface": _room(
        r"python/weft/__init__\.py", weft="_dispatch _errors _names attach evaluation methods ops shapes testing train"
    ),
    "doctor": _room(r"python/weft/_doctor\.py", weft="FOUNDATION ops _device shapes"),
    "cli": _room(
        r"python/weft/(cli|commands/.*|__main__)(\.py)?",
        weft="FOUNDATION __version__ _doctor _files _device cli commands ops attach methods train shapes evaluation",
        guarded="diffusers tyro",
    ),
    "benchmarks": _room(r"benchmarks/.*", weft="*", guarded=" ".join(GUARDED)),
    # how measuring works is tested like anything else
    "tests of benchmarks": _room(r"tests/benchmarks/.*", weft="*", guarded=" ".join(GUARDED)),
    "tests": _room(r"tests/.*", weft="*", guarded=" ".join(GUARDED)),
}

# rooms that stand outside the package, and whom they must leave alone
APART = {"benchmarks": "tests", "tests": "benchmarks"}
# a diffusers model class in a method would tie a paper to a model; attach is there to untie them
METHODS_KEEP_OUT = re.compile(r"diffusers\.(models|pipelines)\b")


def room_of(path: str) -> str | None:
    return next((name for name, room in ROOMS.items() if re.fullmatch(room.pattern, path)), None)


def module_name(path: str) -> str:
    """Dotted name of a file as it is installed."""
    parts = list(Path(path).with_suffix("").parts)
    parts = parts[1:] if parts[0] == "python" else ["weft", *parts] if parts[0] == "kernels" else parts
    return ".".join(parts)


def imported(source: str, path: str) -> Iterator[str]:
    """Dotted names that a file imports, relative ones resolved; ``from a import b`` gives a.b."""
    package = module_name(path).split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            stem = ".".join(filter(None, [*base, node.module or ""]))
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def _allowed(name: str, path: str, room: str) -> bool:
    """Whether a file of ``room`` may import ``weft.<name>``."""
    own = module_name(path).removeprefix("weft.").split(".")
    if "*" in ROOMS[room].weft or not name:
        return True
    for entry in ROOMS[room].weft:
        if entry.startswith("op/") and name.startswith(f"kernels.{own[1]}.{entry[3:]}"):
            return True
        if f"{name}.".startswith(f"{entry}."):
            return True
    if own[0] == "kernels":  # the files of an op are rooms of their own, and another op is out of bounds
        return name.split(".")[:2] == own[:2] and room_of("/".join(name.split(".")[:3]) + ".py") == room
    return room_of(f"python/weft/{name.split('.')[0]}/any.py") == room


def violations(source: str, path: str) -> list[str]:
    """What a file imports against the arrows."""
    room = room_of(path)
    if room is None:
        return [f"{path}: belongs to no room of tests/structure/test_arrows.py"]
    found = []
    for name in imported(source, path):
        top, _, rest = name.partition(".")
        if top == "weft":
            bad = not _allowed(rest, path, room)
        elif top in sys.stdlib_module_names:
            bad = False
        else:
            only = ROOMS[room].only
            bad = (top in GUARDED - ROOMS[room].guarded) or (only is not None and top not in only)
            bad |= APART.get(room) == top or (room == "methods" and METHODS_KEEP_OUT.match(name) is not None)
        if bad:
            found.append(f"{path}: {room} may not import {name}")
    return found


FILES = sorted(
    str(path.relative_to(ROOT))
    for top in ("python", "kernels", "benchmarks", "tests")
    for path in (ROOT / top).rglob("*.py")
)


@pytest.mark.parametrize("path", FILES)
def test_imports_follow_the_arrows(path: str) -> None:
    assert violations((ROOT / path).read_text(), path) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("kernels/attention/reference.py", "import triton"),
        ("kernels/attention/reference.py", "from weft import _errors"),
        ("kernels/attention/reference.py", "from weft.kernels.lowrank_linear import reference"),
        ("kernels/attention/launch.py", "import torch"),
        ("kernels/attention/fwd.py", "from ..contrastive import fwd"),
        ("kernels/attention/fwd.py", "import weft.ops.attention"),
        ("kernels/attention/fwd.py", "from .reference import attention_reference"),
        ("python/weft/_errors.py", "from weft.ops import attention"),
        ("python/weft/ops/attention.py", "import triton.language as tl"),
        ("python/weft/ops/attention.py", "import diffusers"),
        ("python/weft/ops/attention.py", "from ..attach import unet"),
        ("python/weft/ops/attention.py", "def f():\n    from weft import attach"),
        ("python/weft/attach/families/unet.py", "from weft.kernels.attention import reference"),
        ("python/weft/attach/families/unet.py", "from weft.methods import attention_maps"),
        ("python/weft/methods/lag.py", "from diffusers import models"),
        ("python/weft/methods/lag.py", "from diffusers.models.attention_processor import Attention"),
        ("python/weft/methods/lag.py", "from weft import train"),
        ("python/weft/train/core/loop.py", "from weft.kernels.attention.reference import attention_reference"),
        ("python/weft/shapes/world.py", "from weft import ops"),
        ("python/weft/evaluation/distances.py", "from weft.kernels.pairwise_error import reference"),
        ("python/weft/evaluation/samplers.py", "from diffusers import DiffusionPipeline"),
        ("python/weft/train/core/loop.py", "from weft import evaluation"),
        ("python/weft/testing/oracles.py", "from weft._errors import BackendUnavailableError"),
        ("python/weft/commands/demo.py", "import weft.kernels"),
        ("benchmarks/run.py", "import tests"),
        ("tests/ops/test_attention.py", "from benchmarks import registry"),
        ("python/weft/unheard_of/file.py", "import math"),
    ],
)
def test_a_planted_violation_is_caught(path: str, line: str) -> None:
    assert len(violations(line, path)) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("kernels/attention/reference_bwd.py", "from .reference import attend"),
        (
            "kernels/attention/fwd.py",
            "import triton\nfrom weft.kernels.common import softmax\nfrom .launch import choose",
        ),
        ("python/weft/ops/attention.py", "from weft.kernels.attention.reference import attention_reference"),
        ("python/weft/ops/attention.py", "from ._attention_checks import check"),
        ("python/weft/methods/lag.py", "from diffusers import DiffusionPipeline\nfrom weft.attach import Control"),
        ("python/weft/shapes/world.py", "from .vocabulary import COLOURS"),
        ("python/weft/cli.py", "import tyro\nfrom weft import _doctor\nfrom weft.commands import demo"),
        ("tests/ops/test_attention.py", "import triton\nfrom weft.kernels.attention import fwd"),
    ],
)
def test_what_the_arrows_allow_passes(path: str, line: str) -> None:
    assert violations(line, path) == []
