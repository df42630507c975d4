"""The pages: links lead somewhere, commands are understood, generated parts are those of the results."""

from __future__ import annotations

import shlex
from pathlib import Path

from weft.commands.command_line import parse

from .conftest import ROOT, anchors, blocks, links


def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in links(page):
        name, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken, f"{page.relative_to(ROOT)}: {broken}"


def test_commands_are_understood(page: Path) -> None:
    lines = [line.partition("  #")[0] for code in blocks(page, "bash") for line in code.splitlines()]
    for line in lines:
        if line.startswith("weft "):
            parse(shlex.split(line)[1:])


def test_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 12_288, "README.md: move details to docs/"


def test_every_page_is_listed() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}
    assert {page for page in index.parent.rglob("*.md")} <= listed | {index}
