"""The distribution losses of a fit over two processes: losses and gradients of one that has everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from ranks import WORLD, assert_same_everywhere, averaged, process
from torch import Tensor

EACH = 2
# captions of second views: that of the last picture is the first view's of the first, on the other process
SECOND = torch.tensor([[20], [21], [22], [1]])


def found(folder: Path, rows: slice) -> dict[str, Tensor]:
    """Losses and the gradient of tokens, of some of four pictures."""
    import tiny_pipelines as tiny
    from accelerate import Accelerator

    import weft
    from weft.attach import TextStates, resolve
    from weft.train.diffusion.latents import frozen
    from weft.train.diffusion.noising import noising_of
    from weft.train.distribution.config import DistributionConfig
    from weft.train.distribution.kinds import losses_named
    from weft.train.distribution.term import distribution_term
    from weft.train.distribution.views import Views
    from weft.train.soft_tokens.bank import TrainedTokens
    from weft.train.soft_tokens.frozen_denoiser import FrozenDenoiser

    torch.set_num_threads(1)
    pipe, generator = tiny.sd1(folder), torch.Generator().manual_seed(0)
    states = resolve(pipe).encode_captions(["a red circle", "a blue square", "a green ball", "a red square"]).states
    others = resolve(pipe).encode_captions(["circle", "the square", "ball", "square"]).states
    latents, noise = torch.randn(2, 4, 4, 16, 16, generator=generator)
    tokens = torch.randn(2, 32, generator=generator).requires_grad_()
    control = TrainedTokens(("down_blocks",))
    with frozen(pipe.unet), weft.attach(pipe, control):
        accelerator, noising = Accelerator(cpu=True), noising_of(resolve(pipe))
        assert accelerator.num_processes == (1 if rows == slice(None) else WORLD)
        denoiser = FrozenDenoiser(resolve(pipe), control, noising)
        config = DistributionConfig(losses_named("f2f,f2r"))

        def denoise(*arguments: Any) -> Tensor:
            return denoiser.generate(None, *arguments)

        term = distribution_term(resolve(pipe), config, noising, denoise, control.hiding, accelerator=accelerator)
        assert term is not None
        losses, slopes = term(
            lambda *arguments: denoiser.generate(tokens, *arguments),
            [tokens],
            latents[rows],
            TextStates(states[rows], None),
            torch.arange(8).view(4, 2)[rows],
            Views(noise[None, rows], torch.tensor([700]), others[rows], others.new_empty(4, 0)[rows], SECOND[rows]),
        )
    return {**losses, "slope": slopes[0]}


def learnt(folder: Path, what: str) -> list[Tensor]:
    """What a few steps give, as every process has it."""
    import tiny_pipelines as tiny
    from PIL import Image

    from weft.train import (
        DistributionConfig,
        LoopConfig,
        ResidualConfig,
        SoftTokensConfig,
        fit_residual,
        fit_soft_tokens,
    )
    from weft.train.distribution.kinds import losses_named

    captions = (
        ("a red circle", "circle"),
        ("a blue square", "square"),
        ("a green ball", "ball"),
        ("red", "a red ball"),
    )
    images = [Image.new("RGB", (40, 36), (40 * i, 200, 30)) for i in range(4)]
    shared: dict[str, Any] = {
        "loop": LoopConfig(steps=2, learning_rate=1e-2, batch_size=2),
        "distribution": DistributionConfig(losses_named("f2f,f2r")),
        "precision": "no",
    }
    if what == "soft tokens":
        pairs = list(zip(images, map(list, captions), strict=True))
        return [fit_soft_tokens(tiny.sd1(folder), pairs, config=SoftTokensConfig(negatives=1, **shared)).tokens]
    config = ResidualConfig(rank_share=0.25, paraphrases=("the {class_word}",), **shared)
    return list(fit_residual(tiny.sd1(folder), images, "ball", config=config).up.values())


def work(rank: int, folder: str) -> None:
    with process(rank, folder):
        mine = averaged(found(Path(folder) / str(rank), slice(EACH * rank, EACH * (rank + 1))))
        if rank == 0:
            torch.save(mine, f"{folder}/found.pt")
        for what in ("soft tokens", "residual"):
            for value in learnt(Path(folder) / f"{rank}-{what}", what):
                assert_same_everywhere(value)
                assert value.isfinite().all()


def test_two_processes_are_one(tmp_path: Path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=WORLD)
    mine, whole = torch.load(tmp_path / "found.pt"), found(tmp_path / "whole", slice(None))
    assert mine.keys() == whole.keys() and whole["slope"].abs().max() > 1e-6
    for name, value in whole.items():
        torch.testing.assert_close(mine[name], value, atol=1e-5 * float(value.abs().max()), rtol=1e-3)
