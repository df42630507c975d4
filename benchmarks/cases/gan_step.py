"""``gan_step``: a training step of a GAN with losses over pairs of views, and what of it they cost.

Every provider takes the turns of one step on one batch, gradients included, without an optimizer. ``two_views`` draws,
plays and matches the second view as ``weft`` does and leaves the two losses out: the difference is what they cost
beyond the second pass of the generator. ``one_view`` is training without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.registry import Benchmark, Call, Mode, Provider, Shape
from weft.shapes import CaptionedScenes
from weft.testing import relative_l2
from weft.train import GanConfig
from weft.train.gan import (
    Baseline,
    GanBatch,
    GanBatches,
    GanObjective,
    Matching,
    objective_of,
    read_pictures,
    untrained,
)

Found = dict[str, Tensor]  # losses of all turns, by turn and name


@dataclass
class Step:
    """What everybody shares."""

    baseline: Baseline
    matching: Matching
    batch: GanBatch
    expected: Found | None = None


class TwoViews(GanObjective):
    """Draws a second view that no loss asks for."""

    pairing = "two_captions"  # type: ignore[assignment]


def make_step(shape: Shape, dtype: torch.dtype, mode: Mode | None = None) -> Step:
    baseline = next(name for name in get_args(Baseline) if name == shape.kind)
    config = GanConfig(baseline=baseline)
    pictures = read_pictures(
        CaptionedScenes(shape.sizes["B"]), config.resolution, crop=False, flip=False, split="train"
    )
    matching = untrained(pictures, config.chosen_matching, length=config.length, seed=0)
    batch = GanBatches(pictures, matching.text.numbers, shape.sizes["B"], _noise(config))(0)  # type: ignore[arg-type]
    return Step(baseline, matching, batch)


def prepare(step: Step, losses: str, kind: type[GanObjective] = GanObjective) -> Call:
    config = GanConfig(baseline=step.baseline, losses=losses)
    objective = objective_of(config, step.matching, kind)
    # so that a residual is part of the slope, as it soon is
    for name, parameter in objective.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.constant_(parameter, 0.3)

    def call() -> Found:
        found: Found = {}
        for turn in config.turns():
            own = list(getattr(objective, turn.player).parameters())
            said = objective(turn.name, *step.batch)
            torch.autograd.grad(said["loss"], own)
            found |= {f"{turn.name} {name}": value.detach() for name, value in said.items()}
        return found

    return call


def _noise(config: GanConfig) -> int:
    return config.chosen.noise * (1 if config.baseline == "ssa" else 2)


def verify(step: Step, provider: Provider, found: Found) -> None:
    """All ways that draw two views find the same adversarial and matching losses; this runs before anything is timed.

    Raises:
        AssertionError: They do not, or a loss is not finite.
    """
    assert all(value.isfinite() for value in found.values()), f"{provider.name}: {found}"
    if provider.name == "one_view":
        return
    shared = {name: value for name, value in found.items() if name.split()[1] in ("adversarial", "words", "sentences")}
    step.expected = step.expected or shared
    for name, value in shared.items():
        error = relative_l2(value, step.expected[name])
        assert error < 1e-5, f"{provider.name}: {name} is off by {error:.2g}, relative"


def _providers() -> tuple[Provider, ...]:
    def of(losses: str, kind: type[GanObjective] = GanObjective) -> Any:
        return lambda step: prepare(step, losses, kind)

    return (
        Provider("weft", of("f2f,f2r"), ours=True),
        Provider("two_views", of("none", TwoViews), note="the same without the two losses"),
        Provider("one_view", of("none"), note="training without them", yardstick=True),
    )


BENCHMARK = Benchmark(
    op="gan_step",
    shapes=(
        Shape("ssa_16", {"B": 16}, "SSA-GAN of the size for a CPU, 64 pixels, 16 pictures", kind="ssa"),
        Shape("attn_16", {"B": 16}, "AttnGAN of the size for a CPU, 64 pixels, 16 pictures", kind="attn"),
    ),
    modes=(Mode("step", _providers()),),
    dtypes={"fp32": torch.float32},
    make_inputs=make_step,
    verify=verify,
    result_bytes=lambda step: 64,
    gate=("tests/train/gan/test_losses.py",),
)
