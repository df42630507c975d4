"""Who may import whom, as one table, and a reader of what files import.

``python tests/structure/support/packages.py`` writes the table of CONTRIBUTING.md from it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- packages: written by tests/structure/support/packages.py -->\n", "<!-- end of packages -->\n"

FOUNDATION = frozenset({"_checked", "_dispatch", "_env", "_errors", "_names", "_native_loader"})
# third parties that only some parts may know; every other package is free to use
GUARDED = frozenset({"accelerate", "diffusers", "peft", "transformers", "triton", "tyro"})
# a diffusers model class in a method would tie a paper to a model; attach is there to untie them
PLAIN_DIFFUSERS = frozenset({"diffusers.DiffusionPipeline"})


@dataclass(frozen=True)
class Part:
    """A set of files and what they may import.

    Attributes:
        pattern: Regular expression for the path of a file, from the top of the repository.
        holds: What is in it, for people; empty for parts that CONTRIBUTING does not list.
        place: The path that people read.
        weft: Parts of weft beside its own, as the path after ``weft.``; "op/x" are the modules of the same op whose
            names begin with x; "*" is everything.
        guarded: Those of ``GUARDED`` that it may import.
        only: If given, the only packages outside weft and the standard library that it may import.
        plain: Of diffusers it may import the names of ``PLAIN_DIFFUSERS`` alone.
    """

    pattern: str
    holds: str = ""
    place: str = ""
    weft: frozenset[str] = frozenset()
    guarded: frozenset[str] = frozenset()
    only: frozenset[str] | None = None
    plain: bool = False

    def may_use(self) -> str:
        """What it may import, in words."""
        inner = sorted(name for name in self.weft - FOUNDATION if not name.startswith(("_", "op/")))
        outer = sorted(self.guarded if self.only is None else self.only)
        return ", ".join([*(f"`{name}`" for name in inner), *outer]) or "the standard library"


def _part(
    pattern: str,
    holds: str = "",
    place: str = "",
    *,
    weft: str = "",
    guarded: str = "",
    only: str | None = None,
    plain: bool = False,
) -> Part:
    known = frozenset(weft.split()) - {"FOUNDATION"} | (FOUNDATION if "FOUNDATION" in weft else frozenset())
    allowed = None if only is None else frozenset(only.split())
    return Part(pattern, holds, place, known, frozenset(guarded.split()), allowed, plain)


# the first pattern that matches a path is its part
PARTS = {
    "arguments": _part(
        r"kernels/\w+/arguments\.py", "the arguments of an op as one record", "kernels/<op>/arguments.py", only="torch"
    ),
    "definition": _part(
        r"kernels/\w+/reference\w*\.py",
        "the definition of an op in plain PyTorch",
        "kernels/<op>/reference.py",
        weft="op/reference op/arguments kernels.common.capture",
        only="torch",
    ),
    "launch": _part(
        r"kernels/(\w+/launch\w*|common/(grids|product_tiles))\.py",
        "launch choices as data",
        "kernels/<op>/launch*.py",
        weft="op/launch kernels.common.grids kernels.common.product_tiles",
        only="",
    ),
    "kernel packages": _part(r"(kernels/\w+|python/weft/kernels)/__init__\.py", only=""),
    # what measures a device checks each tile against the definition
    "tune": _part(
        r"kernels/\w+/tune\w*\.py", weft="_env _errors kernels.common op/", guarded="triton", only="torch triton"
    ),
    "triton": _part(
        r"kernels/\w+/\w+\.py",
        "Triton kernels and their launchers",
        "kernels/<op>, kernels/common",
        weft="kernels.common op/launch op/arguments",
        guarded="triton",
        only="torch triton",
    ),
    "foundation": _part(
        r"python/weft/_(checked|env|errors|names|native_loader|dispatch|files|device)\.py",
        "environment, errors, names, files, choice of a backend",
        "python/weft/_*.py",
        weft="FOUNDATION _native",
        only="lazy_loader torch",
    ),
    "ops": _part(
        r"python/weft/ops/.*",
        "one package an op: contract, checks, dispatch, registration",
        "python/weft/ops",
        weft="FOUNDATION kernels _device",
        only="torch",
    ),
    "attach": _part(
        r"python/weft/attach/.*",
        "everything that knows diffusers: the handle, families, processors, prompts",
        "python/weft/attach",
        weft="FOUNDATION ops _device",
        guarded="diffusers peft transformers",
    ),
    # networks and files as their authors released them
    "released": _part(
        r"python/weft/methods/(powerpaint/(clip_states|network)|residuals/lora)\.py",
        weft="FOUNDATION ops attach methods _files _device",
        guarded="diffusers transformers",
    ),
    "methods": _part(
        r"python/weft/methods/.*",
        "one package a paper",
        "python/weft/methods",
        weft="FOUNDATION ops attach _files _device",
        guarded="diffusers",
        plain=True,
    ),
    "train": _part(
        r"python/weft/train/.*",
        "the loop, the data, one package a `fit_*`",
        "python/weft/train",
        weft="FOUNDATION ops attach methods _files _device",
        guarded="accelerate diffusers transformers peft tyro",
    ),
    "shapes": _part(
        r"python/weft/shapes/.*",
        "the embedded world, its reader and models",
        "python/weft/shapes",
        weft="_errors _files _names _device train",
        guarded="accelerate diffusers transformers tyro",
    ),
    "evaluation": _part(
        r"python/weft/evaluation/.*",
        "how good drawn images are; no training may know it",
        "python/weft/evaluation",
        weft="FOUNDATION ops train shapes _files _device",
        guarded="transformers tyro",
    ),
    "testing": _part(
        r"python/weft/testing/.*",
        "oracles and input makers",
        "python/weft/testing",
        weft="kernels.attention.arguments",
    ),
    "surface": _part(
        r"python/weft/__init__\.py", weft="_dispatch _errors _names attach evaluation methods ops shapes testing train"
    ),
    "doctor": _part(
        r"python/weft/_doctor\.py",
        weft="FOUNDATION kernels.attention.arguments kernels.lowrank_linear.arguments "
        "kernels.regions.arguments ops _device shapes",
    ),
    "cli": _part(
        r"python/weft/(cli|commands/.*|__main__)(\.py)?",
        "the command line, without logic of its own",
        "python/weft/cli.py, commands",
        weft="FOUNDATION __version__ _doctor _files _device cli commands ops attach methods train shapes evaluation",
        guarded="diffusers tyro",
    ),
    "benchmarks": _part(
        r"benchmarks/.*", "what is measured, and how", "benchmarks", weft="*", guarded=" ".join(GUARDED)
    ),
    # how measuring works is tested like anything else
    "tests of benchmarks": _part(r"tests/benchmarks/.*", weft="*", guarded=" ".join(GUARDED)),
    "tests": _part(r"tests/.*", weft="*", guarded=" ".join(GUARDED)),
}

# parts that lie outside the package, and whom they must leave alone
APART = {"benchmarks": "tests", "tests": "benchmarks"}


def part_of(path: str) -> str | None:
    """Name of the part that the file belongs to."""
    return next((name for name, part in PARTS.items() if re.fullmatch(part.pattern, path)), None)


def module_name(path: str) -> str:
    """Dotted name of a file as it is installed."""
    parts = list(Path(path).with_suffix("").parts)
    parts = parts[1:] if parts[0] == "python" else ["weft", *parts] if parts[0] == "kernels" else parts
    return ".".join(parts)


def imported(source: str, path: str) -> Iterator[str]:
    """Dotted names that a file imports, relative ones resolved; ``from a import b`` gives a.b.

    Names reached through an imported package (``import weft; weft.train.core``) count, and so does what is handed to
    ``import_module`` and ``__import__``, of an f-string the text before its first value.
    """
    package = module_name(path).split(".")[:-1]
    tree = ast.parse(source)
    bound: dict[str, str] = {}  # local name -> module
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
                bound[alias.asname or alias.name.partition(".")[0]] = (alias.asname and alias.name) or (
                    alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            stem = ".".join(filter(None, [*base, node.module or ""]))
            yield from (f"{stem}.{alias.name}" for alias in node.names)
            bound |= {alias.asname or alias.name: f"{stem}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and _name_of(node.func).rpartition(".")[2] in ("import_module", "__import__"):
            yield from filter(None, [_text_of(node.args[0])] if node.args else [])
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner and (name := _name_of(node)):
            top, _, rest = name.partition(".")
            if bound.get(top) == "weft":
                yield f"weft.{rest}"


def _name_of(node: ast.AST) -> str:
    """``a.b.c`` of such an expression; empty for any other."""
    if isinstance(node, ast.Attribute):
        inner = _name_of(node.value)
        return inner and f"{inner}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _text_of(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        node = node.values[0] if node.values else node
    return str(node.value).rstrip(".") if isinstance(node, ast.Constant) else ""


def _homes() -> dict[str, str]:
    """Public name of ``weft`` -> the module that it is imported from."""
    stub = ast.parse((ROOT / "python/weft/__init__.pyi").read_text())
    found = {}
    for node in ast.walk(stub):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.name: f"{node.module}.{alias.name}" for alias in node.names if alias.name != node.module}
    return found


HOMES = _homes()


def _allowed(name: str, path: str, part: str) -> bool:
    """Whether a file of ``part`` may import ``weft.<name>``."""
    own = module_name(path).removeprefix("weft.").split(".")
    first, _, rest = name.partition(".")
    name = f"{HOMES[first]}.{rest}".rstrip(".") if first in HOMES else name
    if "*" in PARTS[part].weft or not name or name.startswith("__"):
        return True
    for entry in PARTS[part].weft:
        if entry.startswith("op/") and name.startswith(f"kernels.{own[1]}.{entry[3:]}"):
            return True
        if f"{name}.".startswith(f"{entry}."):
            return True
    if own[0] == "kernels":  # the files of an op are parts of their own, and another op is out of bounds
        return name.split(".")[:2] == own[:2] and part_of("/".join(name.split(".")[:3]) + ".py") == part
    top = name.split(".")[0]
    return top == own[0] or part_of(f"python/weft/{top}/any.py") == part


def violations(source: str, path: str) -> list[str]:
    """What a file imports against the arrows."""
    part = part_of(path)
    if part is None:
        return [f"{path}: belongs to no part of tests/structure/support/packages.py"]
    rules, found = PARTS[part], []
    for name in sorted(set(imported(source, path))):
        top, _, rest = name.partition(".")
        if top == "weft":
            bad = not _allowed(rest, path, part)
        elif top in sys.stdlib_module_names:
            bad = False
        else:
            bad = (top in GUARDED - rules.guarded) or (rules.only is not None and top not in rules.only)
            bad |= APART.get(part) == top
            bad |= rules.plain and top == "diffusers" and name not in PLAIN_DIFFUSERS
        if bad:
            found.append(f"{path}: {part} may not import {name}")
    return found


def table() -> str:
    """The parts as CONTRIBUTING.md shows them."""
    rows = [
        "| Path | Holds | May use, besides what is above it in `python/weft/_*.py` |",
        "|---|---|---|",
        "| `csrc/include/weft` | device and SIMD helpers | CUDA headers, intrinsics |",
        "| `csrc/<op>` | C++ and CUDA kernels of an op | `include/weft` |",
        "| `csrc/bindings.cpp` | the Python module of csrc | pybind11, the header of each op |",
        *(f"| `{part.place}` | {part.holds} | {part.may_use()} |" for part in PARTS.values() if part.holds),
    ]
    return "\n".join(rows) + "\n"


def with_table(text: str) -> str:
    """``text`` of CONTRIBUTING.md with the table of today."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    CONTRIBUTING.write_text(with_table(CONTRIBUTING.read_text()))
