"""The training loop that every ``fit_*`` shares: a frozen model, a few parameters, a loss.

Batches are a function of the samples seen, so a resumed run sees the batches and the noise of a straight one; on a
CPU it ends with the same bits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from weft.train.checkpoint import Diverged, Interrupted, Interruption, load_checkpoint, save_atomically

Batch = tuple[Tensor, ...]
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast. A step is one update of the parameters."""

    steps: int
    learning_rate: float
    batch_size: int = 4  # samples of one forward pass on one process
    accumulation: int = 1  # forward passes a step
    warmup_steps: int = 0  # of the learning rate, from zero; constant afterwards
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    max_grad_norm: float | None = None  # None: gradients are not clipped
    checkpoint_every: int = 50  # steps
    log_every: int = 10  # steps

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"train: `{name}` must be at least 1; got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"train: `learning_rate` must be above 0; got {self.learning_rate}")


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
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Train those parameters of ``objective`` that require gradients, in place.

    Args:
        name: Of the run, for messages.
        objective: Its forward maps a batch to a dict of scalar losses; "loss" is minimised, all are logged. It is
            moved to the accelerator's device. Trained parameters should be fp32.
        batch_at: Batch of one process that follows after so many samples. Must depend on nothing else but the process.
        config: Numbers of the run.
        accelerator: Device, precision, processes and trackers.
        folder: Gets ``config.json``, ``checkpoint.pt`` and ``log.jsonl``. None keeps nothing, and leaves Ctrl-C alone.
        resume: Go on from the checkpoint in ``folder``; where there is none, begin.
        identity: What makes this run another than one with other values; numbers and texts. A checkpoint of another
            run is refused. Steps, learning rate and intervals may differ.
        after_step: Called with the number of steps done, on the main process.

    Raises:
        ValueError: ``folder`` holds a checkpoint and ``resume`` is off, or one of another run.
        Diverged: The loss or a parameter is not finite.
        Interrupted: SIGINT or SIGTERM came; the checkpoint has been written.
    """
    identity = json.loads(json.dumps(dict(identity or {})))  # as it will be read back
    path = None if folder is None else folder / CHECKPOINT
    saved = _checkpoint_to_resume(name, path, resume, identity)
    if folder is not None and accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        versions = {"torch": torch.__version__, "device": str(accelerator.device)}
        record = {**asdict(config), **identity, "precision": accelerator.mixed_precision, **versions}
        (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n")
    objective.to(accelerator.device)
    trained = {key: value for key, value in objective.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(
        trained.values(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    step = samples = 0
    if saved is not None:
        step, samples = saved["step"], saved["samples"]
        with torch.no_grad():
            for key, value in trained.items():
                value.copy_(saved["parameters"][key])
        optimizer.load_state_dict(saved["optimizer"])
        if accelerator.scaler is not None and saved["scaler"]:
            accelerator.scaler.load_state_dict(saved["scaler"])
    model, optimizer = accelerator.prepare(objective, optimizer)

    def checkpoint() -> None:
        if not all(bool(value.isfinite().all()) for value in trained.values()):
            raise Diverged(f"{name}: parameters are not finite after step {step}; {_what_is_left(path)}")
        if path is not None and accelerator.is_main_process:
            scaler = None if accelerator.scaler is None else accelerator.scaler.state_dict()
            parameters = {key: value.detach().clone() for key, value in trained.items()}
            state = {"step": step, "samples": samples, "parameters": parameters, "scaler": scaler}
            save_atomically({**state, "optimizer": optimizer.state_dict(), "identity": identity}, path)

    progress = tqdm(
        total=config.steps, initial=step, desc=name, unit="step", disable=not accelerator.is_local_main_process
    )
    with nullcontext(None) if folder is None else Interruption() as interruption, progress:
        while step < config.steps:
            # forward and backward
            total: dict[str, Tensor] = {}
            for number in range(config.accumulation):
                is_last = number == config.accumulation - 1
                # gradients of the processes are summed once a step
                with nullcontext() if is_last else accelerator.no_sync(model):
                    losses = model(*(part.to(accelerator.device) for part in batch_at(samples)))
                    accelerator.backward(losses["loss"] / config.accumulation)
                samples += config.batch_size * accelerator.num_processes
                for key, value in losses.items():
                    total[key] = total.get(key, 0) + value.detach() / config.accumulation
            # one number for all processes, so that all of them decide alike
            means = {key: float(accelerator.reduce(value, "mean")) for key, value in total.items()}
            if not math.isfinite(means["loss"]):
                raise Diverged(f"{name}: the loss is {means['loss']} at step {step + 1}; {_what_is_left(path)}")

            # step
            rate = config.learning_rate * min(1.0, (step + 1) / max(config.warmup_steps, 1))
            for group in optimizer.param_groups:
                group["lr"] = rate
            if config.max_grad_norm is not None:
                accelerator.clip_grad_norm_(trained.values(), config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            progress.update()
            progress.set_postfix(loss=f"{means['loss']:.4f}", refresh=False)

            # report
            accelerator.log({**means, "learning_rate": rate}, step=step)
            if folder is not None and accelerator.is_main_process and step % config.log_every == 0:
                with (folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps({"step": step, "samples": samples, "learning_rate": rate, **means}) + "\n")

            # checkpoint; every process must agree to stop, or the others wait for it for ever
            requested = torch.tensor(float(interruption is not None and interruption.requested))
            stop = bool(accelerator.reduce(requested.to(accelerator.device)) > 0)
            if stop or step % config.checkpoint_every == 0 or step == config.steps:
                checkpoint()
            if after_step is not None and accelerator.is_main_process:
                after_step(step)
            if stop and step < config.steps:
                raise Interrupted(
                    f"{name}: stopped at step {step} of {config.steps}; {path} is kept; resume (--resume) goes on"
                )


def _checkpoint_to_resume(
    name: str, path: Path | None, resume: bool, identity: Mapping[str, Any]
) -> dict[str, Any] | None:
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
        said = "; ".join(f"`{key}` was {saved['identity'].get(key)!r}, is {identity.get(key)!r}" for key in other)
        raise ValueError(f"{name}: {path} is of another run: {said}; choose another folder, or the old settings")
    return saved


def _what_is_left(path: Path | None) -> str:
    """What a run that diverged leaves behind, and what to do."""
    if path is None or (saved := load_checkpoint(path)) is None:
        return "there is no checkpoint yet; lower the learning rate"
    return f"{path} keeps step {saved['step']}; resume from there with a lower learning rate"
