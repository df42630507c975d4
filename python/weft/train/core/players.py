"""Who learns in a run, and when: an optimizer for each player, a loss and an update for each turn.

Most runs have one player and one turn, and need not say so. A generator and its discriminator are two players.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from weft.train.core.config import LoopConfig, Player, Turn

ALONE = ""  # the name of the player, and of the turn, of an objective that declares none


@dataclass(frozen=True, eq=False)
class Learner:
    """A player in a run.

    Attributes:
        parameters: By their names in the objective.
        optimizer: Of all of them.
    """

    player: Player
    parameters: Mapping[str, nn.Parameter]
    optimizer: Any

    def average_gradients(self, accelerator: Accelerator) -> None:
        """Those of all processes, where no wrapper of the model has done it.

        A wrapper would follow one forward pass to one backward pass, which is not how players take turns.
        """
        if accelerator.num_processes > 1:
            for value in self.parameters.values():
                if value.grad is not None:
                    value.grad = accelerator.reduce(value.grad, "mean")


def turns_of(objective: nn.Module) -> Sequence[Turn]:
    """Those that ``objective`` declares as ``turns``, or its only one."""
    return getattr(objective, "turns", None) or (Turn(ALONE, ALONE),)


def learners_of(objective: nn.Module, config: LoopConfig) -> dict[str, Learner]:
    """By player: those that ``objective`` declares as ``players``, by the names of its parts, or the only one."""
    alone = Player(config.betas, weight_decay=config.weight_decay)
    players: Mapping[str, Player] = getattr(objective, "players", None) or {ALONE: alone}
    trained = {key: value for key, value in objective.named_parameters() if value.requires_grad}
    found = {}
    for name, player in players.items():
        own = {key: value for key, value in trained.items() if name == ALONE or key.startswith(f"{name}.")}
        optimizer = torch.optim.AdamW(
            own.values(),
            lr=player.learning_rate or config.learning_rate,
            betas=player.betas,
            weight_decay=player.weight_decay,
            fused=config.fused or None,
        )
        found[name] = Learner(player, own, optimizer)
    return found


def buffers_of(objective: nn.Module, learners: Mapping[str, Learner]) -> dict[str, Tensor]:
    """What declared players keep beside their parameters, such as running statistics; by name in ``objective``."""
    kept = objective.state_dict(keep_vars=True)
    parts = tuple(f"{name}." for name in learners if name != ALONE)
    return {key: kept[key] for key, _ in objective.named_buffers() if key in kept and key.startswith(parts)}


def optimizer_state(learners: Mapping[str, Learner]) -> dict[str, Any]:
    """For a checkpoint: that of the only optimizer, or of each by player."""
    states = {name: learner.optimizer.state_dict() for name, learner in learners.items()}
    return states.get(ALONE, states)


def load_optimizer_state(learners: Mapping[str, Learner], saved: Mapping[str, Any]) -> None:
    """Go on from what ``optimizer_state`` gave."""
    for name, learner in learners.items():
        learner.optimizer.load_state_dict(saved if name == ALONE else saved[name])
