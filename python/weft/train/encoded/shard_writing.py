"""Writing the shards that are not there yet: each whole or not at all, shared out among processes."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import save
from torch import Tensor
from tqdm.auto import tqdm

from weft._files import whole_file
from weft.train.encoded.shards import CHECKSUMS, STAMP, Layout, Shard, checksum, open_shard

FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or what this user may have of it


@dataclass(frozen=True)
class Job:
    """Files that there must be.

    Attributes:
        make: From a range of rows to their tensors [k, ...] on the CPU, a few rows at a time and in order.
    """

    layout: Layout
    shards: Sequence[Shard]
    make: Callable[[range], Iterator[Mapping[str, Tensor]]]

    def missing(self) -> list[Shard]:
        """Shards that are not there. Raises ValueError for one that is there and cannot be used."""
        return [shard for shard in self.shards if not _is_there(shard, self.layout)]


def remove_leftovers(folder: Path, jobs: Sequence[Job]) -> None:
    """Half-written files of a process that was killed; no process may be writing."""
    for job in jobs:
        for path in folder.glob(f".{job.layout.name}-*.safetensors"):
            path.unlink()


def check_free_space(folder: Path, jobs: Sequence[Job], *, who: str) -> None:
    """Refuse what cannot fit before it is begun.

    Raises:
        OSError: The disk has too little space.
    """
    size, free = _bytes(jobs), shutil.disk_usage(folder).free
    if size > free:
        raise OSError(
            f"{who}: {_readable(size)} are needed in {folder}, and {_readable(free)} are free there; free space, run "
            "again, or choose another folder"
        )


@contextmanager
def explain_full_disk(folder: Path, jobs: Sequence[Job], *, who: str) -> Iterator[None]:
    """What fails meanwhile because the disk is full says so, and how much is still to be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            f"{who}: the disk of {folder} is full: {_readable(_bytes(jobs))} are still to be written, and "
            f"{_readable(shutil.disk_usage(folder).free)} are free; free space, run again to continue"
        ) from error


def write_missing(folder: Path, jobs: Sequence[Job], *, accelerator: Accelerator | None, who: str) -> None:
    """Write every shard that ``folder`` lacks. Returns when all processes are done.

    Args:
        accelerator: Its processes share the shards; None is one process.

    Raises:
        OSError: The disk is full. What was written before is kept.
        ValueError: What is made cannot be read, or is not finite.
    """
    failure: OSError | ValueError | None = None
    try:
        with explain_full_disk(folder, jobs, who=who):
            for job in jobs:
                _write(job, accelerator, who)
    except (OSError, ValueError) as error:
        failure = error
    # every process learns of a failure, or the others would wait for it for ever
    failures = [failure] if accelerator is None else gather_object([failure])
    if failure is not None:
        raise failure
    if others := [error for error in failures if error is not None]:
        raise OSError(f"{who}: another process failed: {others[0]}")


def _write(job: Job, accelerator: Accelerator | None, who: str) -> None:
    """The share of this process."""
    process, processes = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    shards = [shard for shard in job.missing() if shard.number % processes == process]
    shows_progress = bool(shards) and (accelerator is None or accelerator.is_local_main_process)
    total = sum(len(shard.rows) for shard in shards)
    with tqdm(desc=f"encoding {job.layout.name}", total=total, unit="row", disable=not shows_progress) as progress:
        for shard in shards:
            rows = _made(job, shard, progress, who)
            sums = [checksum({name: part[row] for name, part in rows.items()}) for row in range(len(shard.rows))]
            content = save({**rows, CHECKSUMS: torch.tensor(sums)}, {STAMP: shard.stamp})
            with whole_file(shard.path) as temporary:
                # not save_file, whose errors do not distinguish a full disk from others
                temporary.write_bytes(content)


def _made(job: Job, shard: Shard, progress: Any, who: str) -> dict[str, Tensor]:
    """All rows of a shard."""
    tensors = job.layout.tensors
    rows = {
        name: torch.empty(len(shard.rows), *part.shape, dtype=getattr(torch, part.dtype))
        for name, part in tensors.items()
    }
    done = 0
    for some in job.make(shard.rows):
        count = len(next(iter(some.values())))
        for name, part in some.items():
            assert (part.shape, part.dtype) == ((count, *tensors[name].shape), rows[name].dtype)
            if not bool(part.isfinite().all()):
                raise ValueError(
                    f"{who}: `{name}` must be finite; among rows {shard.rows[done]} to {shard.rows[done + count - 1]} "
                    f"of {job.layout.name} it is not; encode with weights in float32, or keep them in bfloat16"
                )
            rows[name][done : done + count] = part
        progress.update(count)
        done += count
    assert done == len(shard.rows)
    return rows


def _is_there(shard: Shard, layout: Layout) -> bool:
    try:
        open_shard(shard, layout)
    except FileNotFoundError:
        return False
    return True


def _bytes(jobs: Sequence[Job]) -> int:
    """Of what is still to be written."""
    return sum(len(shard.rows) * job.layout.row_bytes for job in jobs for shard in job.missing())


def _readable(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
