"""A GAN over two processes: losses and gradients are those of one with everything, and both end with the same one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from ranks import WORLD, assert_same_everywhere, averaged, process
from torch import Tensor


def found(baseline: Any, rows: slice) -> dict[str, Tensor]:
    """Losses and gradients of some pictures of a batch of four, in each turn; and running statistics."""
    import gans
    from accelerate import Accelerator

    from weft.train.gan.batches import GanBatches
    from weft.train.gan.fit import objective_of
    from weft.train.gan.matching import MatchingObjective
    from weft.train.gan.matching_stage import untrained
    from weft.train.gan.pictures import read_pictures

    Accelerator(cpu=True)
    config = gans.config(baseline, losses="f2f,f2r", dropout=0.0)
    pictures = read_pictures(gans.scenes(), 64, crop=False, flip=False, split="train")
    matching = untrained(pictures, config.chosen_matching, length=18, seed=0)
    objective = objective_of(config, matching)
    matching.requires_grad_()
    network = objective.generator
    for name, parameter in objective.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.constant_(parameter, 0.5)
    batch = [part[rows] for part in GanBatches(pictures, matching.text.numbers, 4, network.noise_width)(0)[:-1]]  # type: ignore[arg-type]
    batch.append(torch.zeros(1, dtype=torch.int64))
    values: dict[str, Tensor] = {}

    learner = MatchingObjective(matching)
    losses = learner(*batch)
    losses["loss"].backward()
    values |= {f"matching {name}": value.detach() for name, value in losses.items()}
    values |= {f"matching {name}": value.grad for name, value in learner.named_parameters()}  # type: ignore[misc]

    for turn in config.turns():
        own = dict(getattr(objective, turn.player).named_parameters())
        losses = objective(turn.name, *batch)
        gradients = torch.autograd.grad(losses["loss"], list(own.values()))
        values |= {f"{turn.name} {name}": value.detach() for name, value in losses.items()}
        values |= {f"{turn.name} {name}": value for name, value in zip(own, gradients, strict=True)}
    values |= {name: value.float() for name, value in network.named_buffers() if "running" in name}
    return values


def learnt(baseline: Any) -> list[Tensor]:
    """A generator after a few steps of ``fit_gan``, as every process has it."""
    import gans

    from weft.train import fit_gan

    config = replace(gans.config(baseline, losses="f2f,f2r", dropout=0.0), batch_size=2)
    return list(fit_gan(gans.scenes(), config=config).network.state_dict().values())


def work(rank: int, folder: str) -> None:
    with process(rank, folder):
        for baseline in ("ssa", "attn"):
            mine = averaged(found(baseline, slice(2 * rank, 2 * rank + 2)))
            if rank == 0:
                torch.save(mine, f"{folder}/{baseline}.pt")
            for value in learnt(baseline):
                assert_same_everywhere(value)


def test_two_processes_are_one(tmp_path: Path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=WORLD)
    for baseline in ("ssa", "attn"):
        joined = torch.load(tmp_path / f"{baseline}.pt", weights_only=True)
        alone = found(baseline, slice(None))
        assert joined.keys() == alone.keys()
        largest: dict[str, float] = {}
        for name, value in alone.items():
            kind = name.split()[0]
            largest[kind] = max(largest.get(kind, 0.0), value.abs().max().item())
        for name, value in alone.items():
            # biases that a norm takes away have no gradient but what rounding leaves
            bound = 1e-5 * largest[name.split()[0]]
            torch.testing.assert_close(joined[name], value, atol=bound, rtol=1e-3, msg=name)
        moved = [name for name, value in alone.items() if value.abs().max() > 1e-9]
        assert {name.split()[0] for name in moved} >= {"matching", "discriminator", "generator"}
