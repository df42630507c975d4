"""The autotune of the Triton kernels, with a made-up clock: what is tried, what wins, what is written.

Its check of a tile against the reference runs for real, in the interpreter; its clock needs a device.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from weft._errors import BackendUnavailableError
from weft.kernels.attention import launch, launch_file, launch_table, tune, tune_measure
from weft.kernels.attention.launch_table import ANY_SEQLEN, Tile
from weft.kernels.attention.tune import Trial
from weft.kernels.attention.tune_target import Target

KERNELS = launch_file.KERNELS
LONG = Target("fwd_long", 90, 2, 64, short_keys=False)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# --- what is tried --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_dim", tune.HEAD_DIMS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_candidates_are_tiles_that_a_file_may_hold(kernel, head_dim, tmp_path):
    target = Target(kernel, 90, 2, head_dim, short_keys=kernel == "fwd_short")
    tiles = tune.candidates(target)
    assert 4 <= len(tiles) == len(set(tiles)) <= 100
    path = tmp_path / "rows.json"
    for tile in tiles:
        launch_file.write_rows(path, {target.row(tile): ""})
        assert list(launch_file.read_rows(path)) == [target.row(tile)]


def test_wider_heads_leave_space_for_smaller_tiles_only():
    narrow, wide = (tune.candidates(replace(LONG, head_dim=head_dim)) for head_dim in (64, 256))
    assert set(wide) < set(narrow)
    assert Tile(128, 64, 4, 2) in set(narrow) - set(wide)


def test_neighbours_are_one_step_away():
    tile = Tile(64, 64, 4, 2)
    assert set(tune.neighbours(tile, LONG)) == {
        tile,
        *(replace(tile, block_q=block) for block in (32, 128)),
        *(replace(tile, block_k=block) for block in (32, 128)),
        *(replace(tile, num_stages=stages) for stages in (1, 3)),
        replace(tile, num_warps=8),
    }


def test_every_kernel_is_tuned_for_the_keys_it_takes():
    found = tune.targets(KERNELS, 90, (2,), (64,))
    assert [(target.kernel, target.short_keys) for target in found if target.kernel.startswith("fwd")] == [
        ("fwd_short", True),
        ("fwd_long", False),
    ]
    limits = {target.row(Tile(16, 16, 4, 1)).max_seqlen_k for target in found if target.kernel == "bwd_q"}
    assert limits == {launch.MOST_SHORT_KEYS, ANY_SEQLEN}
    with pytest.raises(ValueError, match=r"kernels to tune must be of fwd_short, .*; got bwd"):
        tune.targets(("bwd",), 90, (2,), (64,))


# --- what wins ------------------------------------------------------------------------------------------------------

CURRENT, OTHER, THIRD = Tile(64, 64, 8, 2), Tile(128, 64, 8, 2), Tile(32, 64, 4, 2)


def test_the_fastest_over_all_workloads_wins():
    # one workload alone would take the third
    trials = [Trial(CURRENT, (1.0, 1.0)), Trial(OTHER, (0.8, 0.8)), Trial(THIRD, (0.5, 2.0))]
    assert tune.choose(trials, CURRENT).tile == OTHER


def test_little_gain_changes_nothing():
    trials = [Trial(OTHER, (0.99,)), Trial(CURRENT, (1.0,))]
    assert tune.choose(trials, CURRENT).tile == CURRENT
    assert tune.choose(trials, THIRD).tile == OTHER


def test_what_is_refused_never_wins():
    trials = [Trial(CURRENT, refused="wrong: out"), Trial(OTHER, (9.0,))]
    assert tune.choose(trials, CURRENT).tile == OTHER
    with pytest.raises(ValueError, match=r"no tile can be taken: Tile\(block_q=64.*wrong: out"):
        tune.choose(trials[:1], CURRENT)


def test_a_refused_tile_is_not_timed():
    timed = []

    def clock(target: Target, tile: Tile) -> tuple[float, ...]:
        timed.append(tile)
        return (1.0,)

    trials = tune.sweep(LONG, [CURRENT, OTHER], lambda _, tile: "wrong: maps" if tile == CURRENT else "", clock)
    assert timed == [OTHER]
    assert [trial.refused for trial in trials] == ["wrong: maps", ""]


# --- what is written ------------------------------------------------------------------------------------------------


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A made-up sm_90 on which a tile takes as long as ``cost`` says, and is wrong where ``is_wrong`` says so."""
    made_up = SimpleNamespace(cost=lambda target, tile: 1.0, is_wrong=lambda target, tile: False)
    monkeypatch.setattr(tune_measure, "refuse_device", lambda: "")
    monkeypatch.setattr(tune_measure, "arch", lambda: 90)
    monkeypatch.setattr(tune_measure, "circumstances", lambda: "2026-11-22, triton 3.9.0, a made-up device")
    monkeypatch.setattr(tune_measure, "refuse", lambda *trial: "wrong: out" if made_up.is_wrong(*trial) else "")
    monkeypatch.setattr(tune_measure, "time_ms", lambda target, tile: (made_up.cost(target, tile),))
    return made_up


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the table's source, in its place."""
    path = tmp_path / "launch_table.py"
    shutil.copy(launch_table.__file__, path)
    monkeypatch.setattr(launch_table, "__file__", str(path))
    monkeypatch.delenv("WEFT_LAUNCH_TABLE", raising=False)
    return path


@pytest.mark.parametrize("quick", [False, True])
def test_the_winner_is_written_into_the_source(device, source, quick):
    current = launch.choose_tile("fwd_long", 90, 2, 64, 4096, 4096)
    fastest, wrong = replace(current, num_stages=2), replace(current, block_q=64)
    device.cost = lambda target, tile: {fastest: 0.5, wrong: 0.1}.get(tile, 1.0)
    device.is_wrong = lambda target, tile: tile == wrong
    said: list[str] = []
    before = source.read_text().splitlines()
    rows = tune.main(["fwd_long"], [64], quick=quick, report=said.append)
    assert [row.tile for row in rows] == [fastest]
    (line,) = set(source.read_text().splitlines()) - set(before)
    assert line == (
        '    Row("fwd_long", 90, 2, 64, Tile(128, 64, 8, 2)),  # 2026-11-22, triton 3.9.0, a made-up device'
    )
    assert len(said) == 1 and "2.00 times as fast as before" in said[0] and "1 refused (wrong)" in said[0]


def test_every_row_is_written_as_it_is_found(device, source):
    """What was measured is not lost when a later kernel cannot be tuned at all."""
    device.is_wrong = lambda target, tile: target.kernel == "bwd_q"
    with pytest.raises(ValueError, match="no tile can be taken"):
        tune.main(["fwd_short", "bwd_q"], [40], report=lambda line: None)
    assert 'Row("fwd_short", 90, 2, 40, ' in source.read_text()
    assert 'Row("bwd_q", 90, 2, 40, ' not in source.read_text()


def test_a_named_file_is_written_instead(device, source, tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    monkeypatch.setenv("WEFT_LAUNCH_TABLE", str(path))
    before = source.read_text()
    rows = tune.main(["bwd_kv"], [80], quick=True, report=lambda line: None)
    assert list(launch_file.read_rows(path)) == rows and len(rows) == 2
    assert source.read_text() == before


def test_a_package_that_cannot_be_written_asks_for_a_file(device, source, monkeypatch):
    # access rights would not stop the superuser that tests may run as
    monkeypatch.setattr(tune.os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"launch_table\.py cannot be written; set WEFT_LAUNCH_TABLE to a file"):
        tune.main(["bwd_kv"], [80])


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a device to tune for")
def test_without_a_device_it_says_so():
    with pytest.raises(BackendUnavailableError, match="tuning needs a CUDA device; torch finds none"):
        tune.main()


def test_an_interpreter_is_not_tuned(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(BackendUnavailableError, match="tuning needs Triton's compiler; TRITON_INTERPRET"):
        tune.main()


def test_without_triton_it_says_so(monkeypatch):
    monkeypatch.setattr(tune, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match="tuning needs triton; it is not installed"):
        tune.main()


# --- what is measured -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["fwd_short", "fwd_long", "bwd_q", "bwd_kv"])
def test_a_right_tile_passes_the_check(kernel):
    target = Target(kernel, 86, 4, 16, short_keys=kernel != "fwd_long")
    tile = Tile(64, 128, 4, 1)
    assert tune_measure.check(target, tile, kernel == "fwd_short", DEVICE) == ""


def test_a_wrong_result_is_reported(monkeypatch):
    target, tile = Target("fwd_short", 86, 2, 16, short_keys=True), Tile(64, 128, 4, 1)
    forward = tune_measure.attention_fwd
    monkeypatch.setattr(tune_measure, "attention_fwd", lambda call: (forward(call).out.roll(1), forward(call).maps))
    assert "result 0 is off by" in tune_measure.check(target, tile, False, DEVICE)
    results = iter(range(9))
    monkeypatch.setattr(
        tune_measure, "attention_fwd", lambda call: (forward(call).out, forward(call).maps + next(results))
    )
    assert tune_measure.check(target, tile, False, DEVICE) == "result 1 is not the same twice"


def test_the_tile_under_trial_is_the_one_launched(monkeypatch):
    target = Target("bwd_q", 86, 2, 16, short_keys=True)
    call = tune_measure.draw(target, tune_measure.SMALL[True], False, DEVICE, Tile(128, 32, 8, 3)).call
    assert call.tile("bwd_q") == Tile(128, 32, 8, 3)
    assert call.tile("bwd_kv") == launch.choose_tile("bwd_kv", 86, 2, 16, 150, 77)


@pytest.mark.parametrize("short_keys", [True, False])
def test_every_width_has_a_shape(short_keys):
    for head_dim in (1, 40, 64, 65, 128, 160, 256):
        shape = tune_measure.shape(Target("bwd_q", 90, 2, head_dim, short_keys))
        # no tile is cut by it
        assert shape.seqlen_q >= max(tune.BLOCKS) and (shape.seqlen_k <= launch.MOST_SHORT_KEYS) == short_keys


@pytest.mark.gpu
def test_a_sweep_on_a_device(source):
    said: list[str] = []
    rows = tune.main(["fwd_short", "bwd_q"], [64], quick=True, report=said.append)
    assert len(rows) == len(said) == 3
    for row in rows:
        assert f'Row("{row.kernel}", {row.arch}, 2, 64, ' in source.read_text()
