"""``contrastive_loss``: CLIP's symmetric loss and SimCLR's NT-Xent, with the gradients of all features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.cases.contrastive_loss import baselines
from benchmarks.cases.contrastive_loss.problem import (
    CHECKED_ROWS,
    Problem,
    costs,
    make_problem,
    result_bytes,
)
from benchmarks.registry import Benchmark, Call, Mode, Provider, Shape
from weft.ops import contrastive_loss
from weft.testing import relative_l2

# error of a gradient relative to float64, features being rounded already; dense products round logits to 16 bits
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}


def weft(backend: str | None = None) -> Callable[[Problem], Call]:
    """The op itself, through one backend or the one it chooses."""

    def prepare(problem: Problem) -> Call:
        arguments = problem.arguments
        return problem.wrap(lambda: contrastive_loss(problem.rows, problem.cols, **arguments, backend=backend))

    return prepare


def verify(problem: Problem, provider: Provider, result: Tensor | tuple[Tensor, ...]) -> None:
    """The loss, and the gradients of some rows and columns, against float64.

    Raises:
        AssertionError: They are too far off.
    """
    found, *gradients = result if isinstance(result, tuple) else (result,)
    loss, expected = problem.expected
    tolerance = TOLERANCE[problem.rows.dtype]
    error = abs(found.item() / loss.item() - 1)
    assert error <= tolerance, f"{provider.name}: the loss is off by {error:.2g}, relative"
    some = torch.linspace(0, len(problem.rows) - 1, min(CHECKED_ROWS, len(problem.rows))).long()
    for gradient, gold in zip(gradients, expected, strict=False):
        error = relative_l2(gradient[some.to(gradient.device)], gold)
        assert error <= tolerance, f"{provider.name}: a gradient is off by {error:.2g}, relative"


def _shape(name: str, n: int, d: int, kind: str, origin: str, optional: bool = False) -> Shape:
    return Shape(name, {"N": n, "D": d}, origin, optional, kind)


SHAPES = (
    _shape("clip_1k", 1024, 512, "pairs", "pairs of a batch, CLIP ViT-B features"),
    _shape("clip_4k", 4096, 512, "pairs", "the same"),
    _shape("clip_8k", 8192, 512, "pairs", "the same", optional=True),
    _shape("clip_16k", 16384, 512, "pairs", "the same", optional=True),
    _shape("clip_32k", 32768, 512, "pairs", "CLIP's own batch", optional=True),
    _shape("clip_64k", 65536, 512, "pairs", "the same, twice", optional=True),
    _shape("simclr_1k", 1024, 128, "views", "two views of a batch of 512, SimCLR's projections"),
    _shape("simclr_4k", 4096, 128, "views", "two views of a batch of 2048"),
    _shape("simclr_16k", 16384, 128, "views", "two views of a batch of 8192, SimCLR's largest"),
    _shape("gan_48", 48, 256, "views", "two views of a batch of 24, DAMSM features, as text-to-image GANs train with"),
    _shape("tiny_pairs", 40, 16, "pairs", "no model; shows that everything runs", optional=True),
    _shape("tiny_views", 40, 16, "views", "the same", optional=True),
)

OURS = (Provider("weft", weft(), ours=True), Provider("weft_triton", weft("triton"), ours=True, device="cuda"))
OTHERS = (
    Provider("dense", baselines.dense),
    Provider("dense_compiled", baselines.dense_compiled),
    Provider("chunked", baselines.chunked),
)
PEERS = tuple(
    provider
    for provider in (
        Provider("open_clip", baselines.open_clip),
        Provider("inf_cl", baselines.inf_cl, device="cuda"),
        Provider("cut_cross_entropy", baselines.cut_cross_entropy, device="cuda"),
    )
    if provider.name in baselines.PEERS
)

BENCHMARK = Benchmark(
    op="contrastive_loss",
    shapes=SHAPES,
    modes=(
        Mode("clip_forward", (*OURS, *OTHERS, *PEERS), kinds=("pairs",)),
        Mode("clip", (*OURS, *OTHERS, *PEERS), backward=True, kinds=("pairs",)),
        Mode("nt_xent", (*OURS, *OTHERS), backward=True, kinds=("views",)),
    ),
    dtypes={"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16},
    make_inputs=make_problem,
    verify=verify,
    result_bytes=result_bytes,
    gate=("tests/ops", "-k", "contrastive_loss"),
    default_dtypes=("fp32",),
    costs=costs,
)
