"""What people do today for the same loss: all logits at once, or some rows of them at a time, made again backward."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.cases.contrastive_loss.problem import Problem
from benchmarks.registry import Call

# rows whose logits ``chunked`` has at once
CHUNK = 512
# measured where they are installed, which nothing else here needs them to be
PEERS = tuple(name for name in ("open_clip", "inf_cl", "cut_cross_entropy") if importlib.util.find_spec(name))


def _target(problem: Problem) -> Tensor:
    n = len(problem.rows)
    numbers = torch.arange(n, device=problem.rows.device)
    return (numbers + n // 2) % n if problem.work.views else numbers


def _dense(problem: Problem) -> Callable[[], Tensor]:
    target = _target(problem)
    itself = torch.arange(len(problem.rows), device=problem.rows.device)[:, None]

    def call() -> Tensor:
        logits = problem.rows @ problem.cols.T / problem.work.temperature
        if problem.work.views:
            return F.cross_entropy(logits.scatter(1, itself, -torch.inf).float(), target)
        logits = logits.float()
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    return call


def dense(problem: Problem) -> Call:
    """One product, then cross entropy over its rows and, of CLIP, its columns."""
    return problem.wrap(_dense(problem))


def dense_compiled(problem: Problem) -> Call:
    """The same under torch.compile, static shapes. Compiling happens at the first call, before any timing."""
    return problem.wrap(torch.compile(_dense(problem), dynamic=False, fullgraph=True))


def chunked(problem: Problem) -> Call:
    """Some rows of logits at a time, once for each direction, checkpointed: memory grows with the rows."""
    target = _target(problem)

    def some(a: Tensor, c: Tensor, numbers: Tensor) -> Tensor:
        logits = a @ c.T / problem.work.temperature
        if problem.work.views:
            logits = logits.scatter(1, numbers[:, None], -torch.inf)
        return F.cross_entropy(logits.float(), target[numbers], reduction="sum")

    def one_way(a: Tensor, c: Tensor) -> Tensor:
        numbers = torch.arange(len(a), device=a.device).split(CHUNK)
        parts = [
            checkpoint(some, part, c, own, use_reentrant=False)
            for part, own in zip(a.split(CHUNK), numbers, strict=True)
        ]
        return torch.stack(parts).sum() / len(a)

    def call() -> Tensor:
        loss = one_way(problem.rows, problem.cols)
        return loss if problem.work.views else (loss + one_way(problem.cols, problem.rows)) / 2

    return problem.wrap(call)


def open_clip(problem: Problem) -> Call:
    """The loss that open_clip trains with, on one process."""
    found = importlib.util.find_spec("open_clip")
    assert found is not None and found.origin is not None
    # its one file: the package wants torchvision and timm, built for this very torch
    spec = importlib.util.spec_from_file_location("open_clip_loss", Path(found.origin).with_name("loss.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loss = module.ClipLoss()
    scale = torch.tensor(1 / problem.work.temperature, dtype=problem.rows.dtype, device=problem.rows.device)
    return problem.wrap(lambda: loss(problem.rows, problem.cols, scale))


def inf_cl(problem: Problem) -> Call:
    """Triton kernels that never make the logits, on one process; features are widened to fp32."""
    from inf_cl import cal_flash_loss

    def one_way(rows: Tensor, cols: Tensor) -> Tensor:
        return cal_flash_loss(rows, cols, scale=1 / problem.work.temperature).mean()

    return problem.wrap(lambda: (one_way(problem.rows, problem.cols) + one_way(problem.cols, problem.rows)) / 2)


def cut_cross_entropy(problem: Problem) -> Call:
    """Kernels made for the cross entropy of language models, 16 bit alone. No small probability is left out."""
    from cut_cross_entropy import linear_cross_entropy

    target = _target(problem)

    def one_way(rows: Tensor, cols: Tensor) -> Tensor:
        return linear_cross_entropy(rows / problem.work.temperature, cols, target, filter_eps=None)

    return problem.wrap(lambda: (one_way(problem.rows, problem.cols) + one_way(problem.cols, problem.rows)) / 2)
