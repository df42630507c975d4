"""How ``lowrank_linear`` is launched, as arithmetic: tiles, forms and splits, without a GPU and without Triton."""

from __future__ import annotations

import pytest

from weft.kernels.common import grids
from weft.kernels.common.product_tiles import ANY_SIZE
from weft.kernels.lowrank_linear import launch
from weft.kernels.lowrank_linear.launch_table import TABLE

ARCHS = (80, 86, 89, 90, 100, 120)
# rows, Cin, Cout of layers that real models have
LAYERS = {
    "sd15_64": (8192, 320, 320),
    "sd15_32": (2048, 640, 640),
    "sd15_16": (512, 1280, 1280),
    "sdxl_64": (8192, 640, 640),
    "sdxl_32": (2048, 1280, 1280),
    "sdxl_ff_in": (2048, 1280, 10240),
    "sdxl_text": (154, 2048, 1280),
    "sd3": (8192, 1536, 1536),
    "flux": (4608, 3072, 3072),
    "flux_single": (4608, 15360, 3072),
}


def form(arch: int, layer: str, ranks: int, itemsize: int = 2) -> str:
    rows, width_in, width_out = LAYERS[layer]
    tile = launch.choose_tile("project", arch, itemsize, rows, width_out)
    return launch.choose_form(arch, itemsize, rows, width_in, width_out, ranks, tile.block_n)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("kernel", ["project", "shrink", "outer"])
def test_every_device_has_a_tile_for_every_size(arch, itemsize, kernel):
    for rows, _, columns in [*LAYERS.values(), (1, 1, 1), (2**20, 2**14, 2**14)]:
        tile = launch.choose_tile(kernel, arch, itemsize, rows, columns)
        sizes = (tile.block_m, tile.block_n, tile.block_k)
        assert all(size >= grids.MIN_BLOCK and size & (size - 1) == 0 for size in sizes)
        assert tile.block_m < 2 * max(rows, grids.MIN_BLOCK) and tile.block_n < 2 * max(columns, grids.MIN_BLOCK)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("rows", [1, 17, 40, 77, 512, 8192])
def test_a_tile_of_rows_holds_whole_tiles_of_flags(arch, itemsize, rows):
    project = launch.choose_tile("project", arch, itemsize, rows, 1280)
    shrink = launch.choose_tile("shrink", arch, itemsize, rows, 64)
    assert project.block_m % shrink.block_m == 0


def test_rows_of_the_table_are_distinct_and_end_with_one_for_any_size():
    keys = [(row.kernel, row.arch, row.itemsize, row.max_size) for row in TABLE]
    assert len(set(keys)) == len(keys)
    for kernel, arch, itemsize, _ in keys:
        assert (kernel, arch, itemsize, ANY_SIZE) in keys


def test_a_kernel_without_a_row_is_an_error():
    with pytest.raises(LookupError, match="no launch row for project, sm_90, 8 bytes"):
        launch.choose_tile("project", 90, 8, 64, 64)


@pytest.mark.parametrize("arch", ARCHS)
def test_layers_that_memory_bounds_recompute(arch):
    """Anchor: at the widths of Stable Diffusion the products of x A^T hide behind the reading of x."""
    assert form(arch, "sd15_64", 16) == "recompute"
    assert form(arch, "sdxl_text", 16) == "recompute"


@pytest.mark.parametrize("arch", ARCHS)
def test_layers_that_products_bound_append(arch):
    assert form(arch, "flux_single", 64) == "append"
    assert form(arch, "sdxl_ff_in", 64) == "append"


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("layer", LAYERS)
def test_more_ranks_than_a_program_holds_append(arch, layer):
    assert form(arch, layer, launch.MOST_RECOMPUTED_RANKS + 1) == "append"


@pytest.mark.parametrize("layer", LAYERS)
def test_more_ranks_never_lead_back_to_recomputing(layer):
    forms = [form(90, layer, ranks) for ranks in (1, 16, 17, 32, 33, 64, 65)]
    assert forms == sorted(forms, key=["recompute", "append"].index)


def test_splits_fill_the_device_and_no_more():
    assert grids.choose_splits(5, 128) == 53
    assert grids.choose_splits(300, 128) == 1
    assert grids.choose_splits(1, 3) == 3
    assert grids.choose_splits(0, 1) == 1


def test_tiles_in_turn_leave_enough_programs():
    assert launch.choose_tiles_per_program(128, 5) == 2
    assert launch.choose_tiles_per_program(4, 5) == 1
    assert launch.choose_tiles_per_program(1000, 5) == 5
