"""Pairs encoded by two processes: each its own files, together those of one; and a failure reaches both."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image

WORLD = 2
COUNT = 9
SIZE = 20_000  # bytes: two pictures in a file


def pairs() -> list[tuple[Image.Image, str]]:
    return [
        (Image.new("RGB", (32, 32), (20 * i, 200, 30)), ("a red circle", "a blue ball")[i % 2]) for i in range(COUNT)
    ]


def encoded(folder: Path, accelerator: Any = None) -> list[str]:
    """Names of the pictures that this process read."""
    sys.path.append(str(Path(__file__).parents[2] / "attach" / "support"))
    import tiny_pipelines as tiny

    from weft.train import encode_pairs
    from weft.train.pictures.pairs import Pair

    names, read = [], Pair.read

    def noted(pair: Pair) -> Image.Image:
        names.append(pair.name)
        return read(pair)

    model = folder.parent / f"model {os.getpid()}"
    Pair.read = noted  # type: ignore[method-assign]
    try:
        encode_pairs(tiny.sd1(model), pairs(), folder, shard_size=SIZE, accelerator=accelerator)
    finally:
        Pair.read = read  # type: ignore[method-assign]
    return names


def work(rank: int, folder: str) -> None:
    # what `accelerate launch` passes to its processes
    os.environ |= {"WORLD_SIZE": str(WORLD), "RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29501"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == WORLD
    names = encoded(Path(folder) / "encoded", accelerator)
    (Path(folder) / f"read by {rank}").write_text("\n".join(names))
    # all is there for each as soon as it returns
    assert len(list((Path(folder) / "encoded").glob("latents-*"))) == 5

    if rank == 1:
        Path.write_bytes = no_space  # type: ignore[assignment,method-assign]
    try:
        encoded(Path(folder) / "full", accelerator)
    except OSError as error:
        (Path(folder) / f"error {rank}").write_text(str(error))
    dist.barrier()
    os._exit(0)  # an interpreter that ends while threads of gloo are alive aborts now and then


def no_space(path: Path, data: bytes) -> int:
    raise OSError(28, "No space left on device")


def test_two_processes_are_one(tmp_path: Path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=WORLD)
    encoded(tmp_path / "alone")
    assert [path.read_bytes() for path in sorted((tmp_path / "encoded").iterdir())] == [
        path.read_bytes() for path in sorted((tmp_path / "alone").iterdir())
    ]
    # the first is read by all, to see what a row is
    read = [(tmp_path / f"read by {rank}").read_text().splitlines()[1:] for rank in range(WORLD)]
    rows = [[0, 1, 4, 5, 8], [2, 3, 6, 7]]
    assert read == [[f"row {row}" for row in mine] for mine in rows]
    assert "the disk of" in (tmp_path / "error 1").read_text()
    assert "another process failed: encode_pairs: the disk of" in (tmp_path / "error 0").read_text()
    files = sorted(path.name for path in (tmp_path / "full").iterdir())
    assert files == ["index.json", *(f"latents-0000{number}.safetensors" for number in (0, 2, 4))]
