"""``contrastive_loss`` over two processes, joined by gloo: the loss and the gradients of one that has everything."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from weft.ops import Columns, contrastive_loss

WORLD = 2
EACH = 5  # rows of a rank

if not dist.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)


def features() -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of all ranks, and classes that each rank has several of, as each row needs a positive."""
    generator = torch.Generator().manual_seed(0)
    a, c = (torch.randn(WORLD * EACH, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return a, c, torch.arange(WORLD * EACH) % 3


def diagonal(a: Tensor, c: Tensor, classes: Tensor, temperature: Tensor, group: Any) -> Tensor:
    return contrastive_loss(a, c, temperature=temperature, normalize=True, group=group)


def symmetric(a: Tensor, c: Tensor, classes: Tensor, temperature: Tensor, group: Any) -> Tensor:
    return contrastive_loss(a, c, classes=classes, temperature=temperature, symmetric=True, group=group)


def several_positives(a: Tensor, c: Tensor, classes: Tensor, temperature: Tensor, group: Any) -> Tensor:
    return contrastive_loss(a, c, positives=classes, exclude="self", temperature=temperature, group=group)


def two_kinds(a: Tensor, c: Tensor, classes: Tensor, temperature: Tensor, group: Any) -> Tensor:
    # the columns of the second kind are more than the rows, and detached
    more = torch.cat([c, 2 * c.flip(0)]).detach()
    kinds = [
        Columns(a, classes, "self", temperature=temperature, weight=0.2),
        Columns(more, (classes, torch.cat([classes, classes + 7])), temperature=0.7, symmetric=True),
    ]
    return contrastive_loss(a, kinds, normalize=True, group=group)


LOSSES = (diagonal, symmetric, several_positives, two_kinds)


def differentiate(loss: Callable[..., Tensor], part: slice, group: Any) -> list[Tensor]:
    """The loss of some rows and columns, and its gradients."""
    a, c, classes = (x[part] for x in features())
    temperature = torch.tensor(0.3, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (a, c, temperature)]
    found = loss(a, c, classes, temperature, group)
    gradients = torch.autograd.grad(found, leaves, allow_unused=True, materialize_grads=True)
    return [found.detach(), *gradients]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    part = slice(rank * EACH, (rank + 1) * EACH)
    found = {loss.__name__: differentiate(loss, part, dist.group.WORLD) for loss in LOSSES}
    with torch.no_grad():
        a, c, *_ = (x[part] for x in features())
        found["without gradients"] = [contrastive_loss(a, c, group=dist.group.WORLD)]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # an interpreter that ends while threads of gloo are alive aborts now and then


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Tensor]]]:
    folder = str(tmp_path_factory.mktemp("ranks"))
    mp.spawn(work, (folder,), nprocs=WORLD)
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_two_processes_give_what_one_gives(by_rank, loss):
    mean, *expected = differentiate(loss, slice(None), None)
    losses, *gradients = zip(*(found[loss.__name__] for found in by_rank), strict=True)
    torch.testing.assert_close(sum(losses) / WORLD, mean)
    *of_features, of_temperature = gradients
    for found, whole in zip(of_features, expected, strict=False):
        # of rows that lie on one rank alone: averaging over ranks divides what that one has
        torch.testing.assert_close(torch.cat(found) / WORLD, whole)
    torch.testing.assert_close(sum(of_temperature) / WORLD, expected[-1])


def test_without_gradients_too(by_rank):
    a, c, *_ = features()
    torch.testing.assert_close(sum(found["without gradients"][0] for found in by_rank) / WORLD, contrastive_loss(a, c))
