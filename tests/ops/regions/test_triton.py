"""The Triton kernel of ``regions`` finds the windows of the definition, on a GPU or in the interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import weft
from weft.kernels.regions.arguments import Search
from weft.kernels.regions.launch import MAX_CELLS, choose_search_launch, padded_cells
from weft.ops import regions
from weft.ops.regions.search import BEST_WINDOWS
from weft.testing import RegionSearch
from weft.testing.strategies import region_searches

pytest.importorskip("triton", reason="triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEARCH_16 = RegionSearch(2, 3, (16, 16), regions.window_sizes((16, 16)))
RELEASED = {"margin": 2, "exclusion": "scale", "fallback": "first"}


def windows(case: RegionSearch, maps: Tensor, backend: str) -> Tensor:
    return regions.best_windows(maps, case.sizes, present=case.present(DEVICE), backend=backend, **case.options())


def check(case: RegionSearch, maps: Tensor | None = None) -> None:
    maps = case.maps(device=DEVICE) if maps is None else maps
    found = windows(case, maps, "triton")
    assert found.dtype == torch.int32
    assert torch.equal(found, windows(case, maps, "reference"))


# each compile again on a GPU and takes a second in the interpreter
@settings(max_examples=20)
@given(region_searches(sides=(4, 11)))
def test_windows_are_those_of_the_definition(case: RegionSearch) -> None:
    check(case)


@pytest.mark.parametrize("options", [{}, RELEASED], ids=["clean", "released"])
@pytest.mark.parametrize("grid", [(16, 16), (24, 13), (1, 5)])
def test_real_grids(grid: tuple[int, int], options: dict[str, object]) -> None:
    sizes = regions.window_sizes(grid)
    if grid[0] == 1:
        options = options | {"margin": 0} if options else {}
    check(replace(SEARCH_16, grid=grid, sizes=sizes, some_absent=True, seed=3, **options))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_dtypes(dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and DEVICE == "cpu":
        pytest.skip("the interpreter computes with bfloat16 as if it were an integer")
    check(SEARCH_16, SEARCH_16.maps(dtype, DEVICE))


def test_permuted_maps() -> None:
    maps = SEARCH_16.maps(device=DEVICE)
    check(SEARCH_16, maps.permute(0, 1, 3, 2))


def test_factors_are_not_rounded_to_float32() -> None:
    """The map of the second object is 3 * 0.1 in one window and 0.3 in another: float64 shows which is more."""
    maps = torch.zeros(1, 2, 4, 4, dtype=torch.float64, device=DEVICE)
    maps[0, 0, 0, 0] = 1.0
    maps[0, 1, 0, 0], maps[0, 1, 3, 3] = 3.0, 0.3
    case = RegionSearch(1, 2, (4, 4), ((1, 1),), protect_share=1 / 16, protect_factor=0.1, exclusion=1.0)
    assert 3.0 * 0.1 > 0.3
    assert windows(case, maps, "triton")[0, 1].tolist() == [0, 0, 1, 1]
    check(case, maps)


def test_zeros_of_both_signs_are_equal() -> None:
    """The earliest cells of equal zeros are protected, whatever their sign."""
    maps = torch.zeros(1, 2, 4, 4, device=DEVICE)
    maps[0, 0, 0] = -0.0
    maps[0, 1] = 1.0
    case = RegionSearch(1, 2, (4, 4), ((1, 1),), protect_share=0.25, exclusion=1.0)
    assert windows(case, maps, "triton")[0, 1].tolist() == [1, 0, 1, 1]


def test_the_map_of_an_absent_object_is_not_read() -> None:
    maps = SEARCH_16.maps(device=DEVICE)
    case = replace(SEARCH_16, some_absent=True, seed=5)
    present = case.present(DEVICE)
    assert present is not None and not present.all()
    expected = windows(case, maps, "triton")
    assert torch.equal(windows(case, maps.masked_fill(~present[..., None, None], torch.nan), "triton"), expected)


def test_the_interpreter_runs_only_by_name() -> None:
    search = Search(SEARCH_16.maps(device=DEVICE), SEARCH_16.sizes, 0, 38, 0.5, None, 0, (0, 0), None)
    chosen = BEST_WINDOWS.choose("auto", search).name
    assert chosen == ("triton" if DEVICE == "cuda" else "reference")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 65, 64), "needs a grid of at most 4096 cells, sides padded to powers of two; got 65 x 64"),
        ((1, 32, 4, 4), "needs n <= 31 objects; n is 32"),
    ],
)
def test_refusals(shape: tuple[int, ...], message: str) -> None:
    maps = torch.zeros(shape, device=DEVICE)
    with pytest.raises(weft.BackendUnavailableError, match=message):
        regions.best_windows(maps, ((1, 1),), backend="triton")
    assert regions.best_windows(maps, ((1, 1),)).shape == (*shape[:2], 4)


@pytest.mark.gpu
def test_replays_in_a_graph() -> None:
    """New maps at the same address, and the windows, masks and labels follow; nothing waits while it is captured."""
    maps = SEARCH_16.maps(device=DEVICE)

    def refresh() -> Tensor:
        chosen = regions.best_windows(maps, SEARCH_16.sizes)
        return regions.resize_labels(regions.labels_of(regions.window_masks(chosen, (16, 16))), (64, 64))

    refresh()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = refresh()
    maps.copy_(replace(SEARCH_16, seed=9).maps())
    graph.replay()
    assert torch.equal(captured, refresh())


@pytest.mark.parametrize("height", [1, 4, 13, 16, 17, 64])
@pytest.mark.parametrize("width", [1, 7, 16, 40, 64])
def test_launches_hold_the_grid(height: int, width: int) -> None:
    launch = choose_search_launch(height, width, 292)
    for block, length in ((launch.block_h, height), (launch.block_w, width)):
        assert block & (block - 1) == 0 and length <= block < 2 * length
    assert padded_cells(height, width) == launch.block_h * launch.block_w <= MAX_CELLS
    assert launch.block_p == 512 and launch.num_warps in (4, 8)
