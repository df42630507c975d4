"""Every number of a configuration is an option of its command, once, and nothing of it is written a second time."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import weft.commands
from weft import cli
from weft.shapes.fitting.config import TrainConfig
from weft.train import GanConfig, ResidualConfig, SoftTokensConfig, TaskPromptsConfig

COMMANDS = {
    "residual": ResidualConfig(),
    "soft-tokens": SoftTokensConfig(),
    "task-prompts": TaskPromptsConfig(),
    "gan": GanConfig(),
}
FLAGS = {"weight": "losses_weight", "times": "losses_times"}  # of a distribution
FLAGS_ALONE = re.compile(r"-\S+( \S+)*")  # a row whose help is in the next
# what the command line leaves out, and why
LEFT_OUT = {
    "recipe": "a design of its own; the command line chooses by --baseline and --size",
    "matching": "as recipe",
    "shares": "a mapping, which wants more than a flag",
    "weight_decay": "follows from what of an inpainting model is trained",
}
LEFT_OUT_OF = {"residual": {"weight_decay"}, "soft-tokens": {"weight_decay"}}  # which these commands do have


def leaves(record: Any) -> Iterator[tuple[str, Any]]:
    """Names of fields that are no records, of all records, with their defaults."""
    for field in fields(record):
        value = getattr(record, field.name)
        if is_dataclass(value):
            yield from leaves(value)
        else:
            yield field.name, value


def flags(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Those that the help begins a row with, with ``--no-`` left out."""
    monkeypatch.setenv("COLUMNS", "100")  # one column
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", command, "--help"])
    assert stop.value.code == 0
    return re.findall(r"^(?:│ |  )(--\w[\w.-]*)", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_is_an_option_once(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = flags(command, capsys, monkeypatch)
    left_out = LEFT_OUT.keys() - LEFT_OUT_OF.get(command, set())
    wanted = ["--" + FLAGS.get(name, name).replace("_", "-") for name, _ in leaves(COMMANDS[command])]
    wanted = [flag for flag in wanted if flag.removeprefix("--").replace("-", "_") not in left_out]
    assert [flag for flag in wanted if found.count(flag) != 1] == []
    assert len(found) == len(set(found))


def test_what_is_left_out_is_there_to_leave_out() -> None:
    known = {name for config in COMMANDS.values() for name, _ in leaves(config)}
    assert known >= LEFT_OUT.keys() | FLAGS.keys()


def test_the_embedded_model_is_trained_by_its_configuration(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = flags("shapes", capsys, monkeypatch)
    assert {"--" + field.name.replace("_", "-") for field in fields(TrainConfig) if field.default is not MISSING} <= {
        *found
    }
    assert "--diffusion.timestep-power" in found


def annotated_defaults(source: str) -> set[tuple[str, str]]:
    """Fields of classes with a default: name, and the default as it is written."""
    return {
        (line.target.id, ast.unparse(line.value))
        for kind in ast.walk(ast.parse(source))
        if isinstance(kind, ast.ClassDef)
        for line in kind.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None
    }


def test_commands_restate_no_default() -> None:
    """``--learning-rate`` of task prompts has a default of its own, for it follows from what is trained."""
    known = {(name, repr(value)) for config in COMMANDS.values() for name, value in leaves(config)}
    folder = Path(weft.commands.__file__).parent
    for path in (*folder.glob("train*.py"), folder / "distribution.py"):
        restated = annotated_defaults(path.read_text()) & known
        # a folder or a callable here, a name there
        assert restated <= {("features", "None")}, path.name


def help_lines(source: str) -> list[str]:
    """The strings below the fields of classes."""
    return [
        below.value.value
        for kind in ast.walk(ast.parse(source))
        if isinstance(kind, ast.ClassDef)
        for line, below in pairwise(kind.body)
        if isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    ]


def test_no_help_is_written_twice() -> None:
    """What configurations share is a field of a class that they have in common."""
    folder = Path(weft.__file__).parent / "train"
    lines = [line for path in folder.rglob("config.py") for line in help_lines(path.read_text())]
    assert len(lines) > 50
    assert [line for line in set(lines) if lines.count(line) > 1] == []


def test_a_restated_default_is_caught() -> None:
    assert annotated_defaults("class Options:\n    crops: int = 1") & {*map(repr_of, leaves(ResidualConfig()))}


def repr_of(leaf: tuple[str, Any]) -> tuple[str, str]:
    return leaf[0], repr(leaf[1])


def test_help_says_something_of_every_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A default alone, after a flag or in the row below it, would be an option without help."""
    monkeypatch.setenv("COLUMNS", "100")
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            cli.main(["train", command, "--help"])
        rows = [row.strip("│ ") for row in capsys.readouterr().out.splitlines()]
        bare = [row for before, row in pairwise(rows) if FLAGS_ALONE.fullmatch(before) and row.startswith("(default")]
        assert bare + [row for row in rows if re.match(r"--\S+( \S+)* +\(default", row)] == [], command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("residual --images x --class-word y --steps 0", "`steps` must be at least 1; got 0"),
        ("soft-tokens --pairs x --learning-rate -1", "`learning_rate` must be above 0; got -1.0"),
        ("task-prompts --pictures shapes --dropout 2", "`dropout` must be between 0 and 1; got 2.0"),
    ],
)
def test_a_number_out_of_range_is_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", *arguments.split()])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("weft: error: ") and message in line
