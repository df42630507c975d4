"""The Triton kernels of ``contrastive_loss``, on a GPU where there is one, else in the interpreter at small shapes.

The interpreter runs one program after another and rounds as numpy does: it shows logic, not races and not speed.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

from weft.kernels.common import grids
from weft.kernels.common.product_tiles import Tile
from weft.kernels.contrastive_loss import launch
from weft.kernels.contrastive_loss.host import Call
from weft.kernels.contrastive_loss.launch_table import TABLE
from weft.ops import Columns, contrastive_loss
from weft.ops.contrastive_loss.op import CONTRASTIVE_LOSS
from weft.testing import (
    FEATURE_LAYOUTS,
    FEATURES,
    PAIR_EXCLUSIONS,
    PAIRS,
    ContrastiveCase,
    ContrastiveInputs,
    assert_as_accurate_as_eager,
    assert_bitwise,
    make_contrastive_inputs,
    relative_l2,
)
from weft.testing.strategies import contrastive_cases

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.float16)
# several tiles and bands of rows and of columns, the last of each cut; the loop over D runs more than once
CASE = ContrastiveCase(37, 71, 20, pairs="groups", symmetric=True)
NAMES = ("rows", "cols", "temperature")
TRITON = next(backend for backend in CONTRASTIVE_LOSS.backends if backend.name == "triton")


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Tiles, bands and parts so small that a small loss has many of them."""
    if DEVICE == "cpu":
        patch.setattr(Call, "tile", lambda call, kernel, rows, columns: Tile(16, 32, 16, 4, 1))
        # no multiple of a tile: a last one reaches into the next band
        patch.setattr(launch, "BAND", 40)
        patch.setattr(grids, "MIN_PROGRAMS", 4)
        launch.choose_parts.cache_clear()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def differentiate(inputs: ContrastiveInputs, function) -> dict[str, Tensor]:
    """The loss and its gradients, the one that arrives being other than 1."""
    leaves = inputs.with_gradients()
    loss = function(leaves)
    gradients = torch.autograd.grad(1.5 * loss, leaves.leaves())
    return {"loss": loss.detach()} | {f"d{name}": x for name, x in zip(NAMES, gradients, strict=True)}


def call(inputs: ContrastiveInputs, backend: str = "triton") -> Tensor:
    return contrastive_loss(**inputs.arguments(), backend=backend)


def eager(inputs: ContrastiveInputs) -> dict[str, Tensor]:
    """What the definition gives in the tested dtype, gradients at logits rounded to it as tensor cores want them."""
    found = differentiate(inputs, lambda x: call(x, "reference"))
    if inputs.rows.dtype == torch.float32:
        return found
    a, c = inputs.rows.float().requires_grad_(), inputs.cols.float().requires_grad_()
    logits = (a @ c.T / inputs.temperature).detach()
    wide = replace(inputs, rows=a, cols=c, temperature=inputs.temperature)
    step = torch.finfo(inputs.rows.dtype).eps
    da, dc = torch.autograd.grad(1.5 * call(wide, "reference"), [a, c])
    # a rounding of each pair's gradient, as if all went the same way
    spread = 2 * step * logits.abs().max() / inputs.temperature / len(a)
    return found | {
        "drows": (da + spread).to(inputs.rows.dtype),
        "dcols": (dc + spread).to(inputs.rows.dtype),
    }


def check(case: ContrastiveCase, seed: int = 0) -> None:
    inputs = make_contrastive_inputs(case, seed, DEVICE)
    found, expected = differentiate(inputs, call), eager(inputs)
    gold = differentiate(inputs.in_float64(), lambda x: call(x, "reference"))
    a, c = (x.double().norm(dim=1).max().item() for x in (inputs.rows, inputs.cols))
    logit = a * c / case.temperature
    # what a rounding of a logit does to its probability, of which one weighs 1/R, times a feature over T
    each = logit / case.temperature / min(case.rows, case.columns)
    sizes = {
        "loss": 1 + logit,
        "drows": logit + c * each,
        "dcols": logit + a * each,
        "dtemperature": logit * (1 + logit) / case.temperature,
    }
    for name, x in found.items():
        assert_as_accurate_as_eager(name, x, expected[name], gold[name], factor=3.0, size=sizes[name])


# --- against float64 ------------------------------------------------------------------------------------------------


@given(
    case=contrastive_cases(dtypes=DTYPES, sizes=(1, 2, 15, 16, 17, 40, 50), widths=(1, 5, 16, 17, 40)),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_any_loss_is_as_accurate_as_the_definition(case, seed):
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        check(case, seed)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("features", FEATURES)
def test_features(dtype, features):
    check(replace(CASE, dtype=dtype, features=features))


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("exclude", PAIR_EXCLUSIONS)
def test_pairs(pairs, exclude):
    check(replace(CASE, pairs=pairs, exclude=exclude, classes=exclude == "self", symmetric=pairs != "views"))


@pytest.mark.parametrize("layout", FEATURE_LAYOUTS)
def test_layouts(layout):
    check(replace(CASE, layout=layout))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 90), (90, 3), (40, 40), (41, 81)])
def test_sizes(rows, columns):
    check(replace(CASE, rows=rows, columns=columns, width=5, pairs="groups"))


@pytest.mark.parametrize("temperature", [0.001, 0.5])
def test_temperatures(temperature):
    check(replace(CASE, temperature=temperature))


def test_the_tiles_of_the_table(monkeypatch):
    """The tiles that a device would get, one of them whole."""
    monkeypatch.undo()
    launch.choose_parts.cache_clear()
    check(replace(CASE, rows=66, columns=150, width=40))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_collapsed_features_keep_their_gradient(dtype):
    inputs = make_contrastive_inputs(replace(CASE, rows=90, columns=90, dtype=dtype, features="collapsed"), 0, DEVICE)
    found = differentiate(inputs, call)
    gold = differentiate(inputs.in_float64(), lambda x: call(x, "reference"))
    for name in ("drows", "dcols"):
        assert relative_l2(found[name], gold[name]) < 1e-2


# --- what the contract promises -------------------------------------------------------------------------------------


def test_two_segments_in_one_call():
    fake, real = (torch.randn(n, 6, device=DEVICE) for n in (24, 20))
    pairs = torch.arange(24, device=DEVICE) % 12
    of_real = (pairs, torch.arange(20, device=DEVICE))
    kinds = [
        Columns(fake, pairs, "self", temperature=0.5, weight=0.2),
        Columns(real, of_real, temperature=0.3, symmetric=True),
    ]

    def gradient(backend: str) -> Tensor:
        leaf = fake.clone().requires_grad_()
        own = [replace(kinds[0], values=leaf), kinds[1]]
        return torch.autograd.grad(contrastive_loss(leaf, own, backend=backend), [leaf])[0]

    torch.testing.assert_close(gradient("triton"), gradient("reference"))


@pytest.mark.parametrize("name", NAMES)
def test_one_gradient_at_a_time(name):
    inputs = make_contrastive_inputs(CASE, 0, DEVICE)
    every = differentiate(inputs, call)
    leaf = getattr(inputs, name).detach().requires_grad_()
    loss = call(replace(inputs, **{name: leaf}))
    assert_bitwise(name, torch.autograd.grad(1.5 * loss, [leaf])[0], every[f"d{name}"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_twice_the_same_bits(dtype):
    inputs = make_contrastive_inputs(replace(CASE, dtype=dtype), 0, DEVICE)
    once = differentiate(inputs, call)
    for name, x in differentiate(inputs, call).items():
        assert_bitwise(name, x, once[name])


def test_no_positive_at_all_is_zero():
    a, c = torch.randn(20, 4, device=DEVICE).requires_grad_(), torch.randn(40, 4, device=DEVICE)
    ids = (torch.zeros(20, device=DEVICE).long(), torch.ones(40, device=DEVICE).long())
    loss = contrastive_loss(a, c, positives=ids, symmetric=True, backend="triton")
    assert loss.item() == 0 and not torch.autograd.grad(loss, [a])[0].any()


def test_not_a_number_is_not_hidden():
    a, c = torch.randn(20, 4, device=DEVICE), torch.randn(20, 4, device=DEVICE)
    a[11, 2] = torch.nan
    assert contrastive_loss(a, c, backend="triton").isnan()


# --- choosing it ----------------------------------------------------------------------------------------------------


def test_auto_never_takes_the_interpreter():
    if DEVICE == "cuda":
        pytest.skip("a GPU is here: the kernels are compiled")
    assert CONTRASTIVE_LOSS.choose("auto", torch.zeros(2, 3), []).name == "cpu"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_refuses_what_the_interpreter_cannot_compute(dtype):
    if DEVICE == "cuda":
        pytest.skip("a GPU is here: the kernels are compiled")
    (reason,) = TRITON.refuse(torch.zeros(2, 3, dtype=dtype), [])
    assert reason.startswith("needs float32 or float16 under Triton's interpreter")


def test_the_op_imports_without_triton():
    code = "import sys; sys.modules['triton'] = None; from weft.ops import contrastive_loss; import torch; "
    code += "print(contrastive_loss(torch.ones(1, 2), torch.ones(1, 2)).item())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0.0"


# --- launches, as arithmetic ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", [80, 86, 89, 90, 100, 120, 75])
@pytest.mark.parametrize("kernel", ["fwd", "bwd_pairs", "bwd_features"])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_every_architecture_has_tiles(arch, kernel, itemsize):
    for rows, columns in ((1, 1), (24, 4096), (16384, 16384)):
        tile = launch.choose_tile(kernel, arch, itemsize, rows, columns)
        for block, length in ((tile.block_m, rows), (tile.block_n, columns)):
            assert block >= 16 and block & (block - 1) == 0 and block < 2 * max(length, 16)


def test_no_row_of_the_table_twice():
    assert len({(row.kernel, row.arch, row.itemsize) for row in TABLE}) == len(TABLE)
    with pytest.raises(LookupError, match="no launch row for fwd, sm_90, 8 bytes"):
        launch.choose_tile("fwd", 90, 8, 1, 1)


@pytest.mark.parametrize(
    ("row_tiles", "column_tiles"), [(1, 1), (1, 1000), (1000, 1), (16, 16), (513, 77), (8192, 8192)]
)
def test_parts_cover_all_tiles_and_none_is_empty(monkeypatch, row_tiles, column_tiles):
    monkeypatch.undo()
    launch.choose_parts.cache_clear()
    rows, columns = launch.choose_parts(row_tiles, column_tiles)
    parts = [grids.ceil_div(tiles, each) for tiles, each in ((row_tiles, rows), (column_tiles, columns))]
    assert (parts[0] - 1) * rows < row_tiles <= parts[0] * rows
    assert (parts[1] - 1) * columns < column_tiles <= parts[1] * columns
    # memory of their statistics: a small number of sets a line, whatever the size
    if min(row_tiles, column_tiles) >= 16:
        assert max(parts) <= 20
    assert parts[0] * parts[1] <= 2 * grids.MIN_PROGRAMS
