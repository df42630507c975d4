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

from weft.train.core.checkpoint import load_checkpoint
from weft.train.core.config import LoopConfig
from weft.train.core.loop import fit
from weft.train.core.stopping import Diverged, Interrupted

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
    with pytest.raises(Interrupted, match=r"stopped at step 5 of 8; .*checkpoint.pt is kept, resuming goes on"):
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


def test_a_damaged_checkpoint_is_reported_by_name(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"step": 1}, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no checkpoint"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"the checkpoint .*checkpoint\.pt cannot be read"):
            load_checkpoint(path)


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


def test_the_learning_rate_warms_up_stays_and_decays() -> None:
    config = LoopConfig(steps=100, learning_rate=2.0, decay_steps=20, warmup_steps=10)
    rates = [config.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[80] == 2.0
    assert rates[81:] == sorted(rates[81:], reverse=True)
    assert 0 < rates[99] < 0.1


def test_decay_from_moves_the_end() -> None:
    config = LoopConfig(steps=100, learning_rate=1.0, decay_steps=20, decay_from=30)
    assert (config.decay_start, config.end) == (30, 50)
    assert config.rate(50) == 0.0


def test_without_a_decay_the_rate_is_the_very_number() -> None:
    config = LoopConfig(steps=3, learning_rate=0.1)
    assert [config.rate(step) for step in range(3)] == [0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "`steps` must be at least 1; got 0"),
        ({"decay_steps": -1}, "`decay_steps` must not be negative; got -1"),
        ({"decay_from": -1}, "`decay_from` must not be negative; got -1"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be above 0; got nan"),
        ({"average_decay": 1.0}, r"`average_decay` must be at least 0 and below 1; got 1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def average_after(accelerator: Accelerator, config: LoopConfig, batch_at: Any = line_batch, **run: Any) -> Any:
    return fit("line", Line(), batch_at, config, accelerator, **run)


def test_the_average_is_that_of_the_parameters_after_each_step(accelerator: Accelerator) -> None:
    config = replace(CONFIG, average_decay=0.5)
    line, followed = Line(), Line().weight.detach().clone()

    def follow(step: int) -> None:
        # the first steps move it by more than 1 - decay: it forgets the start
        followed.lerp_(line.weight.detach(), 1 - min(0.5, step / (9 + step)))

    average = fit("line", line, line_batch, config, accelerator, after_step=follow)
    assert average is not None and list(average) == ["weight"]
    torch.testing.assert_close(average["weight"], followed, rtol=0, atol=0)
    assert fit("line", Line(), line_batch, CONFIG, accelerator) is None


def test_an_average_is_resumed_with_the_same_bits(tmp_path: Path, accelerator: Accelerator) -> None:
    config = replace(CONFIG, average_decay=0.9, warmup_steps=2, decay_steps=4, max_grad_norm=1.0, fused=True)
    straight = average_after(accelerator, config)
    with pytest.raises(Interrupted):
        average_after(accelerator, config, batch_with_signal(4, signal.SIGTERM), folder=tmp_path)
    resumed = average_after(accelerator, config, folder=tmp_path, resume=True)
    assert torch.equal(straight["weight"], resumed["weight"])


def test_an_average_may_begin_later(tmp_path: Path, accelerator: Accelerator) -> None:
    fit("line", Line(), line_batch, replace(CONFIG, steps=3), accelerator, tmp_path)
    at_three = load_checkpoint(tmp_path / "checkpoint.pt")["parameters"]["weight"]
    average = average_after(accelerator, replace(CONFIG, steps=3, average_decay=0.9), folder=tmp_path, resume=True)
    assert torch.equal(average["weight"], at_three)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_steps_that_are_not_finite_are_left_out_and_counted(
    tmp_path: Path, accelerator: Accelerator, clip: float | None
) -> None:
    config = replace(CONFIG, max_skipped=1, max_grad_norm=clip, log_every=1)
    weight = weight_after(accelerator, config, batch_with_nan(3), folder=tmp_path)
    assert weight.isfinite().all()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["skipped"] for row in rows] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert load_checkpoint(tmp_path / "checkpoint.pt")["skipped"] == 1


def test_one_more_than_may_be_left_out_is_a_divergence(tmp_path: Path, accelerator: Accelerator) -> None:
    def batch_at(samples: int) -> Any:
        x, y = line_batch(samples)
        return x, y * (float("nan") if samples in (4 * 3, 4 * 5) else 1.0)

    with pytest.raises(Diverged, match=r"line: the loss is nan at step 6; .*keeps step 3"):
        weight_after(accelerator, replace(CONFIG, max_skipped=1), batch_at, folder=tmp_path)


class Root(nn.Module):
    """A finite loss without a finite gradient: the square root at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * x).sqrt().sum()}


def test_gradients_that_are_not_finite_are_seen_before_they_do_harm(accelerator: Accelerator) -> None:
    with pytest.raises(Diverged, match="root: the grad_norm is inf at step 1; there is no checkpoint yet"):
        fit("root", Root(), lambda samples: (torch.ones(1),), replace(CONFIG, max_grad_norm=1.0), accelerator)


def test_the_last_step_is_logged(tmp_path: Path, accelerator: Accelerator) -> None:
    weight_after(accelerator, replace(CONFIG, log_every=5), folder=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 8]
    assert 0 < rows[0]["seconds"] < rows[1]["seconds"]
