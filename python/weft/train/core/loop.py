"""The training loop that everything shares: a model, those of its parameters that are trained, a loss; or several
players of a game, each with its own parameters and loss, that take turns within a step.

Batches are a function of the samples seen, so a resumed run sees the batches and the noise of a straight one; on a
CPU it ends with the same bits.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from weft._files import whole_file
from weft.train.core.checkpoint import load_checkpoint, save_atomically
from weft.train.core.config import LoopConfig
from weft.train.core.players import ALONE, buffers_of, learners_of, load_optimizer_state, optimizer_state, turns_of
from weft.train.core.stopping import Diverged, Interrupted, Interruption

__all__ = ["Batch", "LoopConfig", "fit"]

Batch = tuple[Tensor, ...]
CHECKPOINT = "checkpoint.pt"


def fit(
    name: str,
    objective: nn.Module,
    batch_at: Callable[[int], Batch],
    config: LoopConfig,
    accelerator: Accelerator,
    folder: Path | None = None,
    *,
    resume: bool = False,
    identity: Mapping[str, Any] | None = None,
    after_step: Callable[[int], bool | None] | None = None,
) -> dict[str, Tensor] | None:
    """Train those parameters of ``objective`` that require gradients, in place.

    Args:
        name: Of the run, for messages.
        objective: Its forward maps a batch to a dict of scalar losses; "loss" is minimised, all are logged. It is
            moved to the accelerator's device. Trained parameters should be fp32. One that learns from the moving
            average of its own parameters is handed it by its method ``take_average``, once; it moves as they do. One
            with several players declares ``players`` and ``turns``, see ``weft.train.core.players``: its forward is
            given the name of the turn before the batch, and buffers of the players are kept in checkpoints, too.
        batch_at: Batch of one process that follows after so many samples. Must depend on nothing else but the process.
        config: Numbers of the run.
        accelerator: Device, precision, processes and trackers.
        folder: Gets ``config.json``, ``checkpoint.pt`` and ``log.jsonl``. None keeps nothing, and leaves Ctrl-C alone.
        resume: Go on from the checkpoint in ``folder``; where there is none, begin.
        identity: What makes this run another than one with other values; numbers and texts. A checkpoint of another
            run is refused. All of ``config`` may differ.
        after_step: Called with the number of steps done, on the main process; True ends the run there.

    Returns:
        The moving average of the trained parameters, by their names in ``objective``; None where none was asked for.

    Raises:
        ValueError: ``folder`` holds a checkpoint and ``resume`` is off, or one of another run.
        Diverged: A parameter is not finite, or a loss or gradient once more than ``config.max_skipped`` times.
        Interrupted: SIGINT or SIGTERM came; the checkpoint has been written.
    """
    identity = json.loads(json.dumps(dict(identity or {})))  # as it will be read back
    path = None if folder is None else folder / CHECKPOINT
    saved = check_run(name, folder, resume, identity)
    if folder is not None and accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        versions = {"torch": torch.__version__, "device": str(accelerator.device)}
        record = {**asdict(config), **identity, "precision": accelerator.mixed_precision, **versions}
        with whole_file(folder / "config.json") as whole:
            whole.write_text(json.dumps(record, indent=2) + "\n")
    objective.to(accelerator.device)
    turns, learners = turns_of(objective), learners_of(objective, config)
    trained = {key: value for learner in learners.values() for key, value in learner.parameters.items()}
    buffers = buffers_of(objective, learners)
    step = samples = skipped = 0
    seconds = 0.0
    average: dict[str, Tensor] | None = None
    if saved is not None:
        step, samples, skipped, seconds = (saved[key] for key in ("step", "samples", "skipped", "seconds"))
        with torch.no_grad():
            for key, value in trained.items():
                value.copy_(saved["parameters"][key])
            for key, buffer in buffers.items():
                buffer.copy_(saved["buffers"][key])
        load_optimizer_state(learners, saved["optimizer"])
        if accelerator.scaler is not None and saved["scaler"]:
            accelerator.scaler.load_state_dict(saved["scaler"])
    if config.average_decay:
        began = trained if saved is None or saved["average"] is None else saved["average"]
        followed = [key for learner in learners.values() if learner.player.averaged for key in learner.parameters]
        average = {key: began[key].detach().clone().to(accelerator.device) for key in followed}
        if callable(take_average := getattr(objective, "take_average", None)):
            take_average(average)
    optimizers = [learner.optimizer for learner in learners.values()]
    if ALONE in learners:
        model, *optimizers = accelerator.prepare(objective, *optimizers)
    else:
        # precision alone: gradients of the processes are averaged below, turn by turn
        model = accelerator.prepare_model(objective, evaluation_mode=True)
        optimizers = [accelerator.prepare_optimizer(optimizer) for optimizer in optimizers]
    learners = {
        name: replace(learner, optimizer=optimizer)
        for (name, learner), optimizer in zip(learners.items(), optimizers, strict=True)
    }

    def checkpoint() -> None:
        if not all(bool(value.isfinite().all()) for value in trained.values()):
            raise Diverged(f"{name}: parameters are not finite after step {step}; {_what_is_left(path)}")
        if path is not None and accelerator.is_main_process:
            scaler = None if accelerator.scaler is None else accelerator.scaler.state_dict()
            parameters = {key: value.detach().clone() for key, value in trained.items()}
            counts = {"step": step, "samples": samples, "skipped": skipped, "seconds": seconds}
            state = {"parameters": parameters, "average": average, "scaler": scaler, "identity": identity}
            save_atomically({**counts, **state, "buffers": buffers, "optimizer": optimizer_state(learners)}, path)

    progress = tqdm(
        total=config.end, initial=step, desc=name, unit="step", disable=not accelerator.is_local_main_process
    )
    with nullcontext(None) if folder is None else Interruption() as interruption, progress:
        while step < config.end:
            started, rate = time.perf_counter(), config.rate(step)
            batches = []
            for _ in range(config.accumulation):
                batches.append(batch_at(samples))
                samples += config.batch_size * accelerator.num_processes
            means: dict[str, float] = {}
            for turn in turns:
                if step % turn.every:
                    continue
                learner, is_alone = learners[turn.player], turn.name == ALONE
                own = None if is_alone else list(learner.parameters.values())
                turn_name, prefix = ((), "") if is_alone else ((turn.name,), f"{turn.name}_")

                # forward and backward
                total: dict[str, Tensor] = {}
                for number, batch in enumerate(batches):
                    is_last = number == config.accumulation - 1
                    # gradients of the processes are summed once a step
                    with nullcontext() if is_last else accelerator.no_sync(model):
                        losses = model(*turn_name, *(part.to(accelerator.device) for part in batch))
                        accelerator.backward(losses["loss"] / config.accumulation, inputs=own)
                    for key, value in losses.items():
                        total[key] = total.get(key, 0) + value.detach() / config.accumulation
                # one number for all processes, so that all of them decide alike
                found = {key: float(accelerator.reduce(value, "mean")) for key, value in total.items()}

                # step
                for group in learner.optimizer.param_groups:
                    group["lr"] = config.rate(step, learner.player.learning_rate)
                if not is_alone:
                    learner.average_gradients(accelerator)
                finite = math.isfinite(found["loss"])
                if config.max_grad_norm is not None or config.max_skipped:
                    limit = math.inf if config.max_grad_norm is None else config.max_grad_norm
                    norm = accelerator.clip_grad_norm_(learner.parameters.values(), limit)
                    found["grad_norm"] = float(norm)
                    # with fp16 a gradient now and then overflows: the scaler leaves that step out and scales less
                    finite &= accelerator.scaler is not None or math.isfinite(found["grad_norm"])
                if not finite and (skipped := skipped + 1) > config.max_skipped:
                    what = "grad_norm" if math.isfinite(found["loss"]) else "loss"
                    whose = "" if is_alone else f" of the {turn.name}"
                    raise Diverged(
                        f"{name}: the {what}{whose} is {found[what]} at step {step + 1}; {_what_is_left(path)}"
                    )
                # a scaler skips the step by itself, and counts it
                if finite or accelerator.scaler is not None:
                    learner.optimizer.step()
                learner.optimizer.zero_grad()
                means |= {f"{prefix}{key}": value for key, value in found.items()}
            if average is not None:
                _update(average, trained, step, config.average_decay)
            step += 1
            seconds += time.perf_counter() - started
            progress.update()
            shown = {key.removesuffix("_loss"): f"{value:.4f}" for key, value in means.items() if key.endswith("loss")}
            progress.set_postfix(shown, refresh=False)

            # report
            accelerator.log({**means, "learning_rate": rate}, step=step)
            due = step % config.log_every == 0 or step == config.end
            if folder is not None and accelerator.is_main_process and due:
                row = {"step": step, "samples": samples, "seconds": seconds, "skipped": skipped, "learning_rate": rate}
                with (folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps({**row, **means}) + "\n")

            # checkpoint; every process must agree to stop, or the others wait for it for ever
            interrupted = interruption is not None and interruption.requested
            stop = _any_process(interrupted, accelerator)
            if stop or step % config.checkpoint_every == 0 or step == config.end:
                checkpoint()
            if after_step is not None:
                done = accelerator.is_main_process and bool(after_step(step))
                if _any_process(done, accelerator) and not stop:
                    checkpoint()
                    break
            if stop and step < config.end:
                raise Interrupted(f"{name}: stopped at step {step} of {config.end}; {path} is kept, resuming goes on")
    return average


def _any_process(here: bool, accelerator: Accelerator) -> bool:
    """Whether it holds on any process."""
    flag = torch.tensor(float(here), device=accelerator.device)
    return bool(accelerator.reduce(flag) > 0)


@torch.no_grad()
def _update(average: dict[str, Tensor], trained: Mapping[str, Tensor], step: int, decay: float) -> None:
    """Move ``average`` towards ``trained``; early steps move it faster, so the start is soon forgotten."""
    weight = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
    for key, value in average.items():
        value.lerp_(trained[key], weight)


def check_run(name: str, folder: Path | None, resume: bool, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The checkpoint that ``fit`` would go on from; None to begin.

    Raises:
        ValueError: As ``fit``, which asks too; who prepares a long run asks first.
    """
    identity = json.loads(json.dumps(dict(identity)))  # as it was written
    path = None if folder is None else folder / CHECKPOINT
    if path is None:
        if resume:
            raise ValueError(f"{name}: to resume, give the folder of the run")
        return None
    if path.exists() and not resume:
        raise ValueError(f"{name}: {path} is of an earlier run; resume it (--resume), or choose another folder")
    saved = load_checkpoint(path)
    if saved is not None and saved["identity"] != identity:
        keys = sorted({*saved["identity"], *identity})
        other = [key for key in keys if saved["identity"].get(key) != identity.get(key)]
        changed = "; ".join(f"`{key}` was {saved['identity'].get(key)!r}, is {identity.get(key)!r}" for key in other)
        raise ValueError(f"{name}: {path} is of another run: {changed}; choose another folder, or the old settings")
    return saved


def _what_is_left(path: Path | None) -> str:
    """What a run that diverged leaves behind, and what to do."""
    if path is None or (saved := load_checkpoint(path)) is None:
        return "there is no checkpoint yet; lower the learning rate"
    return f"{path} keeps step {saved['step']}; resume from there with a lower learning rate"
