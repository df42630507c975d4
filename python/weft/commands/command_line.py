"""All commands as one type that tyro parses, and which function carries each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union

import tyro

from weft._checked import check_all, checked_later
from weft.commands.bench import Bench
from weft.commands.demo import Demo
from weft.commands.evaluate import Evaluate
from weft.commands.generate import Generate
from weft.commands.inpaint import Inpaint
from weft.commands.train import Train


@dataclass(frozen=True)
class Doctor:
    """Report what is built, which backends work here and why others do not, versions and chip features."""


Command = Union[  # noqa: UP007 - tyro reads the annotations of a Union's members
    Annotated[Doctor, tyro.conf.subcommand("doctor")],
    Annotated[Demo, tyro.conf.subcommand("demo")],
    Annotated[Generate, tyro.conf.subcommand("generate")],
    Annotated[Inpaint, tyro.conf.subcommand("inpaint")],
    Annotated[Train, tyro.conf.subcommand("train")],
    Annotated[Evaluate, tyro.conf.subcommand("evaluate")],
    Annotated[Bench, tyro.conf.subcommand("bench")],
]


def parse(arguments: Sequence[str]) -> Any:
    """The command that ``arguments`` name, with its options; exits with help where they are none."""
    description = "Read, edit and localise text-to-image models. `weft --version` prints the version."
    with checked_later():
        command = tyro.cli(Command, prog="weft", args=arguments, description=description)
    check_all(command)
    return command


def run(command: Doctor | Demo | Generate | Inpaint | Train | Evaluate | Bench) -> None:
    """Carry out one parsed command and print what it found or wrote."""
    if isinstance(command, Doctor):
        from weft import _doctor

        print(_doctor.render(_doctor.examine()))
    elif isinstance(command, Demo):
        from weft.commands.demo import demo, describe

        rows, path = demo(command)
        print(describe(rows))
        print(f"pictures: {path}")
    elif isinstance(command, Inpaint):
        from weft.commands.inpaint import inpaint

        print(inpaint(command))
    elif isinstance(command, Train):
        from weft.commands.train import train

        if summary := train(command):
            print(summary)
    elif isinstance(command, Evaluate):
        from weft.commands.evaluate import evaluate

        print(evaluate(command))
    elif isinstance(command, Bench):
        from weft.commands.bench import bench

        status = bench(command)
        if status:
            raise SystemExit(status)
    else:
        from weft.commands.generate import describe_written, generate

        print(describe_written(command, generate(command)))
