"""A package that has a face is imported by it: its files are its own business."""

from __future__ import annotations

from pathlib import Path

import pytest
from packages import ROOT, imported, module_name

PYTHON = ROOT / "python"
# the packages of a method, a fit, an op, a family, and attach as a whole
FACES = sorted(
    str(path.parent.relative_to(PYTHON)).replace("/", ".")
    for pattern in ("methods/*", "train/*", "ops/*", "attach", "evaluation/judge")
    for path in (PYTHON / "weft").glob(f"{pattern}/__init__.py")
)
FILES = sorted(str(path.relative_to(ROOT)) for top in ("python", "benchmarks") for path in (ROOT / top).rglob("*.py"))


def past_a_face(source: str, path: str) -> list[str]:
    """Modules inside a package that a file outside of it imports."""
    own = module_name(path)
    found = []
    for name in imported(source, path):
        face = next((face for face in FACES if name.startswith(f"{face}.")), None)
        if face is None or own == face or own.startswith(f"{face}."):
            continue
        inner = name.removeprefix(f"{face}.").split(".")[0]
        if _is_module(face, inner) and inner not in _names(face):
            found.append(name)
    return found


def _is_module(face: str, name: str) -> bool:
    folder = PYTHON / face.replace(".", "/")
    return (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists()


def _names(face: str) -> set[str]:
    """Names of a face, one of which may be that of a file, too."""
    folder = PYTHON / face.replace(".", "/")
    stub = folder / "__init__.pyi"
    text = (stub if stub.exists() else folder / "__init__.py").read_text()
    return {line.split()[-1] for line in text.splitlines() if " import " in line}


@pytest.mark.parametrize("path", FILES)
def test_others_import_a_package_by_its_face(path: str) -> None:
    assert past_a_face((ROOT / path).read_text(), path) == []


@pytest.mark.parametrize(
    ("path", "line", "is_caught"),
    [
        ("python/weft/commands/demo.py", "from weft.methods.attention_maps.token_maps import TokenMaps", True),
        ("python/weft/train/residual/fit.py", "import weft.train.soft_tokens.bank", True),
        ("benchmarks/run.py", "from weft.methods.maskdiffusion import phrases", True),
        ("benchmarks/run.py", "import weft\n\nweft.methods.maskdiffusion.phrases.find_phrases", True),
        ("python/weft/commands/demo.py", "from weft.methods.attention_maps import TokenMaps", False),
        (
            "python/weft/methods/attention_maps/control.py",
            "from weft.methods.attention_maps.token_maps import A",
            False,
        ),
        ("python/weft/train/residual/fit.py", "from weft.train.diffusion import shared_prefix", False),
    ],
)
def test_a_planted_import_is_judged(path: str, line: str, is_caught: bool) -> None:
    assert bool(past_a_face(line, path)) == is_caught


def test_every_face_lists_names() -> None:
    empty = [face for face in FACES if not _names(face) and not list(Path(PYTHON / face.replace(".", "/")).glob("*/"))]
    assert empty == []
