"""The golden record: today's results against those of the commit that was recorded.

Numbers are compared by tolerances, since BLAS and instruction sets differ. Bits are compared where both sides are
computed here, and of what old files hold. Nothing here writes: ``make golden ARGS="--only NAME"`` does.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import FILES, ROWS, files, models, pictures, row, store
from safetensors.torch import load_file
from torch import Tensor

import weft

EXAMPLE = "ops/attention/edited-cpu"
REWRITE = 'rewrite it with `make golden ARGS="--only NAME"`, in a commit that says why, if that is meant'


def test_every_row_is_recorded_and_every_record_has_a_row() -> None:
    assert store.recorded() == {*ROWS, *FILES}


# --- against the record ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_numbers(name: str) -> None:
    lines = row.differences(ROWS[name], ROWS[name].make(), store.read_row(name))
    assert not lines, "\n".join([*lines, REWRITE])


@pytest.mark.parametrize("name", FILES)
def test_an_old_file_loads_with_the_same_bits(name: str) -> None:
    lines = files.differences(FILES[name], FILES[name].described(store.RECORD / name), store.read_content(name))
    assert not lines, "\n".join([*lines, REWRITE])


# --- both sides computed here --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, kept in FILES.items() if kept.save_again is not None])
def test_what_was_loaded_is_saved_with_the_same_bits(name: str, tmp_path: Path) -> None:
    kept, old = FILES[name], store.RECORD / name
    assert kept.save_again is not None
    kept.save_again(kept.load(old), tmp_path)
    saved = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert saved == sorted(
        path.relative_to(old) for path in old.rglob("*") if path.is_file() and path.name != store.CONTENT
    )
    assert kept.described(tmp_path) == store.read_content(name)
    for path in saved:
        if path.suffix == ".safetensors":
            assert files.described(load_file(tmp_path / path)) == files.described(load_file(old / path))


@pytest.mark.parametrize("model", ["sd1", "sd3", "inpainting", "fill"])
def test_attached_without_controls_equals_stock(model: Any) -> None:
    before = pictures.draw(model)
    with weft.attach(models.pipeline(model)):
        attached = pictures.draw(model)
    assert torch.equal(attached, before)
    assert torch.equal(pictures.draw(model), before), "after detaching"


# --- the record is able to fail ------------------------------------------------------------------------------------


def moved(stored: dict[str, Tensor], name: str, by: float) -> dict[str, Tensor]:
    """A copy with one value of one tensor moved by so many tolerances, or a whole number by 1."""
    changed = {key: value.clone() for key, value in stored.items()}
    flat = changed[name].flatten()
    place = int(flat.nan_to_num(posinf=0.0, neginf=0.0).abs().argmin())
    flat[place] += by if flat.is_floating_point() else 1
    changed[name] = flat.view(stored[name].shape)
    return changed


@pytest.mark.parametrize("name", ROWS)
def test_a_planted_difference_is_found_and_named(name: str) -> None:
    kept, stored = ROWS[name], store.read_row(name)
    assert row.differences(kept, stored, stored) == []
    for key, value in stored.items():
        allowed = row.limit(value, kept.tolerance)
        (line,) = row.differences(kept, moved(stored, key, 2 * allowed), stored)
        assert line.startswith(f"{name}: {key}: is ") and "differs by" in line
        if value.dtype in (torch.float32, torch.float64):
            assert row.differences(kept, moved(stored, key, 0.5 * allowed), stored) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda stored: {"other": stored["d_q.means"]}, "other: is not stored"),
        (lambda stored: {"maps": stored["maps"][:1]}, r"maps: is torch.float32 \[1, 37, 4\], was torch.float32"),
        (lambda stored: {"maps": stored["maps"].double()}, "maps: is torch.float64"),
        (lambda stored: {"maps": torch.full_like(stored["maps"], torch.nan)}, "maps: is nan at .*; differs by inf"),
    ],
    ids=["name", "shape", "dtype", "nan"],
)
def test_other_tensors_are_found(change: Any, said: str) -> None:
    stored = store.read_row(EXAMPLE)
    (line,) = row.differences(ROWS[EXAMPLE], {**stored, **change(stored)}, stored)
    assert re.search(said, line)


def test_a_tensor_that_is_gone_is_found() -> None:
    stored = store.read_row(EXAMPLE)
    found = {key: value for key, value in stored.items() if key != "maps"}
    assert row.differences(ROWS[EXAMPLE], found, stored) == [f"{EXAMPLE}: maps: is stored and no longer made"]


@pytest.mark.parametrize(
    "name", ["files/residual", "files/soft-tokens-sd3", "files/task-prompts", "files/task-branch"]
)
def test_a_flipped_bit_of_a_file_is_found(name: str, tmp_path: Path) -> None:
    shutil.copytree(store.RECORD / name, tmp_path, dirs_exist_ok=True)
    (path,) = tmp_path.glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)
    (line,) = files.differences(FILES[name], FILES[name].described(tmp_path), store.read_content(name))
    assert line.startswith(f"{name}: ")


def beside_stock() -> list[str]:
    """Rows of pictures of the same noise, prompt and canvas as those of the model alone."""
    others = ("stock", "maps-two-prompts", "outpaint")
    return [name for name in ROWS if name.startswith("pictures/") and not name.endswith(others)]


@pytest.mark.parametrize("name", beside_stock())
def test_a_stored_picture_shows_its_control(name: str) -> None:
    """One that equals the model's own would say nothing of the control; reading maps must leave it as it is."""
    model = name.split("/")[1]
    found, stock = (store.read_row(each)["picture"] for each in (name, f"pictures/{model}/stock"))
    off = float((found - stock).abs().max())
    assert off <= pictures.TOLERANCE if "/maps" in name else off > 10 * pictures.PASTED
