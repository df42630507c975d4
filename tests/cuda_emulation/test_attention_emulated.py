"""The CUDA kernels' own source, run on the CPU: numbers against float64, bits, bounds, races, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from weft.kernels.attention.reference import attention_reference
from weft.ops.attention import cuda as _attention_cuda
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

DTYPES = (torch.float16, torch.bfloat16)
TABLES = ("alpha", "beta", "gamma", "delta")
EDITED = AttentionCase(
    samples=2,
    seqlen_q=37,
    heads=2,
    head_dim=40,
    dtype=torch.float16,
    tables=TABLES,
    key_labels=5,
    removed=0.1,
    readout="dense",
    padding=0.1,
    hostile=True,
)
every_head_dim = pytest.mark.parametrize("head_dim", _attention_cuda.HEAD_WIDTHS)
# one of each kind: an odd number of 8 values, of 16, the widest with two row tiles a warp, and those with one
some_head_dims = pytest.mark.parametrize("head_dim", (40, 64, 80, 128, 160, 256))
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
short_and_long = pytest.mark.parametrize("seqlen_k", [77, 150], ids=["short", "long"])


@pytest.fixture
def check(emulation, emulated):
    """Runs a case under the emulation and compares with float64; gives (out, maps)."""

    def run(case: AttentionCase, change=lambda inputs: inputs, **how):
        inputs: AttentionInputs = change(make_attention_inputs(case))
        found = emulation.attend(emulated, inputs, **how)
        truth = inputs.cleaned()
        gold = attention_reference(truth.in_float64().arguments())
        eager = attention_eager(truth)
        # both are means of values, which may cancel
        values = (truth.v, truth.v if truth.readout is None else truth.readout)
        for name, actual, e, g, value in zip(("out", "maps"), found, eager, gold, values, strict=True):
            size = value.abs().nan_to_num().max().item() if value.numel() else 0.0
            assert_as_accurate_as_eager(name, actual, e, g, size=size)
        return found

    return run


# --- numbers --------------------------------------------------------------------------------------------------------


@every_dtype
@some_head_dims
@pytest.mark.parametrize("seqlen_k", [1, 7, 77, 78, 81, 128, 129, 154, 300])
def test_head_widths_and_key_lengths(check, head_dim, seqlen_k, dtype):
    check(replace(EDITED, head_dim=head_dim, seqlen_k=seqlen_k, dtype=dtype, samples=1))


@every_head_dim
@short_and_long
def test_every_head_width(check, head_dim, seqlen_k):
    check(replace(EDITED, head_dim=head_dim, seqlen_k=seqlen_k, samples=1))


@short_and_long
@pytest.mark.parametrize("seqlen_q", [1, 7, 16, 65, 130])
def test_query_lengths(check, seqlen_q, seqlen_k):
    check(replace(EDITED, seqlen_q=seqlen_q, seqlen_k=seqlen_k))


@short_and_long
@pytest.mark.parametrize("group", [2, 3, 6])
def test_heads_that_share_keys(check, group, seqlen_k):
    check(replace(EDITED, heads=6, group=group, seqlen_k=seqlen_k))


@every_dtype
@some_head_dims
@short_and_long
def test_without_edit_and_readout(check, head_dim, seqlen_k, dtype):
    check(AttentionCase(samples=1, seqlen_q=33, seqlen_k=seqlen_k, heads=2, head_dim=head_dim, dtype=dtype))


def test_every_warp_walks_over_several_tiles(check):
    check(replace(EDITED, samples=1, heads=1, seqlen_q=700))


@every_head_dim
def test_short_keys_stay_resident_where_shared_memory_allows(check, emulation, head_dim):
    # 99 KB hold neither D = 160 nor all of D = 128 at 128 keys, and the long kernel takes over; 227 KB hold them all
    check(replace(EDITED, head_dim=head_dim, seqlen_k=128, samples=1), device=emulation.large_device)


@short_and_long
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(check, layout, seqlen_k):
    check(replace(EDITED, layout=layout, seqlen_k=seqlen_k))


@short_and_long
@pytest.mark.parametrize(
    "names", [(), ("alpha",), ("beta",), ("gamma",), ("delta",), ("alpha", "delta")], ids="+".join
)
def test_tables_present_and_absent(check, names, seqlen_k):
    check(replace(EDITED, tables=names, seqlen_k=seqlen_k))


@short_and_long
@pytest.mark.parametrize("labels", [(None, None), (None, 5), (7, None), (3, "own")], ids=str)
def test_labels_present_and_absent(check, labels, seqlen_k):
    check(replace(EDITED, query_labels=labels[0], key_labels=labels[1], seqlen_k=seqlen_k, tables=("alpha", "delta")))


@short_and_long
@pytest.mark.parametrize("readout", ["one_hot", "ones", "zero"])
@pytest.mark.parametrize("columns", [1, 3, 8, 17])
def test_readouts(check, readout, columns, seqlen_k):
    check(replace(EDITED, readout=readout, columns=columns, seqlen_k=seqlen_k))


def test_a_readout_of_many_columns_moves_to_the_long_kernel(check):
    check(replace(EDITED, samples=1, columns=200, seqlen_q=17))


def test_a_readout_of_a_few_late_keys(check):
    def late(inputs):
        readout = torch.zeros_like(inputs.readout)
        readout[:, 600:604, 1] = 0.25
        return replace(inputs, readout=readout)

    check(replace(EDITED, samples=1, seqlen_q=9, seqlen_k=700), change=late)


@short_and_long
@pytest.mark.parametrize("shared", [("tables", "labels"), ("readout", "padding"), ()], ids="+".join)
def test_shared_and_own_entries_of_samples(check, shared, seqlen_k):
    check(replace(EDITED, shared=shared, seqlen_k=seqlen_k, samples=3))


@short_and_long
@pytest.mark.parametrize("padding", [0.9, 1.0])
def test_masked_rows_and_padding_give_zeros(check, padding, seqlen_k):
    case = replace(EDITED, seqlen_k=seqlen_k, padding=padding, removed=0.9, masked_label=True)
    out, maps = check(case)
    masked = make_attention_inputs(case).query_labels == 0
    assert not out[masked].any() and not maps[masked].any()


@short_and_long
@pytest.mark.parametrize("names", [("k",), ("v",), ("readout",)], ids="+".join)
@pytest.mark.parametrize("head_dim", [40, 64])
def test_rows_that_do_not_see_a_nan_are_spared_it(emulation, emulated, seqlen_k, names, head_dim):
    case = replace(EDITED, samples=1, seqlen_k=seqlen_k, head_dim=head_dim, key_labels="own", padding=0.0)
    inputs = make_attention_inputs(case)
    poisoned, seeing = poison_for_some_rows(inputs, names)
    assert seeing.any() and not seeing.all()
    clean = emulation.attend(emulated, inputs)
    for name, found, expected in zip(("out", "maps"), emulation.attend(emulated, poisoned), clean, strict=True):
        assert_bitwise(name, found[~seeing], expected[~seeing])
        spoilt = names == ("k",) or {"out": "v", "maps": "readout"}[name] in names
        assert found[seeing].isnan().all() if spoilt else found[seeing].isfinite().all()


@short_and_long
def test_large_logits_and_other_scales(check, seqlen_k):
    case = replace(EDITED, seqlen_k=seqlen_k, spread=5.0)
    for scale in (-0.3, 0.0, 0.5):
        check(case, change=lambda inputs, scale=scale: replace(inputs, scale=scale))


def test_no_keys_give_zeros(emulation, emulated):
    out, maps = emulation.attend(emulated, make_attention_inputs(replace(EDITED, seqlen_k=0)))
    assert not out.any() and not maps.any()


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(case=attention_cases(dtypes=DTYPES, head_dims=_attention_cuda.HEAD_WIDTHS))
def test_any_call(check, case):
    check(case)


# --- bits -----------------------------------------------------------------------------------------------------------


@short_and_long
def test_the_order_of_threads_changes_no_bit(emulation, emulated, seqlen_k):
    inputs = make_attention_inputs(replace(EDITED, seqlen_k=seqlen_k, head_dim=64))
    results = {name: emulation.attend(emulated, inputs, order=order) for name, order in emulation.orders.items()}
    for name, found in results.items():
        for what, actual, expected in zip(("out", "maps"), found, results["forwards"], strict=True):
            assert_bitwise(f"{what}, {name}", actual, expected)


@short_and_long
@pytest.mark.parametrize("names", [TABLES, ("alpha",), ("delta",), ("beta", "gamma")], ids="+".join)
def test_identity_tables_change_no_bit(emulation, emulated, names, seqlen_k):
    plain = make_attention_inputs(replace(EDITED, tables=(), padding=0.0, seqlen_k=seqlen_k))
    identity = {name: torch.full((1, 1, 1), 1.0 if name == "alpha" else 0.0) for name in names}
    for what, actual, expected in zip(
        ("out", "maps"),
        emulation.attend(emulated, replace(plain, **identity)),
        emulation.attend(emulated, plain),
        strict=True,
    ):
        assert_bitwise(what, actual, expected)


@short_and_long
def test_a_readout_does_not_change_out(emulation, emulated, seqlen_k):
    inputs = make_attention_inputs(replace(EDITED, seqlen_k=seqlen_k))
    with_maps, _ = emulation.attend(emulated, inputs)
    without, _ = emulation.attend(emulated, replace(inputs, readout=None))
    assert_bitwise("out", with_maps, without)


# --- bounds and refusals --------------------------------------------------------------------------------------------


@short_and_long
def test_labels_out_of_range_read_nothing_out_of_bounds(emulation, emulated, seqlen_k):
    inputs = make_attention_inputs(replace(EDITED, seqlen_k=seqlen_k))
    wild = replace(
        inputs,
        query_labels=torch.randint(-(2**31), 2**31 - 1, inputs.query_labels.shape).int(),
        key_labels=torch.randint(-(2**31), 2**31 - 1, inputs.key_labels.shape).int(),
    )
    nearest = replace(
        inputs,
        query_labels=wild.query_labels.clamp(0, inputs.delta.shape[1] - 1),
        key_labels=wild.key_labels.clamp(0, inputs.delta.shape[2] - 1),
    )
    for actual, expected in zip(emulation.attend(emulated, wild), emulation.attend(emulated, nearest), strict=True):
        assert_bitwise("a label outside the table counts as the nearest", actual, expected)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (replace(EDITED, head_dim=48), "no CUDA kernel for D = 48"),
        (replace(EDITED, query_labels=64, key_labels=64), "tables must fit 24576 bytes"),
    ],
    ids=["head_dim", "tables"],
)
def test_the_launch_refuses(emulation, emulated, case, message):
    with pytest.raises(ValueError, match=message):
        emulation.attend(emulated, make_attention_inputs(case))


def test_the_launch_refuses_an_old_device(emulation, emulated):
    with pytest.raises(RuntimeError, match=r"needs compute capability 8\.0; device 2 has 7\.x"):
        emulation.attend(emulated, make_attention_inputs(EDITED), device=emulation.old_device)


def test_the_launch_refuses_a_small_workspace(emulation, emulated, monkeypatch):
    monkeypatch.setattr(emulated, "attention_cuda_workspace_bytes", lambda sizes: 16)
    with pytest.raises(ValueError, match="`workspace` must have"):
        emulation.attend(emulated, make_attention_inputs(EDITED))


def test_python_and_the_launch_agree_on_the_bytes_of_tables(emulation, emulated):
    """The largest tables that ``refuse`` lets pass are launched beside every head width."""
    labels_k = _attention_cuda.MAX_TABLE_BYTES // 16 // 8 - 1
    for head_dim in _attention_cuda.HEAD_WIDTHS:
        case = replace(EDITED, seqlen_q=3, seqlen_k=150, head_dim=head_dim, query_labels=8, key_labels=labels_k)
        inputs = make_attention_inputs(case)
        size = _attention_cuda._table_bytes(inputs.arguments())
        assert size == _attention_cuda.MAX_TABLE_BYTES
        emulation.attend(emulated, inputs)


def test_a_first_call_may_be_captured(emulation, emulated):
    """The emulated runtime prepares a kernel in relaxed mode alone; the mode before comes back, also after errors."""
    emulation.attend(emulated, make_attention_inputs(EDITED))
    with pytest.raises(RuntimeError, match="compute capability"):
        emulation.attend(emulated, make_attention_inputs(EDITED), device=emulation.old_device)
    assert emulated.library.weft_emulation_capture_mode() == 0


@pytest.mark.parametrize("samples", [1, 3])
def test_read_masks_of_several_words_and_samples(emulation, emulated, samples):
    """Each sample's own read-out, over more keys than one word of the mask holds."""
    inputs = make_attention_inputs(replace(EDITED, samples=samples, seqlen_q=7, seqlen_k=600, heads=1))
    readout = torch.zeros(samples, 600, 3)
    for sample in range(samples):
        readout[sample, 290 * sample + 5, :] = 1.0
    inputs = replace(inputs, readout=readout)
    _, maps = emulation.attend(emulated, inputs)
    _, expected = attention_reference(inputs.in_float64().arguments())
    torch.testing.assert_close(maps.double(), expected, rtol=2e-3, atol=1e-5)
