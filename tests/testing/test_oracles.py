"""An oracle earns trust by what it catches: each planted fault below must fail, and the honest result must pass."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from weft.kernels.attention.reference import attention_reference
from weft.testing import (
    LAYOUTS,
    AttentionCase,
    AttentionInputs,
    assert_as_accurate_as_eager,
    assert_bitwise,
    assert_differs,
    assert_unbiased,
    attention_eager,
    cosine,
    error_budget,
    make_attention_inputs,
    relative_l2,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CASE = AttentionCase(
    seqlen_q=33,
    head_dim=16,
    tables=("alpha", "beta", "gamma", "delta"),
    removed=0.2,
    readout="dense",
    padding=0.2,
)


def matrix(seed: int = 0) -> tuple[Tensor, Tensor]:
    """A float64 product and the same from float32."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(50, 300, generator=generator, dtype=torch.float64) for _ in range(2))
    return a @ b.T, a.float() @ b.float().T


def with_one(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x[7, 7] = value
    return x


# --- the oracles ----------------------------------------------------------------------------------------------------


def test_budget_is_eagers_error_and_one_rounding_step() -> None:
    gold, eager = torch.tensor([4.0, -8.0], dtype=torch.float64), torch.tensor([4.5, -8.0])
    assert error_budget(eager, gold, 3.0) == 3 * 0.5 + 8 * torch.finfo(torch.float32).eps
    assert error_budget(eager[:0], gold[:0], 3.0) == 0.0


def test_cancelled_terms_widen_the_budget_by_their_size() -> None:
    zero = torch.zeros(2, dtype=torch.float64)
    honest, wrong = torch.full((2,), 3e-7), torch.full((2,), 3e-5)
    for oracle in (assert_as_accurate_as_eager, assert_unbiased):
        oracle("x", honest, zero.float(), zero, size=1.0)
        with pytest.raises(AssertionError):
            oracle("x", honest, zero.float(), zero)
        with pytest.raises(AssertionError):
            oracle("x", wrong, zero.float(), zero, size=1.0)


def test_accuracy_oracle_passes_another_order_of_summation() -> None:
    gold, eager = matrix()
    assert_as_accurate_as_eager("x", eager, eager, gold)
    a, b = (torch.randn(50, 300, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    halves = a[:, :150] @ b[:, :150].T + a[:, 150:] @ b[:, 150:].T
    assert_as_accurate_as_eager("x", halves, a @ b.T, a.double() @ b.double().T)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda x: with_one(x, math.nan), r"error nan at \[7, 7\]"),
        (lambda x: with_one(x, math.inf), r"error inf at \[7, 7\]"),
        (lambda x: with_one(x, x[7, 7].item() + 0.0625), r"error 0.0625 at \[7, 7\] is over the budget"),
        (lambda x: x[:-1], "shape"),
        (lambda x: x.double(), "torch.float64, expected torch.float32"),
        (lambda x: x.bfloat16().float(), "is over the budget"),
        (lambda x: x.roll(1, 0), "is over the budget"),
    ],
    ids=["nan", "inf", "one_element", "shape", "dtype", "rounded_too_early", "rows_shifted"],
)
def test_accuracy_oracle_catches(fault: Callable[[Tensor], Tensor], message: str) -> None:
    gold, eager = matrix()
    with pytest.raises(AssertionError, match=message):
        assert_as_accurate_as_eager("x", fault(eager), eager, gold)


@pytest.mark.parametrize(
    "fault",
    [lambda x: x * (1 + 2e-6), lambda x: with_one(x, math.nan), lambda x: x * 0, lambda x: -x],
    ids=["bias", "nan", "nothing", "sign"],
)
def test_bulk_oracle_catches(fault: Callable[[Tensor], Tensor]) -> None:
    gold, eager = matrix()
    assert_unbiased("x", eager, eager, gold)
    with pytest.raises(AssertionError):
        assert_unbiased("x", fault(eager), eager, gold)


def test_bulk_oracle_sees_what_the_largest_error_hides() -> None:
    """One element where eager is poor widens the budget for all; a bias of every element then fits under it."""
    gold, eager = matrix()
    eager = with_one(eager, gold[7, 7].item() + 2e-2)
    biased = eager + 0.03
    assert_as_accurate_as_eager("x", with_one(biased, gold[7, 7].item()), eager, gold)
    with pytest.raises(AssertionError, match="L2 error"):
        assert_unbiased("x", biased, eager, gold)


def test_results_that_differ_by_rounding_do_not_differ() -> None:
    gold, eager = matrix()
    for other in (eager + 1, with_one(eager, eager[7, 7].item() + 1)):
        assert_differs(eager, other)
    for other in (eager, gold.float(), eager * (1 + 1e-5), with_one(eager, math.nan)):
        with pytest.raises(AssertionError, match=r"must differ by more than 0\.001"):
            assert_differs(eager, other)
    assert_differs(eager, eager * (1 + 1e-5), share=1e-6)
    with pytest.raises(AssertionError, match="shapes"):
        assert_differs(eager, eager[:-1])


def test_measures_of_zero() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    assert relative_l2(zero, zero) == 0.0 and relative_l2(one, zero) == math.inf and relative_l2(zero, one) == 1.0
    assert cosine(zero, zero) == 1.0 and cosine(one, zero) == 0.0
    assert cosine(one, -one) == pytest.approx(-1.0)


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES, torch.bool])
def test_bitwise_oracle(dtype: torch.dtype) -> None:
    x = torch.randn(6, 5).to(dtype)
    assert_bitwise("x", x.T, x.T.contiguous())
    changed = x.clone()
    changed[2, 3] = ~x[2, 3] if dtype == torch.bool else torch.nextafter(x[2, 3], x[2, 3] + 1)
    with pytest.raises(AssertionError, match=r"1 of 30 values differ in their bits; at \[2, 3\]"):
        assert_bitwise("x", changed, x)


def test_bitwise_oracle_distinguishes_zeros_and_knows_nan() -> None:
    nan = torch.tensor([math.nan])
    assert_bitwise("x", nan, nan.clone())
    with pytest.raises(AssertionError, match="differ in their bits"):
        assert_bitwise("x", torch.tensor([0.0]), torch.tensor([-0.0]))
    with pytest.raises(AssertionError, match=r"expected torch\.float64"):
        assert_bitwise("x", nan, nan.double())


# --- planted faults in attention itself -----------------------------------------------------------------------------


def attention_gold(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    return attention_reference(inputs.in_float64().arguments())


def with_change(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[AttentionInputs], AttentionInputs]:
    """The fault of reading input ``name`` wrongly."""

    def apply(inputs: AttentionInputs) -> AttentionInputs:
        changed = inputs.mapped(lambda x: change(x) if x is getattr(inputs, name) else x)
        assert changed is not inputs
        return changed

    return apply


def without_last_key(inputs: AttentionInputs) -> AttentionInputs:
    padding = inputs.key_padding.clone()
    padding[:, -2:] = True
    return inputs.mapped(lambda x: padding if x is inputs.key_padding else x)


def removed_in_statistics(inputs: AttentionInputs) -> AttentionInputs:
    """-inf taken for a very negative bias: the key keeps its say in the row maximum and minimum."""
    return with_change("delta", lambda x: x.clamp(min=-1e4))(inputs)


FAULTS = {
    "last keys forgotten": without_last_key,
    "removed keys in the statistics": removed_in_statistics,
    "padding ignored": with_change("key_padding", torch.zeros_like),
    "table of the first sample for all": with_change("alpha", lambda x: x[:1].expand_as(x)),
    "table transposed labels": with_change("beta", lambda x: x.roll(1, 1)),
    "query label of the neighbour": with_change("query_labels", lambda x: x.roll(1, 1)),
    "key labels reversed": with_change("key_labels", lambda x: x.flip(1)),
    "values one key off": with_change("v", lambda x: x.roll(1, 1)),
    "heads swapped in q": with_change("q", lambda x: x.flip(2)),
    "logits a little too small": with_change("q", lambda x: x * (1 - 1e-4)),
    "last read-out column dropped": with_change("readout", lambda x: x * (torch.arange(x.shape[2]) < x.shape[2] - 1)),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_accuracy_oracle_catches_in_attention(fault: Callable[[AttentionInputs], AttentionInputs]) -> None:
    inputs = make_attention_inputs(CASE)
    gold, eager = attention_gold(inputs), attention_eager(inputs)
    faulty = attention_eager(fault(inputs))
    caught = 0
    for name, f, e, g in zip(("out", "maps"), faulty, eager, gold, strict=True):
        try:
            assert_as_accurate_as_eager(name, f, e, g)
        except AssertionError:
            caught += 1
    assert caught, "the oracle let the fault through"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sixteen_bit_maps_are_held_to_float32(dtype: torch.dtype) -> None:
    """Maps are float32 whatever q is: logits rounded to 16 bits on the way must not pass."""
    inputs = make_attention_inputs(AttentionCase(dtype=dtype, readout="one_hot"))
    q, k = inputs.q.transpose(1, 2), inputs.k.transpose(1, 2)
    logits = ((q.float() @ k.float().transpose(-1, -2)) * inputs.scale).to(torch.bfloat16).float()
    rounded = (logits.softmax(-1) @ inputs.readout[:, None]).mean(1)
    _, gold = attention_gold(inputs)
    _, eager = attention_eager(inputs)
    with pytest.raises(AssertionError, match="over the budget"):
        assert_as_accurate_as_eager("maps", rounded, eager, gold)


# --- the input makers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seqlen_k", [33, 77])
def test_layouts_hold_the_same_values(layout: str, seqlen_k: int) -> None:
    case = AttentionCase(seqlen_q=33, seqlen_k=seqlen_k, layout=layout)
    inputs = make_attention_inputs(case)
    plain = make_attention_inputs(AttentionCase(seqlen_q=33, seqlen_k=seqlen_k))
    expected = (plain.q, plain.k, plain.v)
    if layout == "expanded":
        expected = (plain.q, plain.k[:1].expand_as(plain.k), plain.v[:1].expand_as(plain.v))
    for found, wanted in zip((inputs.q, inputs.k, inputs.v), expected, strict=True):
        assert torch.equal(found, wanted)
        assert found.stride(-1) == 1


def test_layouts_are_strided_as_they_say() -> None:
    def k_of(layout: str, seqlen_q: int = 33) -> Tensor:
        return make_attention_inputs(AttentionCase(seqlen_q=seqlen_q, seqlen_k=33, layout=layout)).k

    assert k_of("contiguous").stride() == (33 * 160, 160, 40, 1)
    assert k_of("fused").stride() == (33 * 480, 480, 40, 1)
    assert k_of("fused", seqlen_q=34).stride() == (33 * 320, 320, 40, 1)
    assert k_of("head_major").stride() == (33 * 160, 40, 33 * 40, 1)
    assert k_of("sequence_major").stride() == (160, 320, 40, 1)
    assert k_of("sliced").stride() == (33 * 180, 180, 45, 1) and k_of("sliced").storage_offset() == 3
    assert k_of("expanded").stride(0) == 0


def test_inputs_come_from_the_seed_alone() -> None:
    first, again, other = (make_attention_inputs(CASE, seed) for seed in (3, 3, 4))
    for name, x in first.floats().items():
        assert_bitwise(name, x, getattr(again, name))
        assert not torch.equal(x, getattr(other, name))


def test_conversions_keep_values_and_strides() -> None:
    inputs = make_attention_inputs(AttentionCase(layout="head_major", tables=("delta",), dtype=torch.bfloat16))
    leaves = inputs.with_gradients()
    assert set(leaves.floats()) == {"q", "k", "v", "delta"}
    for name, x in leaves.floats().items():
        assert x.requires_grad and x.is_leaf and x.stride() == getattr(inputs, name).stride()
    assert all(x.dtype == torch.float64 for x in inputs.in_float64().floats().values())
    assert inputs.in_float64().query_labels.dtype == torch.int32
