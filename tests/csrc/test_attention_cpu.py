"""The CPU kernel on every instruction set of this processor: numbers, bits, bounds, and what it refuses."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from weft._native_loader import native, native_or_none
from weft.kernels.attention.arguments import Arguments
from weft.kernels.attention.reference import attention_reference
from weft.ops.attention.cpu import attention_fwd_cpu
from weft.testing import (
    LAYOUTS,
    AttentionCase,
    AttentionInputs,
    assert_as_accurate_as_eager,
    assert_bitwise,
    attention_eager,
    make_attention_inputs,
)

pytestmark = pytest.mark.skipif(native_or_none() is None, reason="weft._native is not built")

ISAS = [] if native_or_none() is None else [name for name, usable in native().instruction_sets().items() if usable]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TABLES = ("alpha", "beta", "gamma", "delta")
EDITED = AttentionCase(tables=TABLES, removed=0.1, readout="dense", padding=0.1, hostile=True, heads=2, seqlen_q=45)
every_isa = pytest.mark.parametrize("isa", ISAS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def assert_accurate(inputs: AttentionInputs, isa: str) -> None:
    found = attention_fwd_cpu(inputs.arguments(), isa=isa)
    truth = inputs.cleaned()
    gold, eager = attention_reference(truth.in_float64().arguments()), attention_eager(truth)
    values = (truth.v, truth.v if truth.readout is None else truth.readout)
    for name, actual, e, g, value in zip(("out", "maps"), found, eager, gold, values, strict=True):
        size = value.abs().max().item() if value.numel() else 0.0
        assert_as_accurate_as_eager(name, actual, e, g, size=size)


# --- numbers --------------------------------------------------------------------------------------------------------


@every_isa
@every_dtype
@pytest.mark.parametrize("seqlen_k", [1, 7, 64, 77, 78, 81, 128, 129, 154, 300, 333, 337, 512, 589, 593])
def test_key_lengths(isa, dtype, seqlen_k):
    assert_accurate(make_attention_inputs(replace(EDITED, seqlen_k=seqlen_k, dtype=dtype)), isa)
    plain = AttentionCase(seqlen_q=31, seqlen_k=seqlen_k, dtype=dtype, heads=1, head_dim=64)
    assert_accurate(make_attention_inputs(plain), isa)


@every_isa
@every_dtype
@pytest.mark.parametrize("head_dim", [1, 2, 7, 8, 16, 17, 40, 64, 72, 80, 123, 128, 129, 160, 255, 256])
def test_head_widths(isa, dtype, head_dim):
    assert_accurate(make_attention_inputs(replace(EDITED, head_dim=head_dim, dtype=dtype)), isa)


@every_isa
@pytest.mark.parametrize("seqlen_q", [1, 2, 15, 32, 33, 40, 41, 48, 97])
def test_query_lengths(isa, seqlen_q):
    assert_accurate(make_attention_inputs(replace(EDITED, seqlen_q=seqlen_q, seqlen_k=150)), isa)


@every_isa
@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(isa, dtype, layout):
    """The "sliced" one has NaN around every row, so a read beside it shows, and leaves 16-bit values unaligned."""
    case = replace(EDITED, dtype=dtype, layout=layout, head_dim=20)
    assert_accurate(make_attention_inputs(replace(case, seqlen_k=77)), isa)
    assert_accurate(make_attention_inputs(replace(case, seqlen_q=150, seqlen_k=150)), isa)


@every_isa
@pytest.mark.parametrize("seqlen_k", [77, 200])
@pytest.mark.parametrize("tables", [s for n in range(5) for s in itertools.combinations(TABLES, n)], ids="+".join)
def test_every_subset_of_tables(isa, tables, seqlen_k):
    case = replace(EDITED, tables=tables, seqlen_k=seqlen_k, key_labels=5, removed=0.3, masked_label=True)
    assert_accurate(make_attention_inputs(case), isa)
    assert_accurate(make_attention_inputs(replace(case, padding=0.0, query_labels=None, shared=("tables",))), isa)


@every_isa
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [-0.3, 0.0])
@pytest.mark.parametrize("tables", [(), TABLES], ids="+".join)
def test_scales_that_are_not_positive(isa, dtype, tables, scale):
    for seqlen_k in (77, 300):
        case = replace(EDITED, tables=tables, padding=0.1 if tables else 0.0, seqlen_k=seqlen_k, dtype=dtype)
        assert_accurate(replace(make_attention_inputs(case), scale=scale), isa)


@every_isa
@pytest.mark.parametrize("readout", ["one_hot", "dense", "ones", "zero"])
@pytest.mark.parametrize("columns", [1, 8, 17])
def test_readouts(isa, readout, columns):
    for seqlen_k in (77, 300):
        case = replace(EDITED, readout=readout, columns=columns, seqlen_k=seqlen_k)
        assert_accurate(make_attention_inputs(case), isa)


@every_isa
@pytest.mark.parametrize("seqlen_k", [77, 150])
@pytest.mark.parametrize("tables", [TABLES, ("alpha", "delta")], ids="+".join)
def test_so_many_labels_that_tiles_expand_their_own(isa, seqlen_k, tables):
    case = replace(EDITED, seqlen_k=seqlen_k, query_labels=5000, tables=tables, masked_label=True)
    assert_accurate(make_attention_inputs(case), isa)


@every_isa
@every_dtype
@pytest.mark.parametrize("seqlen_k", [77, 300])
def test_rows_without_a_valid_key_are_zero(isa, dtype, seqlen_k):
    case = replace(EDITED, dtype=dtype, seqlen_k=seqlen_k, masked_label=True)
    inputs = make_attention_inputs(case)
    out, maps = attention_fwd_cpu(inputs.arguments(), isa=isa)
    masked = inputs.query_labels == 0
    assert masked.any() and not out[masked].any() and not maps[masked].any()
    everything = replace(inputs, key_padding=torch.ones_like(inputs.key_padding))
    out, maps = attention_fwd_cpu(everything.arguments(), isa=isa)
    assert not out.any() and not maps.any()


@every_isa
@pytest.mark.parametrize("seqlen_k", [77, 300])
def test_padding_hides_whatever_lies_there(isa, seqlen_k):
    inputs = make_attention_inputs(replace(EDITED, seqlen_k=seqlen_k))
    hidden = replace(inputs, k=inputs.k.clone(), v=inputs.v.clone())
    hidden.k[inputs.key_padding] = torch.nan
    hidden.v[inputs.key_padding] = torch.inf
    for name, a, b in zip(
        ("out", "maps"),
        attention_fwd_cpu(hidden.arguments(), isa=isa),
        attention_fwd_cpu(inputs.arguments(), isa=isa),
        strict=True,
    ):
        assert_bitwise(name, a, b)


@every_isa
@every_dtype
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_values_stay_in_their_rows(isa, dtype, value):
    for seqlen_k in (77, 300):
        inputs = make_attention_inputs(replace(EDITED, dtype=dtype, seqlen_k=seqlen_k))
        inputs.q[0, 3, 1, 5] = value
        out, _ = attention_fwd_cpu(inputs.arguments(), isa=isa)
        out[0, 3, 1] = 0.0
        assert out.isfinite().all()


# --- bits -----------------------------------------------------------------------------------------------------------


@every_isa
@every_dtype
@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(300, 77), (2100, 77), (130, 300)])
def test_same_bits_on_any_number_of_threads(isa, dtype, seqlen_q, seqlen_k):
    inputs = make_attention_inputs(replace(EDITED, dtype=dtype, seqlen_q=seqlen_q, seqlen_k=seqlen_k, heads=3))
    alone = attention_fwd_cpu(inputs.arguments(), num_threads=1, isa=isa)
    for threads in (1, 2, 3, 7):
        for name, a, b in zip(
            ("out", "maps"), attention_fwd_cpu(inputs.arguments(), num_threads=threads, isa=isa), alone, strict=True
        ):
            assert_bitwise(f"{name} on {threads} threads", a, b)


@every_isa
def test_a_row_does_not_depend_on_the_rows_beside_it(isa):
    """Few tiles spread their heads over tasks and many do not: both give the same bits."""
    inputs = make_attention_inputs(replace(EDITED, seqlen_q=4400, heads=3, shared=("labels",)))
    many, many_maps = attention_fwd_cpu(inputs.arguments(), isa=isa)
    few = replace(inputs, q=inputs.q[:, :50], query_labels=inputs.query_labels[:, :50])
    out, maps = attention_fwd_cpu(few.arguments(), isa=isa)
    assert_bitwise("out", out, many[:, :50])
    assert_bitwise("maps", maps, many_maps[:, :50])


@every_isa
@every_dtype
@pytest.mark.parametrize("seqlen_k", [77, 300])
def test_readout_does_not_touch_out(isa, dtype, seqlen_k):
    inputs = make_attention_inputs(replace(EDITED, dtype=dtype, seqlen_k=seqlen_k))
    out, _ = attention_fwd_cpu(inputs.arguments(), isa=isa)
    without, maps = attention_fwd_cpu(replace(inputs, readout=None).arguments(), isa=isa)
    assert_bitwise("out", without, out)
    assert maps.shape == (2, 45, 0)


# --- bounds ---------------------------------------------------------------------------------------------------------


def raw_call(q, k, v, out, maps, sizes=None, tables=None, **changes):
    """The native function on tensors, for arguments that the wrapper would never pass."""
    arguments = {
        "pointers": tuple(x.data_ptr() for x in (q, k, v, out)),
        "strides": tuple(x.stride() for x in (q, k, v, out)),
        "sizes": sizes or (*q.shape[:2], k.shape[1], q.shape[2], *k.shape[2:], maps.shape[2], 1, 1),
        "tables": tables or ((0, 0),) * 8,
        "maps": maps.data_ptr(),
        "scale": 1.0,
        "dtype": {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}[q.dtype],
        "num_threads": 2,
        "isa": "auto",
    }
    native().attention_fwd_cpu(**{**arguments, **changes})


@every_isa
@every_dtype
@pytest.mark.parametrize("head_dim", [1, 7, 16, 40])
def test_writes_nothing_beside_its_outputs(isa, dtype, head_dim):
    inputs = make_attention_inputs(replace(EDITED, dtype=dtype, head_dim=head_dim, columns=3))
    samples, seqlen_q, heads, _ = inputs.q.shape
    # head-major, one spare row after each head and spare values around each row
    store = torch.full((samples, heads, seqlen_q + 1, head_dim + 2), 7.0, dtype=dtype)
    out = store[:, :, :seqlen_q, 1 : 1 + head_dim].transpose(1, 2)
    map_store = torch.full((samples * seqlen_q * 3 + 64,), 7.0)
    maps = map_store[32:-32].view(samples, seqlen_q, 3)
    readout = (inputs.readout.data_ptr(), inputs.readout.stride(0))
    raw_call(
        inputs.q, inputs.k, inputs.v, out, maps, tables=(*((0, 0),) * 4, readout, *((0, 0),) * 3),
        scale=inputs.scale, isa=isa,
    )  # fmt: skip
    plain = replace(inputs, **dict.fromkeys((*TABLES, "query_labels", "key_labels", "key_padding")))
    expected, expected_maps = attention_fwd_cpu(plain.arguments(), isa=isa)
    assert_bitwise("out", out, expected)
    assert_bitwise("maps", maps, expected_maps)
    out.fill_(7.0)
    maps.fill_(7.0)
    assert (store == 7.0).all() and (map_store == 7.0).all()


@every_isa
@pytest.mark.parametrize(
    ("samples", "seqlen_q", "seqlen_k", "heads"),
    [(0, 5, 5, 2), (2, 0, 5, 2), (2, 5, 0, 2), (2, 5, 5, 0), (0, 0, 0, 0)],
)
def test_empty_sizes(isa, samples, seqlen_q, seqlen_k, heads):
    q, k = torch.zeros(samples, seqlen_q, heads, 8), torch.zeros(samples, seqlen_k, heads, 8)
    out, maps = attention_fwd_cpu(Arguments(q, k, k, 1.0, readout=torch.ones(1, seqlen_k, 3)), isa=isa)
    assert out.shape == q.shape and maps.shape == (samples, seqlen_q, 3)
    assert not out.any() and not maps.any()


def test_peak_memory_has_no_part_of_size_queries_times_keys():
    """(2, 8, 4096, 4096, 40): the probabilities would be 1 GiB; packed K and V are 22 MiB, and out is 10."""
    script = """
import resource, torch
from weft.kernels.attention.arguments import Arguments
from weft.ops.attention.cpu import attention_fwd_cpu
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def run(n):
    q, k, v = (torch.ones(2, n, 8, 40) for _ in range(3))
    labels = torch.zeros(1, n, dtype=torch.int32)
    tables = [torch.ones(1, 4, 4) for _ in range(4)]
    before = peak()
    attention_fwd_cpu(Arguments(q, k, v, 1.0, *tables, torch.ones(1, n, 8), labels, labels), num_threads=2)
    return peak() - before
run(64)
print(run(4096))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 * 1024  # KiB


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"isa": "avx1024"}, "instruction set must be one .* got 'avx1024'"),
        ({"num_threads": 0}, "`num_threads` must be at least 1; got 0"),
        ({"dtype": 9}, "`dtype` must be float32, float16 or bfloat16; got code 9"),
        ({"scale": float("inf")}, "`scale` must be finite"),
        ({"sizes": (1, 4, 5, 2, 2, 257, 0, 1, 1)}, "D must be at most 256; got 257"),
        ({"sizes": (1, -4, 5, 2, 2, 8, 0, 1, 1)}, "`Nq` must not be negative; got -4"),
        ({"sizes": (1, 4, 5, 2, 3, 8, 0, 1, 1)}, "H must be a multiple of Hk; got 2 and 3"),
        ({"sizes": (1, 4, 5, 2, 0, 8, 0, 1, 1)}, "H must be a multiple of Hk; got 2 and 0"),
        ({"sizes": (2**40, 4, 5, 2**30, 2**30, 8, 0, 1, 1)}, "sizes must multiply to less than"),
        ({"sizes": (1, 2**32, 5, 2, 2, 8, 0, 1, 1)}, "must be below 2\\^31"),
        ({"sizes": (1, 4, 5, 2, 2, 8, 3, 1, 1)}, "`readout` must not be null; it has 15 elements"),
        ({"pointers": (0, 1, 1, 1)}, "`q` must not be null; it has 64 elements"),
        ({"strides": ((64, 16, 8, 2),) * 4}, "`q` must have unit last stride"),
        ({"strides": ((64, 16, -8, 1),) * 4}, "strides of `q` must not be negative; got -8"),
        ({"strides": ((64, 2**60, 8, 1),) * 4}, "strides of `q` reach past"),
    ],
    ids=lambda x: "_".join(x) if isinstance(x, dict) else "",
)
def test_refuses_before_it_touches_memory(changes, message):
    q, k, maps = torch.zeros(1, 4, 2, 8), torch.zeros(1, 5, 2, 8), torch.zeros(1, 4, 0)
    with pytest.raises(ValueError, match=message):
        raw_call(q, k, k, q.clone(), maps, **changes)


@pytest.mark.parametrize("place", range(4))
def test_strides_of_every_operand_are_looked_at(place):
    q, k, maps = torch.zeros(1, 4, 2, 8), torch.zeros(1, 5, 2, 8), torch.zeros(1, 4, 0)
    strides = [x.stride() for x in (q, k, k, q)]
    strides[place] = (*strides[place][:2], -8, 1)
    with pytest.raises(ValueError, match=f"strides of `{('q', 'k', 'v', 'out')[place]}` must not be negative; got -8"):
        raw_call(q, k, k, q.clone(), maps, strides=tuple(strides))


@pytest.mark.parametrize("place", range(8))
def test_batch_strides_of_every_table_are_looked_at(place):
    names = ("alpha", "beta", "gamma", "delta", "readout", "query_labels", "key_labels", "key_padding")
    q, k, maps = torch.zeros(2, 4, 2, 8), torch.zeros(2, 5, 2, 8), torch.zeros(2, 4, 3)
    memory = torch.zeros(64, dtype=torch.int32)
    tables = [(0, 0)] * 8
    tables[4] = (memory.data_ptr(), 0)  # the columns of `maps` need one
    tables[place] = (memory.data_ptr(), -1)
    with pytest.raises(ValueError, match=f"batch stride of `{names[place]}` must be 0 or at least"):
        raw_call(q, k, k, q.clone(), maps, tables=tuple(tables))


@pytest.mark.parametrize("label", [-1, 4, 2**31 - 1])
def test_names_the_label_out_of_range_and_its_place(label):
    inputs = make_attention_inputs(EDITED)
    inputs.query_labels[1, 17] = label
    message = rf"`query_labels` must lie in \[0, Lq\) = \[0, 4\); got {label} at \[1, 17\]"
    with pytest.raises(ValueError, match=message):
        attention_fwd_cpu(inputs.arguments())
    inputs = make_attention_inputs(replace(EDITED, key_labels=4))
    inputs.key_labels[1, 76] = label
    message = message.replace("query", "key").replace("Lq", "Lk").replace("17", "76")
    with pytest.raises(ValueError, match=message):
        attention_fwd_cpu(inputs.arguments())


def test_threads_are_the_host_programs():
    torch.ones(100, 100) @ torch.ones(100, 100)
    assert native().parallel_runtime() != "std::thread"


# --- AMX, emulated --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seqlen_k", [1, 31, 33, 77, 129, 300])
@pytest.mark.parametrize("head_dim", [1, 16, 33, 40, 64, 80, 160])
def test_emulated_amx(native_with_emulated_amx, use_native, seqlen_k, head_dim):
    use_native(native_with_emulated_amx)
    for seqlen_q in (1, 17, 45):
        case = replace(EDITED, dtype=torch.bfloat16, seqlen_q=seqlen_q, seqlen_k=seqlen_k, head_dim=head_dim)
        assert_accurate(make_attention_inputs(case), "amx")
