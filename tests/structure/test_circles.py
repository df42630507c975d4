"""No module imports itself through others, not even for its types or where a function runs."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest
from packages import ROOT, imported, module_name

FILES = sorted(str(path.relative_to(ROOT)) for top in ("python", "kernels") for path in (ROOT / top).rglob("*.py"))
RECORDS = "python/weft/attach/records.py"


def module_of(path: str) -> str:
    """Dotted name of a module; that of a package for its ``__init__``."""
    return module_name(path).removesuffix(".__init__")


def public_names(root: Path) -> dict[str, str]:
    """Public name, as "package.name" -> the module that it is loaded from, of every package with a lazy face."""
    found = {}
    for stub in root.rglob("__init__.pyi"):
        package = ".".join(stub.parent.relative_to(root).parts)
        for node in ast.walk(ast.parse(stub.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                stem = f"{package}.{node.module}" if node.level else node.module
                found |= {f"{package}.{alias.name}": stem for alias in node.names}
    return found


def graph(sources: Mapping[str, str], names: Mapping[str, str]) -> dict[str, set[str]]:
    """Module -> those that it imports, of ``sources`` (path -> text); ``names`` as of ``public_names``."""
    modules = {module_of(path) for path in sources}
    faces = {name.rpartition(".")[0] for name in names}  # which load nothing of their own before a name is asked for

    def target(name: str) -> str | None:
        """The module that a dotted name is of, or is loaded from."""
        while name in names:  # a name of a face may itself come from a face
            stem, last = names[name], name.rpartition(".")[2]
            if stem in modules and f"{stem}.{last}" not in names:
                return stem
            name = f"{stem}.{last}"
        while name and name not in modules:
            name = name.rpartition(".")[0]
            if name in names:
                return target(name)
        return name or None

    return {
        module_of(path): {found for name in imported(text, path) if (found := target(name))}
        - faces
        - {module_of(path)}
        for path, text in sources.items()
    }


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Sets of two or more modules each of which reaches all others: strongly connected components, by Tarjan."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for other in sorted(edges.get(module, ())):
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            first = stack.index(module)
            component, stack[first:] = stack[first:], []
            if len(component) > 1:
                found.append(sorted(component))

    for module in edges:
        if module not in number:
            visit(module)
    return found


def test_no_module_imports_itself_through_others() -> None:
    sources = {path: (ROOT / path).read_text() for path in FILES}
    assert circles(graph(sources, public_names(ROOT / "python"))) == []


@pytest.mark.parametrize(
    ("back", "is_circle"),
    [
        ("from weft.first import a", True),
        ("from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from weft.first import a", True),
        ("def f():\n    from weft import first", True),
        ("import weft.pack\n\nweft.pack.a()", True),
        ("from weft.pack import a", True),
        ("import math", False),
    ],
)
def test_a_planted_circle_is_found(back: str, is_circle: bool) -> None:
    sources = {
        "python/weft/first.py": "from weft.second import b",
        "python/weft/second.py": "from weft.third import c",
        "python/weft/third.py": back,
        "python/weft/pack/__init__.py": "",
    }
    edges = graph(sources, {"weft.pack.a": "weft.first"})
    assert circles(edges) == ([["weft.first", "weft.second", "weft.third"]] if is_circle else [])


def outside_of_records(source: str) -> set[str]:
    """What a file of plain data imports beside torch, the standard library's types and the data that it holds."""
    allowed = (
        "torch",
        "collections",
        "dataclasses",
        "typing",
        "__future__",
        "weft.ops.Edit",
        "weft.attach.text.prompt.",
    )
    return {name for name in imported(source, RECORDS) if not name.startswith(allowed)}


def test_records_import_nothing_that_acts() -> None:
    assert outside_of_records((ROOT / RECORDS).read_text()) == set()


@pytest.mark.parametrize(
    "line", ["from weft.attach.control import Control", "import diffusers", "from weft import ops"]
)
def test_a_planted_import_of_records_is_caught(line: str) -> None:
    assert outside_of_records(line)
