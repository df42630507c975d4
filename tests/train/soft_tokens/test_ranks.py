"""Soft tokens over two processes: the loss is that of one with everything, and both end with the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from ranks import WORLD, assert_same_everywhere, averaged, process
from torch import Tensor


def found(folder: Path, rows: slice) -> dict[str, Tensor]:
    """Losses and gradients of some of four pairs, in one direction and in both, with those of all processes."""
    import tiny_pipelines as tiny
    from accelerate import Accelerator

    import weft
    from weft.attach import resolve
    from weft.train.diffusion.latents import frozen
    from weft.train.diffusion.noising import noising_of
    from weft.train.soft_tokens.bank import TrainedTokens
    from weft.train.soft_tokens.contrast import ContrastObjective
    from weft.train.soft_tokens.contrast_both import SymmetricContrastObjective
    from weft.train.soft_tokens.frozen_denoiser import FrozenDenoiser

    torch.set_num_threads(1)
    pipe, generator = tiny.sd1(folder), torch.Generator().manual_seed(0)
    states = resolve(pipe).encode_captions(["a red circle", "a blue square", "a green ball", "a red square"]).states
    wrong = resolve(pipe).encode_captions([f"{word} ball" for word in ("a", "red", "blue", "green")]).states
    batch: dict[str, Any] = {
        "latents": torch.randn(4, 4, 16, 16, generator=generator)[rows],
        "noise": 0.2 * torch.randn(1, 4, 16, 16, generator=generator),
        "timestep": torch.tensor([300]),
        "states": states[rows],
        "pooled": states.new_empty(4, 0)[rows],
        "time_ids": torch.zeros(4, 6)[rows],
        "alike": torch.arange(8).view(4, 2)[rows],
        "wrong_states": wrong[:, None][rows],
        "wrong_pooled": wrong.new_empty(4, 1, 0)[rows],
        "wrong_count": torch.tensor([1, 0, 1, 1])[rows],
    }
    soft = weft.SoftTokens(torch.randn(2, 32, generator=generator))
    control, values = TrainedTokens(soft.blocks), {}
    with frozen(pipe.unet), weft.attach(pipe, control), torch.enable_grad():
        pipe.unet.conv_out.weight.mul_(0.05)  # a prediction near the noise, or every logit would be 0
        denoiser = FrozenDenoiser(resolve(pipe), control, noising_of(resolve(pipe)))
        for kind in (ContrastObjective, SymmetricContrastObjective):
            accelerator = Accelerator(cpu=True)
            assert accelerator.num_processes == (1 if rows == slice(None) else WORLD)
            objective = kind(denoiser, soft, accelerator=accelerator, rows_at_once=1, learn_logit=True)
            losses = objective(*batch.values())
            losses["loss"].backward()
            values |= {f"{kind.__name__} {name}": losses[name].detach() for name in ("loss", "accuracy")}
            values |= {f"{kind.__name__} {name}": value.grad for name, value in objective.named_parameters()}
    return values


def learnt(folder: Path, objective: str) -> Tensor:
    """Tokens after a few steps of ``fit_soft_tokens``, as every process has them."""
    import tiny_pipelines as tiny
    from PIL import Image

    from weft.train import LoopConfig, SoftTokensConfig, fit_soft_tokens

    captions = ("a red circle", "a blue square", "a green ball", "a red square", "a ball", "a circle")
    pairs = [(Image.new("RGB", (40, 36), (40 * i, 200, 30)), caption) for i, caption in enumerate(captions)]
    loop = LoopConfig(steps=2, learning_rate=1e-2, batch_size=2)
    config = SoftTokensConfig(
        loop=loop, objective=objective, negatives=1, held_out=1 / 3, measure_every=1, precision="no"
    )
    return fit_soft_tokens(tiny.sd1(folder), pairs, config=config).tokens


def work(rank: int, folder: str) -> None:
    with process(rank, folder):
        mine = averaged(found(Path(folder) / str(rank), slice(2 * rank, 2 * rank + 2)))
        if rank == 0:
            torch.save(mine, f"{folder}/found.pt")
        for objective in ("contrast", "agsm"):
            assert_same_everywhere(learnt(Path(folder) / str(rank), objective))


def test_two_processes_are_one(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    mp.spawn(work, (str(tmp_path),), nprocs=WORLD)
    joined = torch.load(tmp_path / "found.pt", weights_only=True)
    alone = found(tmp_path / "alone", slice(None))
    for name, value in alone.items():
        torch.testing.assert_close(joined[name], value, atol=1e-6, rtol=1e-4)
    assert len(alone) == 2 * 5
    assert all(value.abs().max() > 1e-6 for value in alone.values())
