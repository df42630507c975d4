"""Task prompts over two processes, most of whose batches lack some prompt: both end with the same ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

WORLD = 2


def work(rank: int, folder: str) -> None:
    sys.path.append(str(Path(__file__).parents[2] / "attach" / "support"))
    import tiny_pipelines as tiny

    from weft import shapes
    from weft.train import LoopConfig, TaskPromptsConfig, fit_task_prompts
    from weft.train.task_prompts.fit import starting_vectors

    # what `accelerate launch` tells its processes
    os.environ |= {"WORLD_SIZE": str(WORLD), "RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    torch.set_num_threads(1)
    pipe = tiny.inpaint(Path(folder) / str(rank))
    loop = LoopConfig(steps=6, learning_rate=1e-3, batch_size=1)
    config = TaskPromptsConfig(loop=loop, trains="unet", count=2, precision="no")
    tasks = fit_task_prompts(pipe, shapes.MaskedScenes(40), config=config)
    weight = next(pipe.unet.parameters()).detach().clone()
    mine = torch.cat([tasks.vectors[name][0] for name in tasks.vectors] + [weight.flatten()[:32][None]])
    everybodys = [torch.empty_like(mine) for _ in range(WORLD)]
    dist.all_gather(everybodys, mine)
    assert torch.equal(*everybodys)
    start = starting_vectors(pipe, config)
    assert not any(torch.equal(tasks.vectors[name][0], start[name][0]) for name in start), "each was in some batch"
    dist.barrier()
    os._exit(0)  # an interpreter that ends while threads of gloo are alive aborts now and then


def test_two_processes_learn_the_same(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    mp.spawn(work, (str(tmp_path),), nprocs=WORLD)
