"""Rows of the launch table in files: what is written is read back, the rest stays, and a bad file is refused."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from weft.kernels.attention import launch, launch_file, launch_table
from weft.kernels.attention.launch_table import TABLE, Row, Tile

SOURCE = Path(launch_table.__file__)
ROW = Row("fwd_long", 90, 2, 64, Tile(64, 128, 4, 3))
MEASURED = "2026-11-22, triton 3.9.0, NVIDIA H200"
RUFF = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")


@pytest.fixture
def no_file_in_use():
    yield
    launch_file.use_file("")


def table_of(source: str) -> tuple[Row, ...]:
    """The table that a source defines, run as a module."""
    names: dict = {"__name__": launch_table.__name__}
    exec(compile(source, "launch_table.py", "exec"), names)
    return tuple(Row(*(vars(row) | {"tile": Tile(**vars(row.tile))}).values()) for row in names["TABLE"])


# --- the source of the table ----------------------------------------------------------------------------------------


def test_a_row_takes_the_place_of_the_one_that_served_the_same():
    source = launch_file.with_rows(SOURCE.read_text(), {ROW: MEASURED})
    assert table_of(source) == tuple(ROW if replace(row, tile=ROW.tile) == ROW else row for row in TABLE)
    changed = set(source.splitlines()) - set(SOURCE.read_text().splitlines())
    assert changed == {f'    Row("fwd_long", 90, 2, 64, Tile(64, 128, 4, 3)),  # {MEASURED}'}


@pytest.mark.parametrize(
    "row",
    [
        Row("fwd_short", 120, 2, 40, Tile(64, 128, 4, 1, 2)),
        Row("bwd_kv", 90, 2, 64, Tile(16, 16, 4, 1), 128),
        Row("bwd_tables", 75, 4, 8, Tile(16, 16, 4, 1)),
    ],
    ids=lambda row: row.kernel,
)
def test_a_new_row_is_among_those_of_its_kernel(row):
    before = SOURCE.read_text()
    source = launch_file.with_rows(before, {row: ""})
    assert sorted(map(repr, table_of(source))) == sorted(map(repr, (*TABLE, row)))
    lines = source.splitlines()
    (place,) = [i for i, line in enumerate(lines) if line not in before.splitlines()]
    assert all(f'Row("{row.kernel}"' in lines[i] or lines[i].lstrip()[0] in "#)" for i in (place - 1, place + 1))
    # the same again changes nothing, and neither do the rows that are there
    assert launch_file.with_rows(source, {row: ""}) == source
    assert launch_file.with_rows(before, dict.fromkeys(TABLE, "")) == before


@pytest.mark.skipif(RUFF is None, reason="ruff is not installed")
def test_what_is_written_is_formatted(tmp_path):
    path = tmp_path / "launch_table.py"
    shutil.copy(SOURCE, path)
    rows = {
        replace(ROW, max_head_dim=40): MEASURED
        + " with a name that is far longer than a line of this project may be" * 2,
        Row("bwd_kv", 100, 2, 64, Tile(128, 128, 16, 3, 4), 128): MEASURED,
    }
    launch_file.write_source(path, rows)
    for command in (["format", "--diff"], ["check"]):
        config = ["--config", str(Path(__file__).parents[3] / "pyproject.toml")]
        done = subprocess.run([RUFF, *command, *config, str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_writing_keeps_the_files_mode_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "launch_table.py"
    shutil.copy(SOURCE, path)
    path.chmod(0o640)
    launch_file.write_source(path, {ROW: MEASURED})
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["launch_table.py"]


def test_a_table_without_the_kernel_is_not_written():
    with pytest.raises(ValueError, match="the launch table has no row of fwd_long"):
        launch_file.with_rows("TABLE = ()\n", {ROW: ""})


# --- a user's file --------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_and_merged(tmp_path):
    path = tmp_path / "rows.json"
    launch_file.write_rows(path, {ROW: MEASURED})
    other = Row("bwd_q", 90, 2, 64, Tile(32, 64, 4, 2), 128)
    slower = replace(ROW, tile=Tile(16, 16, 4, 1))
    launch_file.write_rows(path, {other: "today", slower: "today"})
    assert launch_file.read_rows(path) == {other: "today", slower: "today"}


def test_a_file_in_use_goes_before_the_table(tmp_path, no_file_in_use):
    shape = ("fwd_long", 90, 2, 64, 4096, 4096)
    of_table = launch.choose_tile(*shape)
    path = tmp_path / "rows.json"
    launch_file.write_rows(path, {ROW: MEASURED})
    launch_file.use_file(str(path))
    assert launch.choose_tile(*shape) == ROW.tile != of_table
    launch_file.use_file("")
    assert launch.choose_tile(*shape) == of_table


def test_the_variable_reaches_the_backend(tmp_path, monkeypatch, no_file_in_use):
    pytest.importorskip("triton", reason="triton is not installed")
    import torch

    from weft.kernels.attention.arguments import Arguments
    from weft.ops.attention import triton as _attention_triton

    path = tmp_path / "rows.json"
    launch_file.write_rows(path, {Row("fwd_short", 86, 4, 64, Tile(16, 128, 4, 1)): ""})
    monkeypatch.setenv("WEFT_LAUNCH_TABLE", str(path))
    x = torch.randn(1, 20, 1, 8, device="cuda" if torch.cuda.is_available() else "cpu")
    call = Arguments(x, x, x, 1.0)
    _attention_triton.attention_fwd_triton(call)
    assert launch.choose_tile("fwd_short", 86, 4, 64, 4096, 77).block_q == 16
    monkeypatch.setenv("WEFT_LAUNCH_TABLE", str(tmp_path / "none.json"))
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        _attention_triton.attention_fwd_triton(call)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kernel": "fwd"}, "kernel must be one of fwd_short, fwd_long, bwd_q, bwd_kv, bwd_tables; got "),
        ({"arch": -90}, "every number must be a whole one above 0"),
        ({"itemsize": 8}, "itemsize must be 2 or 4"),
        ({"block_k": 48}, "blocks must be powers of two from 16 to 256"),
        ({"num_warps": 3}, "num_warps must be 1, 2, 4, 8 or 16"),
        ({"num_stages": "2"}, "every number must be a whole one above 0"),
        ({"kernel": "fwd_short", "block_k": 64}, "block_k of fwd_short must be 128"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_row_that_cannot_be_launched_is_named(tmp_path, change, said):
    path = tmp_path / "rows.json"
    launch_file.write_rows(path, {ROW: ""})
    content = json.loads(path.read_text())
    for name, value in change.items():
        row = content["rows"][0]
        (row if name in row else row["tile"])[name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is not a launch table") as caught:
        launch_file.use_file(str(path))
    assert said in str(caught.value) and str(path) in str(caught.value)
    # and it is not half in use
    assert launch.choose_tile("fwd_long", 90, 2, 64, 4096, 4096) == next(
        row.tile for row in TABLE if replace(row, tile=ROW.tile) == ROW
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [{}]}', '{"rows": 3}', '{"rows": [3]}'])
def test_what_is_no_table_is_reported(tmp_path, text):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"is not a launch table: .*; `weft bench --tune` writes one"):
        launch_file.read_rows(path)
