"""Launch choices of the Triton kernels, as arithmetic: neither torch nor triton is needed for these."""

from __future__ import annotations

import pytest

from weft.kernels.attention import launch
from weft.kernels.attention.launch_table import TABLE, Row, Tile
from weft.kernels.common import grids

ARCHS = (80, 86, 89, 90, 100, 120)
KERNELS = ("fwd_short", "fwd_long", "bwd_q", "bwd_kv", "bwd_tables")


@pytest.mark.parametrize(
    ("head_dim", "first", "second"),
    [
        *[(1, 16, 0), (16, 16, 0), (17, 32, 0), (24, 32, 0), (40, 32, 16), (64, 64, 0), (72, 64, 16), (80, 64, 16)],
        *[(96, 64, 32), (123, 128, 0), (128, 128, 0), (160, 128, 32), (192, 128, 64), (200, 256, 0), (256, 256, 0)],
    ],
)
def test_head_widths_are_covered_by_two_powers_of_two(head_dim, first, second):
    assert launch.split_head_dim(head_dim) == launch.HeadParts(first, second)


@pytest.mark.parametrize("head_dim", range(1, 257))
def test_no_cover_costs_more_than_one_power_of_two(head_dim):
    parts = launch.split_head_dim(head_dim)
    assert head_dim <= parts.first + parts.second <= grids.power_of_two(head_dim)
    for width in (parts.first, parts.second):
        assert width == 0 or (width >= 16 and width & (width - 1) == 0)
    # the first part is full, so that only the second needs a mask
    assert parts.second == 0 or head_dim > parts.first


@pytest.mark.parametrize("arch", [*ARCHS, 75, 87, 103, 121])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_architecture_has_a_tile_for_every_width(kernel, itemsize, arch):
    for head_dim in (1, 40, 64, 65, 128, 129, 256):
        tile = launch.choose_tile(kernel, arch, itemsize, head_dim, 4096, 4096)
        for block in (tile.block_q, tile.block_k):
            assert block >= 16 and block & (block - 1) == 0
        assert tile.num_warps in (1, 2, 4, 8, 16) and tile.num_stages >= 1


def test_whole_rows_fit_the_tile_of_short_keys():
    for row in TABLE:
        if row.kernel == "fwd_short":
            assert row.tile.block_k == 128, row
    for seqlen_k in (1, 16, 17, 64, 77, 128):
        assert launch.choose_forward(seqlen_k) == "fwd_short"
        assert launch.choose_tile("fwd_short", 90, 2, 64, 4096, seqlen_k).block_k >= seqlen_k
    assert launch.choose_forward(129) == "fwd_long"


def test_short_lengths_cut_the_tile():
    tile = launch.choose_tile("fwd_long", 90, 2, 64, 20, 300)
    assert tile.block_q == 32
    assert launch.choose_tile("fwd_short", 90, 2, 64, 4096, 3).block_k == 16


def test_an_architecture_without_rows_takes_those_of_its_stand_in(monkeypatch):
    own = Row("bwd_kv", 89, 2, 64, Tile(16, 16, 4, 1))
    monkeypatch.setattr(launch, "TABLE", (*(row for row in TABLE if row.arch in grids.COMPLETE_ARCHS), own))
    launch.use_rows(())
    for arch, stand_in in grids.STAND_INS.items():
        assert launch.choose_tile("bwd_kv", arch, 2, 128, 4096, 4096) == launch.choose_tile(
            "bwd_kv", stand_in, 2, 128, 4096, 4096
        )
    assert launch.choose_tile("bwd_kv", 89, 2, 64, 4096, 4096) == own.tile
    assert launch.choose_tile("bwd_kv", 86, 2, 64, 4096, 4096) != own.tile
    monkeypatch.undo()
    launch.use_rows(())


def test_the_narrowest_row_wins_and_a_users_before_the_tables():
    narrow, few = Tile(16, 32, 4, 1), Tile(32, 16, 4, 1)
    launch.use_rows([Row("bwd_q", 90, 2, 40, narrow), Row("bwd_q", 90, 2, 40, few, 128), Row("bwd_q", 90, 2, 64, few)])
    try:
        assert launch.choose_tile("bwd_q", 90, 2, 40, 4096, 4096) == narrow
        assert launch.choose_tile("bwd_q", 90, 2, 40, 4096, 77) == few
        assert launch.choose_tile("bwd_q", 90, 2, 41, 4096, 4096) == few
        assert launch.choose_tile("bwd_q", 80, 2, 40, 4096, 4096) not in (narrow, few)
    finally:
        launch.use_rows(())
    assert launch.choose_tile("bwd_q", 90, 2, 41, 4096, 4096) != few


def test_no_row_is_twice():
    keys = [(row.kernel, row.arch, row.itemsize, row.max_head_dim, row.max_seqlen_k) for row in TABLE]
    assert len(keys) == len(set(keys))


def test_a_missing_row_is_named():
    with pytest.raises(LookupError, match=r"no launch row for fwd_short, sm_90, 8 bytes, D = 64"):
        launch.choose_tile("fwd_short", 90, 8, 64, 1, 1)


@pytest.mark.parametrize(
    ("kernel", "by_query", "by_key", "labels", "expected"),
    [
        ("fwd_short", True, True, 77, "walk"),
        ("fwd_short", True, False, 1, "gather"),
        ("fwd_long", False, True, 500, "gather"),
        ("fwd_long", True, True, 8, "unroll"),
        ("fwd_long", True, True, 9, "gather"),
        ("bwd_q", True, True, 4, "unroll"),
        ("bwd_kv", True, True, 4, "gather"),
    ],
)
def test_how_tables_are_read(kernel, by_query, by_key, labels, expected):
    assert launch.choose_lookup(kernel, by_query, by_key, labels) == expected


def test_many_columns_take_the_tile_of_a_wider_head():
    assert [launch.value_width(64, columns) for columns in (0, 1, 16, 17, 128)] == [64, 64, 64, 81, 192]
    assert launch.value_width(256, 128) == 256


def test_gathered_tiles_are_not_buffered():
    tile = launch.choose_tile("fwd_long", 90, 2, 64, 4096, 4096)
    assert tile.num_stages > 1
    assert launch.choose_stages(tile, "gather", True) == 1
    assert launch.choose_stages(tile, "gather", False) == launch.choose_stages(tile, "unroll", True) == tile.num_stages


def test_programs_stay_many():
    assert launch.choose_tiles_per_program(tiles=64, groups=2, most=4) == 1
    assert launch.choose_tiles_per_program(tiles=64, groups=20, most=4) == 4
    assert grids.choose_splits(programs=20, steps=64) == 14
    assert grids.choose_splits(programs=20, steps=3) == 3
    assert grids.choose_splits(programs=5000, steps=64) == 1
    # no program at all asks for no part
    assert grids.choose_splits(programs=0, steps=0) == 1
