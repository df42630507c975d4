"""Task prompts over two processes, most of whose batches lack some prompt: both end with the same ones."""

from __future__ import annotations

from pathlib import Path

import tiny_pipelines as tiny
import torch
import torch.multiprocessing as mp
from ranks import WORLD, assert_same_everywhere, process

from weft import shapes
from weft.train import LoopConfig, TaskPromptsConfig, fit_task_prompts
from weft.train.task_prompts.fit import starting_vectors


def work(rank: int, folder: str) -> None:
    with process(rank, folder):
        pipe = tiny.inpaint(Path(folder) / str(rank))
        loop = LoopConfig(steps=6, learning_rate=1e-3, batch_size=1)
        config = TaskPromptsConfig(loop=loop, trains="unet", count=2, precision="no")
        tasks = fit_task_prompts(pipe, shapes.MaskedScenes(40), config=config)
        weight = next(pipe.unet.parameters()).detach().clone()
        assert_same_everywhere(
            torch.cat([tasks.vectors[name][0] for name in tasks.vectors] + [weight.flatten()[:32][None]])
        )
        start = starting_vectors(pipe, config)
        assert not any(torch.equal(tasks.vectors[name][0], start[name][0]) for name in start), "each was in some batch"


def test_two_processes_learn_the_same(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    mp.spawn(work, (str(tmp_path),), nprocs=WORLD)
