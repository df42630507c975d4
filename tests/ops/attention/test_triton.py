"""The Triton forward of ``attention``, on a GPU where there is one, else in Triton's interpreter at small shapes.

The interpreter runs one program after another and rounds as numpy does: it shows logic, not races and not speed.
Every shape here stays at 32 programs or fewer.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="triton is not installed")

import triton.language as tl

from weft._errors import BackendUnavailableError
from weft.kernels.attention import launch
from weft.kernels.attention.fwd import Forward, attention_fwd
from weft.kernels.attention.host import Call
from weft.kernels.attention.reference import attention_reference
from weft.kernels.common import grids
from weft.ops import attention
from weft.ops.attention.op import ATTENTION
from weft.testing import (
    LAYOUTS,
    AttentionCase,
    AttentionInputs,
    assert_as_accurate_as_eager,
    assert_bitwise,
    attention_eager,
    make_attention_inputs,
    poison_for_some_rows,
)
from weft.testing.strategies import attention_cases

TABLES = ("alpha", "beta", "gamma", "delta")
EDITED = AttentionCase(
    samples=1,
    seqlen_q=17,
    heads=2,
    head_dim=24,
    tables=TABLES,
    removed=0.1,
    readout="dense",
    padding=0.1,
    hostile=True,
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LENGTHS = {"short_keys": 77, "long_keys": 150}
each_length = pytest.mark.parametrize("seqlen_k", LENGTHS.values(), ids=LENGTHS.keys())


def small(case: AttentionCase) -> AttentionCase:
    return replace(case, samples=min(case.samples, 2), seqlen_q=min(case.seqlen_q, 33))


def drawn(case: AttentionCase, seed: int = 0) -> AttentionInputs:
    """Inputs below the public function: labels are int32 there."""
    inputs = make_attention_inputs(case, seed, DEVICE)
    as_int32 = {
        name: labels.int() for name in ("query_labels", "key_labels") if (labels := getattr(inputs, name)) is not None
    }
    return replace(inputs, **as_int32)


def forward(inputs: AttentionInputs, keep_rows: bool = False) -> Forward:
    return attention_fwd(Call(inputs.arguments()), keep_rows)


TRITON = next(backend for backend in ATTENTION.backends if backend.name == "triton")


def assert_accurate(inputs: AttentionInputs) -> Forward:
    found, truth = forward(inputs), inputs.cleaned()
    gold = attention_reference(truth.in_float64().arguments())
    # both are means of values, which may cancel
    values = (truth.v, truth.v if truth.readout is None else truth.readout)
    for name, actual, e, g, value in zip(
        ("out", "maps"), found[:2], attention_eager(truth), gold, values, strict=True
    ):
        size = value.abs().max().item() if value.numel() else 0.0
        assert_as_accurate_as_eager(name, actual, e, g, size=size)
    return found


# --- against float64 ------------------------------------------------------------------------------------------------


@given(
    case=attention_cases(
        dtypes=(torch.float32, torch.float16),
        seqlens_q=(1, 7, 17, 33),
        seqlens_k=(1, 7, 16, 17, 64, 77, 129),
        head_dims=(1, 5, 8, 16, 24, 40, 72, 80),
        most_heads=2,
    ).map(small),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_any_call_is_as_accurate_as_eager(case, seed):
    assert_accurate(drawn(case, seed))


@pytest.mark.parametrize("seqlen_k", [1, 7, 64, 77, 78, 81, 128, 129, 154, 300])
def test_key_lengths(seqlen_k):
    assert_accurate(drawn(replace(EDITED, seqlen_q=7, heads=1, seqlen_k=seqlen_k)))


@each_length
@pytest.mark.parametrize("names", [("k",), ("v",), ("readout",)], ids="+".join)
@pytest.mark.parametrize("head_dim", [24, 80])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_rows_that_do_not_see_a_nan_are_spared_it(seqlen_k, names, head_dim, dtype):
    inputs = drawn(replace(EDITED, heads=1, seqlen_k=seqlen_k, head_dim=head_dim, dtype=dtype, padding=0.0))
    poisoned, seeing = poison_for_some_rows(inputs, names)
    assert seeing.any() and not seeing.all()
    for name, found, expected in zip(("out", "maps"), forward(poisoned)[:2], forward(inputs)[:2], strict=True):
        torch.testing.assert_close(found[~seeing], expected[~seeing], rtol=1e-6, atol=1e-6)
        spoilt = names == ("k",) or {"out": "v", "maps": "readout"}[name] in names
        assert found[seeing].isnan().all() if spoilt else found[seeing].isfinite().all()


@each_length
@pytest.mark.parametrize("group", [2, 3, 6])
def test_heads_that_share_keys(group, seqlen_k):
    assert_accurate(drawn(replace(EDITED, seqlen_q=9, heads=6, group=group, head_dim=8, seqlen_k=seqlen_k)))


@each_length
@pytest.mark.parametrize("head_dim", [8, 40, 64, 72, 80, 88, 96, 112, 160, 255, 256])
def test_head_widths(head_dim, seqlen_k):
    assert_accurate(drawn(replace(EDITED, seqlen_q=9, heads=1, head_dim=head_dim, seqlen_k=seqlen_k)))


@each_length
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_real_models(layout, seqlen_k):
    case = replace(EDITED, samples=2, seqlen_q=7, head_dim=40, dtype=torch.float16, layout=layout, seqlen_k=seqlen_k)
    assert_accurate(drawn(case))


@each_length
@pytest.mark.parametrize("columns", [1, 16, 17, 128])
def test_any_number_of_columns(columns, seqlen_k):
    inputs = drawn(replace(EDITED, seqlen_q=7, columns=columns, seqlen_k=seqlen_k))
    found = assert_accurate(inputs)
    assert_bitwise("out", found.out, forward(replace(inputs, readout=None)).out)


@each_length
@pytest.mark.parametrize("lookup", ["gather", "walk", "unroll"])
def test_each_way_of_reading_the_tables(monkeypatch, lookup, seqlen_k):
    """All three are exact in every kernel; which one is taken is a matter of speed."""
    monkeypatch.setattr(launch, "choose_lookup", lambda *arguments: lookup)
    case = replace(EDITED, seqlen_k=seqlen_k, key_labels=3, masked_label=True, head_dim=8)
    assert_accurate(drawn(case))


def test_programs_that_do_several_tiles_in_turn(monkeypatch):
    monkeypatch.setattr(grids, "MIN_PROGRAMS", 1)
    case = replace(EDITED, heads=1, seqlen_q=75, head_dim=8, seqlen_k=33, dtype=torch.float16)
    many = Tiles(monkeypatch, block_q=16, most_tiles=3)
    found = assert_accurate(drawn(case))
    assert many.kernels == ["fwd_short"]
    assert found.out.isfinite().all()


class Tiles:
    """Changes the tile of whatever is launched, and remembers for which kernels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **changes: int) -> None:
        self.kernels: list[str] = []
        choose = launch.choose_tile

        def changed(kernel: str, *shape: int) -> launch.Tile:
            self.kernels.append(kernel)
            return replace(choose(kernel, *shape), **changes)

        monkeypatch.setattr(launch, "choose_tile", changed)


@each_length
def test_maps_of_16_bit_inputs_are_fp32(monkeypatch, seqlen_k):
    """The split that tensor cores need, in parts of fp16 for the bf16 that the interpreter cannot compute in."""
    inputs = drawn(replace(EDITED, dtype=torch.float16, tables=("alpha",), seqlen_k=seqlen_k))
    plain = forward(inputs)
    monkeypatch.setattr(Call, "part", property(lambda call: tl.float16))
    split = forward(inputs)
    gold = attention_reference(inputs.in_float64().arguments())[1]
    error, plain_error = ((x.maps.double() - gold).abs().max().item() for x in (split, plain))
    # fp16 bottoms out at 2**-25 of the largest probability, where bf16 goes on; 11 bits alone would leave 1e-4
    assert error <= plain_error + 77 * 2**-25
    assert_bitwise("out", split.out, plain.out)


# --- what the contract promises -------------------------------------------------------------------------------------


@each_length
def test_identity_tables_change_no_bit(seqlen_k):
    plain = drawn(replace(EDITED, tables=(), seqlen_k=seqlen_k))
    labels = drawn(replace(EDITED, tables=("alpha",), key_labels=5, seqlen_k=seqlen_k))
    identities = {name: torch.full((1, 4, 5), float(name == "alpha"), device=DEVICE) for name in TABLES}
    edited = replace(plain, **identities, query_labels=labels.query_labels, key_labels=labels.key_labels)
    for name, found, expected in zip(("out", "maps"), forward(edited), forward(plain), strict=False):
        assert_bitwise(name, found, expected)


@each_length
def test_rows_without_a_valid_key_are_zero(seqlen_k):
    inputs = drawn(replace(EDITED, masked_label=True, seqlen_k=seqlen_k))
    found = assert_accurate(inputs)
    empty = inputs.query_labels == 0
    assert empty.any() and not empty.all()
    assert (found.out[empty] == 0).all() and (found.maps[empty] == 0).all()


@each_length
def test_twice_the_same_bits(seqlen_k):
    inputs = drawn(replace(EDITED, seqlen_k=seqlen_k))
    for name, one, other in zip(Forward._fields, forward(inputs, True), forward(inputs, True), strict=True):
        assert_bitwise(name, one, other)


@each_length
def test_kept_rows_are_what_backward_needs(seqlen_k):
    """The softmax's shift and factor, the range over valid keys, and the first key of each extreme, ties included."""
    # copies bring a key to where rows see it
    inputs = drawn(replace(EDITED, seqlen_k=seqlen_k, head_dim=16, hostile=False))
    # whole numbers, so that the two are equal in any order of summation
    twins = inputs.k.round()
    # the second half of the keys repeats the first, so that every extreme has two keys
    half = seqlen_k // 2
    twins[:, half : 2 * half] = twins[:, :half]
    inputs = replace(inputs, q=inputs.q.round(), k=twins, scale=0.25)
    largest, inverse, top, bottom, top_key, bottom_key = forward(inputs, True).rows
    wide = inputs.in_float64()
    logits = torch.einsum("bqhd,bkhd->bhqk", wide.q, wide.k) * wide.scale
    delta = wide.delta[0, wide.query_labels[0].long()][:, wide.key_labels[0].long()]
    removed = wide.key_padding[:, None, None] | delta.isneginf()
    for found, key, fill, extreme in (
        (top, top_key, -torch.inf, torch.amax),
        (bottom, bottom_key, torch.inf, torch.amin),
    ):
        masked = logits.masked_fill(removed, fill)
        expected = extreme(masked, -1)
        torch.testing.assert_close(found.double() / 1.4426950408889634, expected, rtol=1e-5, atol=1e-5)
        chosen = key.contiguous().view(torch.int32).long()[..., None]
        torch.testing.assert_close(masked.gather(-1, chosen)[..., 0], expected, rtol=1e-6, atol=1e-6)
        first = ((masked - expected[..., None]).abs() < 1e-9).double().argmax(-1)
        assert (chosen[..., 0] == first).all()
    assert (largest.isfinite() & (inverse > 0) & (inverse <= 1)).all()


@pytest.mark.parametrize("empty", ["samples", "seqlen_q", "seqlen_k"])
def test_zero_sizes(empty):
    inputs = drawn(replace(EDITED, tables=(), **{empty: 0}))
    found = forward(inputs, True)
    assert found.out.shape == inputs.q.shape and found.maps.shape == (*inputs.q.shape[:2], 8)
    assert (found.out == 0).all() and (found.maps == 0).all()


# --- choosing it ----------------------------------------------------------------------------------------------------


def test_labels_outside_the_tables_are_an_error_on_the_cpu():
    inputs = make_attention_inputs(replace(EDITED, key_labels=3))
    labels = inputs.key_labels.clone()
    labels[0, 3] = 3
    triton = next(backend for backend in ATTENTION.backends if backend.name == "triton")
    with pytest.raises(ValueError, match=r"`key_labels` must lie in \[0, Lk\) = \[0, 3\)"):
        triton.forward(replace(inputs, key_labels=labels).arguments())


def test_labels_outside_the_tables_read_nothing_else():
    """On a GPU labels are not checked, which would wait: the kernel holds them inside the table."""
    inputs = drawn(replace(EDITED, key_labels=3))
    wild, held = inputs.key_labels.clone(), inputs.key_labels.clone()
    wild[0, :2] = torch.tensor([-7, 99])
    held[0, :2] = torch.tensor([0, 2])
    found, expected = (forward(replace(inputs, key_labels=labels)) for labels in (wild, held))
    assert_bitwise("out", found.out, expected.out)


@pytest.mark.skipif(DEVICE == "cuda", reason="the interpreter is not in force beside a GPU")
class TestInterpreted:
    def test_auto_passes_over_an_interpreter(self):
        inputs = drawn(EDITED)
        assert ATTENTION.choose("auto", inputs.arguments()).name != "triton"
        assert ATTENTION.choose("triton", inputs.arguments()).name == "triton"

    @pytest.mark.parametrize(
        ("case", "reason"),
        [
            (replace(EDITED, dtype=torch.bfloat16), "needs float32 or float16 under Triton's interpreter"),
            (replace(EDITED, dtype=torch.float64), "needs float32 or float16 under Triton's interpreter"),
            (replace(EDITED, columns=129), "needs M <= 128 read-out columns; M is 129"),
        ],
        ids=["bfloat16", "float64", "columns"],
    )
    def test_refusals_say_why(self, case, reason):
        inputs = drawn(case)
        with pytest.raises(BackendUnavailableError, match=reason):
            ATTENTION.choose("triton", inputs.arguments())

    def test_without_the_interpreter_it_needs_cuda(self, monkeypatch):
        monkeypatch.delenv("TRITON_INTERPRET")
        with pytest.raises(BackendUnavailableError, match="needs CUDA tensors; q is on cpu"):
            ATTENTION.choose("triton", drawn(EDITED).arguments())

    def test_the_public_function_takes_it_by_name(self):
        inputs = drawn(replace(EDITED, tables=(), readout="none", padding=0.0))
        found, expected = (attention(inputs.q, inputs.k, inputs.v, backend=name) for name in ("triton", "reference"))
        torch.testing.assert_close(found, expected)


def test_importing_the_op_does_not_import_triton():
    program = "import sys, weft.ops; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
