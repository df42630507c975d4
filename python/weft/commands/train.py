"""``weft train``: teach a model something, with checkpoints that a later ``--resume`` goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Union

import tyro

from weft._files import output_folder
from weft.commands.numbers import check_numbers
from weft.commands.train_gan import TrainGan, train_gan
from weft.commands.train_residual import TrainResidual, train_residual
from weft.commands.train_soft_tokens import TrainSoftTokens, train_soft_tokens
from weft.commands.train_task_prompts import TrainTaskPrompts, train_task_prompts
from weft.shapes.fitting.config import TrainConfig


@dataclass(frozen=True)
class Train:
    """Teach a model something new: residual for one object, soft-tokens for its prompts, task-prompts for painting
    into holes; gan, a generator of its own; or shapes, the embedded model itself.
    """

    what: Annotated[
        Union[  # noqa: UP007 - tyro reads the annotations of a Union's members
            Annotated[TrainResidual, tyro.conf.subcommand("residual")],
            Annotated[TrainSoftTokens, tyro.conf.subcommand("soft-tokens")],
            Annotated[TrainTaskPrompts, tyro.conf.subcommand("task-prompts")],
            Annotated[TrainGan, tyro.conf.subcommand("gan")],
            Annotated[TrainConfig, tyro.conf.subcommand("shapes", description="Train the embedded model again.")],
        ],
        tyro.conf.arg(name=""),
    ]


def train(options: Train) -> str:
    """Carry out ``weft train``; returns the text to print, on the main process only.

    Raises:
        As the ``fit_*`` of ``weft.train``, and OSError where nothing can be written; found out before the model is
        loaded.
    """
    if isinstance(options.what, TrainResidual):
        return train_residual(options.what)
    if isinstance(options.what, TrainSoftTokens):
        return train_soft_tokens(options.what)
    if isinstance(options.what, TrainTaskPrompts):
        return train_task_prompts(options.what)
    if isinstance(options.what, TrainGan):
        return train_gan(options.what)
    check_numbers(options.what, who="train shapes")
    output_folder(options.what.run, who="train shapes", option="--run")
    from weft.shapes.train import train as train_shapes

    train_shapes(options.what)
    return f"trained: {options.what.run}"
