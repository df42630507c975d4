"""The distribution losses over two processes, joined by gloo: loss and gradients of one that has everything."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ranks import WORLD, process
from torch import Tensor

from weft.train.distribution.kinds import losses_named
from weft.train.distribution.losses import distribution_loss

EACH = 4  # pictures of a rank
NAMES = ("loss", "f2f", "f2r")
# "alone": a rank that has one class has nothing to compare by itself, and has with the other
KINDS = {"pairs": {}, "ids": {"images": [0, 1, 2, 3, 3, 4, 5, 6]}, "alone": {"classes": [0, 0, 0, 0, 1, 1, 1, 1]}}

if not dist.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)


def differentiate(kind: str, part: slice, group: object) -> dict[str, Tensor]:
    """The losses of some pictures, and the gradients of their features."""
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(WORLD * EACH, 5, generator=generator, dtype=torch.float64)[part] for _ in range(3)]
    first, second = (view.requires_grad_() for view in views[:2])
    ids = {name: torch.tensor(values)[part] for name, values in KINDS[kind].items()}
    found = distribution_loss(losses_named("f2f,f2r"), first, second, views[2], group=group, **ids)
    gradients = torch.autograd.grad(found["loss"], (first, second))
    return {name: found[name].detach() for name in NAMES} | dict(zip(("first", "second"), gradients, strict=True))


def work(rank: int, folder: str) -> None:
    with process(rank, folder):
        compare(rank, folder)


def compare(rank: int, folder: str) -> None:
    part = slice(rank * EACH, (rank + 1) * EACH)
    found = {kind: differentiate(kind, part, dist.group.WORLD) for kind in KINDS}
    one_class = torch.zeros(EACH, dtype=torch.int64)
    with pytest.raises(ValueError, match="nothing to compare"):
        distribution_loss(losses_named("f2f"), *[torch.ones(EACH, 2)] * 2, classes=one_class, group=dist.group.WORLD)
    # a row of each rank is enough for two of them
    single = torch.eye(WORLD)[rank : rank + 1]
    found["a row each"] = distribution_loss(losses_named("f2f"), single, single, group=dist.group.WORLD)
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = str(tmp_path_factory.mktemp("ranks"))
    mp.spawn(work, (folder,), nprocs=WORLD)
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_what_one_gives(by_rank, kind):
    expected = differentiate(kind, slice(None), None)
    for name in NAMES:
        torch.testing.assert_close(sum(found[kind][name] for found in by_rank) / WORLD, expected[name])
    for name in ("first", "second"):
        # of rows that lie on one rank alone: averaging over ranks divides what that one has
        torch.testing.assert_close(torch.cat([found[kind][name] for found in by_rank]) / WORLD, expected[name])


def test_one_row_a_rank(by_rank):
    expected = distribution_loss(losses_named("f2f"), torch.eye(WORLD), torch.eye(WORLD))["loss"]
    torch.testing.assert_close(sum(found["a row each"]["loss"] for found in by_rank) / WORLD, expected)
