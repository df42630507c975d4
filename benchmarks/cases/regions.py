"""``regions``: a refresh of the regions of two or more objects, maps in, windows and labels on the map's grid out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.registry import Benchmark, Call, Mode, Provider, Shape
from weft.ops import regions

# the definition keeps its lists of candidates in a cache, which a compiler looks through and says so
warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")

RELEASED: dict[str, Any] = {"margin": 2, "exclusion": "scale", "fallback": "first"}
OPTIONS: dict[str, dict[str, Any]] = {"clean": {}, "released": RELEASED}

SHAPES = (
    Shape("sd15_16", {"B": 1, "n": 2, "h": 16, "w": 16}, "Stable Diffusion 1.5 at 512 px, maps at 16x16, two objects"),
    Shape("sd15_16_batch", {"B": 4, "n": 3, "h": 16, "w": 16}, "the same, four images of three objects"),
    Shape("sdxl_32", {"B": 1, "n": 2, "h": 32, "w": 32}, "SDXL at 1024 px, maps at 32x32, two objects"),
    Shape("largest_64", {"B": 1, "n": 2, "h": 64, "w": 64}, "maps of a 64x64 layer, two objects", optional=True),
)


@dataclass(frozen=True, eq=False)
class Problem:
    """One refresh: smooth positive maps, as averaged attention is."""

    maps: Tensor
    sizes: tuple[tuple[int, int], ...]
    options: dict[str, Any]

    @property
    def grid(self) -> tuple[int, int]:
        return self.maps.shape[2], self.maps.shape[3]


def make_problem(
    shape: Shape, dtype: torch.dtype, mode: Mode, device: torch.device | str = "cpu", seed: int = 0
) -> Problem:
    """Blurred noise, the softmax of which is a map."""
    samples, objects, height, width = shape.sizes.values()
    generator = torch.Generator().manual_seed(seed)
    noise = F.avg_pool2d(torch.randn(samples, objects, height + 4, width + 4, generator=generator), 5, stride=1)
    maps = noise.mul(10).flatten(2).softmax(-1).view(samples, objects, height, width)
    return Problem(maps.to(device, dtype), regions.window_sizes((height, width)), OPTIONS[mode.name])


def _labels(problem: Problem, windows: Tensor) -> tuple[Tensor, Tensor]:
    return windows, regions.labels_of(regions.window_masks(windows, problem.grid))


def _weft(problem: Problem) -> Call:
    return lambda: _labels(problem, regions.best_windows(problem.maps, problem.sizes, **problem.options))


def _window_by_window(problem: Problem) -> Call:
    """What the released code does: one slice and one mean a window, read by the host."""
    height, width = problem.grid
    margin, exclusion = problem.options.get("margin", 0), problem.options.get("exclusion")

    def search(maps: Tensor) -> list[list[int]]:
        maps = maps.clone()
        objects, count = maps.shape[0], int(0.15 * height * width)
        for o in range(objects):
            cells = maps[o].flatten().topk(count).indices
            for other in range(objects):
                if other != o:
                    maps[other].view(-1)[cells] *= 0.5
        chosen = []
        for o in range(objects):
            best, window = 0.0, [0, 0, *(problem.sizes[0] if exclusion else (0, 0))]
            for top in range(height):
                for left in range(width):
                    for h, w in problem.sizes:
                        if top + h <= height - margin and left + w <= width - margin:
                            mean = maps[o, top : top + h, left : left + w].mean().item()
                            if mean > best:
                                best, window = mean, [top, left, h, w]
            chosen.append(window)
            top, left, h, w = window
            taken = maps[:, top : top + h, left : left + w]
            taken.copy_(taken * -2 if exclusion else torch.full_like(taken, -torch.inf))
        return chosen

    def call() -> tuple[Tensor, Tensor]:
        windows = [search(maps) for maps in problem.maps]
        return _labels(problem, torch.tensor(windows, dtype=torch.int32, device=problem.maps.device))

    return call


def _compiled(problem: Problem) -> Call:
    """The definition, as torch.compile fuses it."""
    from weft.kernels.regions.arguments import Search
    from weft.kernels.regions.reference import best_windows_reference

    forbids = problem.options.get("exclusion") is None
    rest = (problem.options.get("margin", 0), int(0.15 * problem.grid[0] * problem.grid[1]), 0.5)
    exclusion, fallback = (None, (0, 0)) if forbids else (-2.0, problem.sizes[0])
    compiled = torch.compile(best_windows_reference)
    search = Search(problem.maps, problem.sizes, *rest, exclusion, 0, fallback, None)
    return lambda: _labels(problem, compiled(search))


def verify(problem: Problem, provider: Provider, result: tuple[Tensor, Tensor]) -> None:
    """``result`` against the definition in float64.

    Raises:
        AssertionError: Another window, or another label.
    """
    expected = regions.best_windows(problem.maps.double(), problem.sizes, backend="reference", **problem.options)
    for name, found, wanted in zip(("windows", "labels"), result, _labels(problem, expected), strict=True):
        assert torch.equal(found, wanted), f"{provider.name}: other `{name}` than the definition"


def result_bytes(problem: Problem) -> int:
    samples, objects, height, width = problem.maps.shape
    return samples * (objects * 16 + height * width * 4)


PROVIDERS = (
    Provider("weft", _weft, ours=True),
    Provider("window_by_window", _window_by_window),
    Provider("definition_compiled", _compiled),
)

BENCHMARK = Benchmark(
    op="regions",
    shapes=SHAPES,
    modes=tuple(Mode(name, PROVIDERS) for name in OPTIONS),
    dtypes={"fp32": torch.float32},
    make_inputs=make_problem,
    verify=verify,
    result_bytes=result_bytes,
    gate=("tests/ops", "-k", "regions"),
)
