"""A stage of the training: the shared loop with what all stages want of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from accelerate import Accelerator
from torch import Tensor, nn

from weft.train.core import CHECKPOINT, Batch, fit, load_checkpoint

from .config import StageConfig

Objective = TypeVar("Objective", bound=nn.Module)


def fit_stage(
    name: str,
    objective: nn.Module,
    batch_at: Callable[[int], Batch],
    config: StageConfig,
    seed: int,
    folder: Path,
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    """Train ``objective`` to the end of its stage, going on from ``folder`` when it holds a checkpoint.

    A run may go on with other numbers, even with another batch size, but not with another seed: the latents and their
    captions belong to it.

    Returns:
        The averaged parameters.
    """
    identity = {"stage": name, "seed": seed}
    average = fit(name, objective, batch_at, config, accelerator, folder, resume=True, identity=identity)
    if average is None:
        raise ValueError(f"{name}: `average_decay` must be above 0, as the averaged weights are the result; got 0")
    return average


def averaged(objective: Objective, average: Mapping[str, Tensor]) -> Objective:
    """``objective`` itself with the averaged parameters, in evaluation mode."""
    objective.load_state_dict({**objective.state_dict(), **average})
    return objective.eval()


def averaged_from(objective: Objective, folder: Path) -> Objective:
    """``objective`` itself with the averaged parameters of the latest checkpoint in ``folder``, in evaluation mode.

    Raises:
        FileNotFoundError: There is no checkpoint.
    """
    saved = load_checkpoint(folder / CHECKPOINT)
    if saved is None:
        raise FileNotFoundError(f"export: no checkpoint in {folder}; train the diffusion stage first")
    return averaged(objective, saved["average"])
