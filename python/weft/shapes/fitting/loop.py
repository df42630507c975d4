"""The training loop, shared by the stages.

Batches are a function of the samples seen, so a resumed run sees the batches and the noise of a straight one, and
a run may go on with another batch size.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import diffusers
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from weft.train.checkpoint import Interrupted, Interruption, load_checkpoint, save_atomically

from .config import StageConfig

Batch = tuple[Tensor, ...]
Objective = TypeVar("Objective", bound=nn.Module)


def learning_rate(step: int, config: StageConfig) -> float:
    """Warm-up, plateau, then a decay to zero along 1 - sqrt.

    The plateau has no planned end, so a run may be finished from any step by ``decay_from``.

    Source:
        Haegele et al. 2024, arXiv:2405.18392, section 3.
    """
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    decayed = min(max(step - config.decay_start, 0) / max(config.decay_steps, 1), 1.0)
    return config.learning_rate * warmup * (1.0 - decayed**0.5)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move ``average`` towards ``model``; early steps move it faster, so the start is soon forgotten."""
    weight = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, weight)


def fit(
    name: str,
    objective: Objective,
    batch_at: Callable[[int], Batch],
    config: StageConfig,
    folder: Path,
    accelerator: Accelerator,
) -> Objective:
    """Train ``objective`` to the end of its stage, resuming from ``folder`` when it holds a checkpoint.

    Args:
        name: Of the stage, for messages.
        objective: Its forward maps a batch to a dict of scalar losses; "loss" is minimised, all are logged.
        batch_at: Batch that follows after so many samples, on the CPU. Must depend on nothing else but the process.
        config: Numbers of the stage.
        folder: Gets ``config.json``, ``checkpoint.pt`` and ``log.jsonl``.
        accelerator: Device, precision and processes.

    Returns:
        A copy of ``objective`` with the averaged weights, in fp32 and in evaluation mode.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the checkpoint has been written.
    """
    path = folder / "checkpoint.pt"
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "device": str(accelerator.device)}
        (folder / "config.json").write_text(json.dumps({**asdict(config), **versions}, indent=2) + "\n")
    objective.to(accelerator.device).train()
    average = copy.deepcopy(objective).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        objective.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,  # a third of the time of the default on a CPU
    )
    step, samples, seconds, skipped, saved = 0, 0, 0.0, 0, load_checkpoint(path)
    if saved is not None:
        step, samples, seconds, skipped = (saved[key] for key in ("step", "samples", "seconds", "skipped"))
        objective.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
    model, optimizer = accelerator.prepare(objective, optimizer)

    def checkpoint() -> None:
        if accelerator.is_main_process:
            weights = {"model": objective.state_dict(), "average": average.state_dict()}
            counts = {"step": step, "samples": samples, "seconds": seconds, "skipped": skipped}
            save_atomically({**counts, "optimizer": optimizer.state_dict(), **weights}, path)

    progress = tqdm(
        total=config.end, initial=step, desc=name, unit="step", disable=not accelerator.is_local_main_process
    )
    with Interruption() as interruption, progress:
        while step < config.end:
            started = time.perf_counter()

            # forward and backward
            losses = model(*(part.to(accelerator.device) for part in batch_at(samples)))
            accelerator.backward(losses["loss"])

            # step
            lr = learning_rate(step, config)
            for group in optimizer.param_groups:
                group["lr"] = lr
            grad_norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            if torch.isfinite(grad_norm):
                optimizer.step()
            else:
                skipped += 1
            optimizer.zero_grad()
            update_average(average, objective, step, config.average_decay)
            step += 1
            samples += config.batch_size * accelerator.num_processes
            seconds += time.perf_counter() - started
            progress.update()

            # report
            if step % config.log_every == 0 or step == config.end:
                row = {"stage": name, "step": step, "samples": samples, "seconds": seconds, "lr": lr}
                row |= {"grad_norm": float(grad_norm), "skipped": skipped}
                row |= {key: float(value.detach()) for key, value in losses.items()}
                progress.set_postfix(loss=f"{row['loss']:.4f}", lr=f"{lr:.1e}")
                if accelerator.is_main_process:
                    with (folder / "log.jsonl").open("a") as log:
                        log.write(json.dumps(row) + "\n")

            # checkpoint; every process must agree to stop, or the others wait for it for ever
            requested = torch.tensor(float(interruption.requested), device=accelerator.device)
            stop = bool(accelerator.reduce(requested) > 0)
            if stop or step % config.checkpoint_every == 0 or step == config.end:
                checkpoint()
            if stop and step < config.end:
                raise Interrupted(f"{name}: stopped at step {step} of {config.end}; the same command resumes")
    return average
