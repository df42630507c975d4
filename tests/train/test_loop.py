"""The shared loop: a resumed run equals a straight one bit by bit, and every end of a run leaves it whole."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from weft.train.checkpoint import Diverged, Interrupted, load_checkpoint
from weft.train.loop import LoopConfig, fit

CONFIG = LoopConfig(steps=8, learning_rate=0.1, batch_size=4, checkpoint_every=3, log_every=2)


class Line(nn.Module):
    """A model small enough to train in a moment; its offset is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 3))
        self.offset = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = (x @ (self.weight + self.offset) - y).square().mean()
        return {"loss": loss, "twice": 2 * loss.detach()}


def line_batch(samples: int, size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [torch.randn(3, generator=torch.Generator().manual_seed(samples + i)) for i in range(size)]
    x = torch.stack(rows)
    return x, x.sum(-1)


def batch_with_signal(step: int, number: int) -> Any:
    """Batches of ``line_batch``; asking for the one of ``step`` sends the process a signal."""

    def batch_at(samples: int) -> Any:
        if samples == step * CONFIG.batch_size:
            os.kill(os.getpid(), number)
        return line_batch(samples)

    return batch_at


def batch_with_nan(step: int) -> Any:
    def batch_at(samples: int) -> Any:
        x, y = line_batch(samples)
        return x, y * (float("nan") if samples == step * CONFIG.batch_size else 1.0)

    return batch_at


def weight_after(accelerator: Accelerator, config: LoopConfig = CONFIG, batch_at: Any = line_batch, **run: Any) -> Any:
    line = Line()
    fit("line", line, batch_at, config, accelerator, **run)
    assert torch.equal(line.offset, torch.ones(3)), "only what asks for gradients is trained"
    return line.weight.detach()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, accelerator: Accelerator, number: int
) -> None:
    straight = weight_after(accelerator)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"stopped at step 5 of 8; .*checkpoint.pt is kept; resume .*goes on"):
        weight_after(accelerator, batch_at=batch_with_signal(4, number), folder=tmp_path)
    assert signal.getsignal(number) is before
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 5
    assert torch.equal(weight_after(accelerator, folder=tmp_path, resume=True), straight)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 8
    # and a finished run trains no further
    assert torch.equal(weight_after(accelerator, folder=tmp_path, resume=True, batch_at=batch_with_nan(0)), straight)


def test_a_run_can_be_lengthened(tmp_path: Path, accelerator: Accelerator) -> None:
    weight_after(accelerator, replace(CONFIG, steps=3), folder=tmp_path)
    assert torch.equal(weight_after(accelerator, folder=tmp_path, resume=True), weight_after(accelerator))


def test_accumulation_equals_a_larger_batch(accelerator: Accelerator) -> None:
    whole = weight_after(accelerator)
    halves = weight_after(
        accelerator, replace(CONFIG, batch_size=2, accumulation=2), lambda samples: line_batch(samples, 2)
    )
    torch.testing.assert_close(whole, halves, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("step", "left"), [(5, "keeps step 3; resume from there with a lower"), (1, "there is no checkpoint yet")]
)
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, accelerator: Accelerator, step: int, left: str
) -> None:
    with pytest.raises(Diverged, match=rf"line: the loss is nan at step {step + 1}; .*{left}"):
        weight_after(accelerator, batch_at=batch_with_nan(step), folder=tmp_path)
    if step > 3:
        lower = weight_after(accelerator, replace(CONFIG, learning_rate=0.01), folder=tmp_path, resume=True)
        assert lower.isfinite().all()


def test_parameters_that_are_not_finite_never_reach_a_checkpoint(tmp_path: Path, accelerator: Accelerator) -> None:
    with pytest.raises(Diverged, match="parameters are not finite after step 1"):
        weight_after(accelerator, replace(CONFIG, learning_rate=float("inf"), checkpoint_every=1), folder=tmp_path)
    assert load_checkpoint(tmp_path / "checkpoint.pt") is None


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, accelerator: Accelerator) -> None:
    weight_after(accelerator, folder=tmp_path, identity={"class_word": "dog", "ranks": (1, 2)})
    weight_after(accelerator, folder=tmp_path, identity={"class_word": "dog", "ranks": (1, 2)}, resume=True)
    with pytest.raises(ValueError, match=r"of an earlier run; resume it .*, or choose another folder"):
        weight_after(accelerator, folder=tmp_path, identity={"class_word": "dog", "ranks": (1, 2)})
    with pytest.raises(ValueError, match="of another run: `class_word` was 'dog', is 'cat'; choose another folder"):
        weight_after(accelerator, folder=tmp_path, identity={"class_word": "cat", "ranks": (1, 2)}, resume=True)


def test_the_record_and_the_log(tmp_path: Path, accelerator: Accelerator) -> None:
    seen: list[int] = []
    weight_after(accelerator, folder=tmp_path, identity={"class_word": "dog"}, after_step=seen.append)
    record = json.loads((tmp_path / "config.json").read_text())
    assert (record["learning_rate"], record["class_word"], record["precision"]) == (0.1, "dog", "no")
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert [row["samples"] for row in rows] == [8, 16, 24, 32]
    assert all(row["twice"] == pytest.approx(2 * row["loss"]) for row in rows)
    assert seen == list(range(1, 9))
    leftovers = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert leftovers == []


def test_warm_up_starts_small(tmp_path: Path, accelerator: Accelerator) -> None:
    weight_after(accelerator, replace(CONFIG, warmup_steps=4, log_every=1), folder=tmp_path)
    rows = [json.loads(line)["learning_rate"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.1, 0.1])


def test_it_runs_in_a_thread_where_there_are_no_signals(tmp_path: Path, accelerator: Accelerator) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(weight_after(accelerator, folder=tmp_path)))
    thread.start()
    thread.join()
    assert torch.equal(found[0], weight_after(accelerator))


@pytest.mark.parametrize("name", ["steps", "batch_size", "accumulation", "checkpoint_every", "log_every"])
def test_counts_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1; got 0"):
        replace(CONFIG, **{name: 0})


def test_a_learning_rate_must_be_positive() -> None:
    with pytest.raises(ValueError, match="`learning_rate` must be above 0; got 0"):
        replace(CONFIG, learning_rate=0.0)
