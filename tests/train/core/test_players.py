"""Several players in the one loop: turns in order, an optimizer each, and a resumed run equals a straight one."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from weft.train.core import Player, Turn
from weft.train.core.checkpoint import load_checkpoint
from weft.train.core.config import LoopConfig
from weft.train.core.loop import fit
from weft.train.core.stopping import Diverged, Interrupted

CONFIG = LoopConfig(steps=7, learning_rate=0.1, batch_size=4, average_decay=0.5, checkpoint_every=3, log_every=1)


class Chase(nn.Module):
    """One player wants to be where the other is, who wants to be far and is held back every second step."""

    def __init__(self) -> None:
        super().__init__()
        self.hunter, self.prey = nn.BatchNorm1d(3), nn.Linear(3, 3)
        with torch.no_grad():
            self.prey.weight.copy_(torch.eye(3))
            self.prey.bias.fill_(0.5)
        self.players = {
            "hunter": Player((0.5, 0.9), learning_rate=0.02),
            "prey": Player((0.0, 0.99), learning_rate=0.05, averaged=False),
        }
        self.turns = (Turn("flee", "prey"), Turn("rest", "prey", every=2), Turn("chase", "hunter"))
        self.seen: list[str] = []

    def forward(self, turn: str, x: Tensor) -> dict[str, Tensor]:
        self.seen.append(turn)
        if turn == "rest":
            return {"loss": self.prey.weight.square().sum()}
        distance = (self.hunter(x) - self.prey(x)).square().mean()
        return {"loss": distance if turn == "chase" else -distance, "distance": distance.detach()}


class Line(nn.Module):
    """The only player of its game."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (x @ self.weight).square().mean()}


def batch(samples: int) -> tuple[Tensor, ...]:
    return (torch.randn(4, 3, generator=torch.Generator().manual_seed(samples)),)


def trained(accelerator: Accelerator, config: LoopConfig = CONFIG, **run: Any) -> tuple[Chase, dict[str, Tensor]]:
    chase = Chase()
    average = fit("chase", chase, run.pop("batch_at", batch), config, accelerator, **run)
    assert average is not None
    return chase, average


def by_hand(steps: int) -> Chase:
    """The same game without the loop."""
    chase = Chase()
    hunter = torch.optim.Adam(chase.hunter.parameters(), 0.02, (0.5, 0.9))
    prey = torch.optim.Adam(chase.prey.parameters(), 0.05, (0.0, 0.99))
    for step in range(steps):
        turns = [("flee", prey), *([("rest", prey)] if step % 2 == 0 else []), ("chase", hunter)]
        for turn, optimizer in turns:
            chase.zero_grad()
            chase(turn, *batch(4 * step))["loss"].backward()
            optimizer.step()
    return chase


def test_turns_are_those_of_a_game_played_by_hand(accelerator: Accelerator) -> None:
    chase, average = trained(accelerator)
    assert chase.seen[:5] == ["flee", "rest", "chase", "flee", "chase"]
    for key, value in by_hand(7).state_dict().items():
        torch.testing.assert_close(chase.state_dict()[key], value, atol=1e-7, rtol=1e-6)
    assert list(average) == ["hunter.weight", "hunter.bias"]


def test_an_interrupted_game_goes_on_with_the_same_bits(tmp_path: Path, accelerator: Accelerator) -> None:
    straight, average = trained(accelerator)

    def batch_with_signal(samples: int) -> tuple[Tensor, ...]:
        if samples == 4 * 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(samples)

    with pytest.raises(Interrupted, match="stopped at step 4 of 7"):
        trained(accelerator, folder=tmp_path, batch_at=batch_with_signal)
    resumed, again = trained(accelerator, folder=tmp_path, resume=True)
    for key, value in straight.state_dict().items():  # running statistics, too
        assert torch.equal(resumed.state_dict()[key], value), key
    assert all(torch.equal(again[key], value) for key, value in average.items())


def test_losses_are_logged_by_turn(tmp_path: Path, accelerator: Accelerator) -> None:
    trained(accelerator, replace(CONFIG, max_grad_norm=1.0), folder=tmp_path)
    first, second, *_ = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert first["chase_loss"] == pytest.approx(first["chase_distance"])
    assert {"flee_loss", "rest_loss", "chase_loss", "flee_grad_norm"} <= first.keys()
    assert "rest_loss" not in second


def test_accumulation_equals_a_larger_batch_without_statistics(accelerator: Accelerator) -> None:
    def half(samples: int) -> tuple[Tensor, ...]:
        return (batch(samples // 4 * 4)[0][samples % 4 : samples % 4 + 2],)

    def run(config: LoopConfig, batch_at: Any) -> Tensor:
        chase = Chase()
        chase.hunter.eval()
        fit("chase", chase, batch_at, config, accelerator)
        return chase.prey.weight

    halves = run(replace(CONFIG, batch_size=2, accumulation=2), half)
    torch.testing.assert_close(halves, run(CONFIG, batch), atol=1e-6, rtol=1e-5)


def test_a_turn_that_is_not_finite_is_named_and_the_last_good_state_kept(
    tmp_path: Path, accelerator: Accelerator
) -> None:
    def batch_with_nan(samples: int) -> tuple[Tensor, ...]:
        return (batch(samples)[0] * (float("nan") if samples == 4 * 4 else 1.0),)

    with pytest.raises(Diverged, match=r"the loss of the flee is nan at step 5; .*keeps step 3"):
        trained(accelerator, folder=tmp_path, batch_at=batch_with_nan)
    kept = load_checkpoint(tmp_path / "checkpoint.pt")
    assert kept is not None and all(value.isfinite().all() for value in kept["parameters"].values())
    assert set(kept["optimizer"]) == {"hunter", "prey"} and "hunter.running_mean" in kept["buffers"]


def test_a_checkpoint_of_a_single_player_is_what_it_was(tmp_path: Path, accelerator: Accelerator) -> None:
    fit("line", Line(), batch, CONFIG, accelerator, tmp_path)
    kept = load_checkpoint(tmp_path / "checkpoint.pt")
    assert kept is not None and set(kept["optimizer"]) == {"state", "param_groups"}
    # one written before buffers were kept still loads
    torch.save({key: value for key, value in kept.items() if key != "buffers"}, tmp_path / "checkpoint.pt")
    fit("line", Line(), batch, replace(CONFIG, steps=8), accelerator, tmp_path, resume=True)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 8  # type: ignore[index]
