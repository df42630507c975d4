"""Bad input: one clear error for each way to be wrong, before anything is computed."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import weft
from weft.ops import Edit, attention
from weft.ops.attention.op import ATTENTION
from weft.testing import AttentionCase, make_attention_inputs

B, NQ, NK, H, D = 2, 6, 5, 3, 8


def arguments(**changed: Any) -> dict[str, Any]:
    """A call that is right but for what is ``changed``."""
    q, k = torch.zeros(B, NQ, H, D), torch.zeros(B, NK, H, D)
    return {"q": q, "k": k, "v": k.clone(), **changed}


def edit(*shape: int, **others: Any) -> Edit:
    return Edit(delta=torch.zeros(shape or (1, 2, 3)), **others)


def labels(length: int, dtype: torch.dtype = torch.int64, batch: int = 1) -> Tensor:
    return torch.zeros(batch, length, dtype=dtype)


QK = torch.zeros(B, NQ, H, D)
TYPES = {
    "q is a list": (arguments(q=[[1.0]]), "`q` must be a tensor; got list"),
    "v is None": (arguments(v=None), "`v` must be a tensor; got NoneType"),
    "q integer": (arguments(q=QK.int()), "`q` must be float32, bfloat16, float16 or float64; got int32"),
    "q complex": (arguments(q=QK.to(torch.complex64)), "got complex64"),
    "k of another dtype": (
        arguments(k=torch.zeros(B, NK, H, D).bfloat16()),
        "`k` must have the dtype of q, float32; got bfloat16; convert it with .to(q.dtype)",
    ),
    "v of another dtype": (arguments(v=torch.zeros(B, NK, H, D).half()), "`v` must have the dtype of q, float32; got"),
    "scale is a string": (arguments(scale="1"), "`scale` must be a number or None; got str"),
    "scale is a bool": (arguments(scale=True), "`scale` must be a number or None; got bool"),
    "scale is a tensor": (arguments(scale=torch.ones(())), "`scale` must be a number or None; got Tensor"),
    "edit is a dict": (arguments(edit={"alpha": 1}), "`edit` must be a weft.ops.Edit or None; got dict"),
    "readout is a list": (arguments(readout=[1]), "`readout` must be a tensor or None; got list"),
    "readout of another dtype": (
        arguments(readout=torch.zeros(1, NK, 2).half()),
        "`readout` must be float32 for float32 q; got float16; convert it with .to(torch.float32)",
    ),
    "float64 tables beside float32": (
        arguments(edit=Edit(alpha=torch.ones(1, 2, 3, dtype=torch.float64))),
        "`alpha` must be float32 for float32 q; got float64",
    ),
    "query labels are a list": (
        arguments(edit=edit(), query_labels=[0]),
        "`query_labels` must be a tensor or None; got list",
    ),
    "key labels are floats": (
        arguments(edit=edit(), key_labels=torch.zeros(1, NK)),
        "`key_labels` must be an integer tensor; got float32",
    ),
    "query labels are bools": (
        arguments(edit=edit(), query_labels=labels(NQ, torch.bool)),
        "`query_labels` must be an integer tensor; got bool",
    ),
    "padding is a list": (arguments(key_padding=[False]), "`key_padding` must be a tensor or None; got list"),
    "padding is 0 and 1": (
        arguments(key_padding=labels(NK)),
        "`key_padding` must be bool, True where a key is padding; got int64",
    ),
}

VALUES = {
    "q of three axes": (arguments(q=QK[0]), f"`q` must be [B, Nq, H, D]; got [{NQ}, {H}, {D}], 3 axes"),
    "k of five axes": (arguments(k=QK[None]), "`k` must be [B, Nk, Hk, D]; got [1, 2, 6, 3, 8], 5 axes"),
    "k of another batch": (
        arguments(k=torch.zeros(1, NK, H, D)),
        f"`k` must be [B, Nk, Hk, D] = [{B}, Nk, {H} or a divisor, {D}] to match q; got [1, {NK}, {H}, {D}]",
    ),
    "k of heads that do not divide": (
        arguments(k=torch.zeros(B, NK, 2, D)),
        f"`k` must be [B, Nk, Hk, D] = [{B}, Nk, {H} or a divisor, {D}] to match q; got [2, 5, 2, 8]",
    ),
    "k of more heads": (arguments(k=torch.zeros(B, NK, 2 * H, D)), "to match q; got [2, 5, 6, 8]"),
    "k of no head": (arguments(k=torch.zeros(B, NK, 0, D)), "to match q; got [2, 5, 0, 8]"),
    "v of more heads than k": (
        arguments(k=torch.zeros(B, NK, 1, D)),
        f"`v` must have the shape of k, [{B}, {NK}, 1, {D}]",
    ),
    "k of another width": (arguments(k=torch.zeros(B, NK, H, 4)), "to match q; got [2, 5, 3, 4]"),
    "v of another length": (arguments(v=QK), f"`v` must have the shape of k, [{B}, {NK}, {H}, {D}]; got"),
    "width over 256": (
        {name: torch.zeros(1, 2, 1, 257) for name in "qkv"},
        "head width D must be 1 to 256; got 257 in q [1, 2, 1, 257]",
    ),
    "width 0": ({name: torch.zeros(1, 2, 1, 0) for name in "qkv"}, "head width D must be 1 to 256; got 0"),
    "no head": ({name: torch.zeros(1, 2, 0, 8) for name in "qkv"}, "needs at least one head; got H = 0"),
    "stride along D": (
        arguments(q=torch.zeros(B, NQ, D, H).transpose(2, 3)),
        "`q` must have unit stride along D; got strides (144, 24, 1, 3); make it so with .contiguous()",
    ),
    "every second value": (arguments(v=torch.zeros(B, NK, H, 2 * D)[..., ::2]), "`v` must have unit stride along D"),
    "expanded along D": (arguments(k=torch.zeros(B, NK, H, 1).expand(B, NK, H, D)), "`k` must have unit stride"),
    "k elsewhere": (
        arguments(k=torch.zeros(B, NK, H, D, device="meta")),
        "`k` must be on the device of q, cpu; got meta",
    ),
    "v elsewhere": (arguments(v=torch.zeros(B, NK, H, D, device="meta")), "`v` must be on the device of q, cpu"),
    "scale infinite": (arguments(scale=math.inf), "`scale` must be finite; got inf"),
    "scale not a number": (arguments(scale=math.nan), "`scale` must be finite; got nan"),
    "readout of two axes": (
        arguments(readout=torch.zeros(NK, 2)),
        f"`readout` must be [B or 1, Nk, M] = [{B} or 1, {NK}, M]; got [5, 2]",
    ),
    "readout over queries": (arguments(readout=torch.zeros(1, NQ, 2)), "`readout` must be [B or 1, Nk, M]"),
    "readout of another batch": (
        arguments(readout=torch.zeros(3, NK, 2)),
        "`readout` must have batch 1 or B = 2; got [3, 5, 2]",
    ),
    "readout elsewhere": (
        arguments(readout=torch.zeros(1, NK, 2, device="meta")),
        "`readout` must be on the device of q, cpu; got meta",
    ),
    "tables of another batch": (arguments(edit=edit(3, 2, 3)), "`delta` must have batch 1 or B = 2; got [3, 2, 3]"),
    "query labels without edit": (
        arguments(query_labels=labels(NQ)),
        "`query_labels` needs an edit whose tables it looks up; got none",
    ),
    "key labels without edit": (arguments(key_labels=labels(NK)), "`key_labels` needs an edit"),
    "query labels too few": (
        arguments(edit=edit(), query_labels=labels(NK)),
        f"`query_labels` must be [B or 1, Nq] = [{B} or 1, {NQ}]; got [1, {NK}]",
    ),
    "key labels of one axis": (
        arguments(edit=edit(), key_labels=labels(NK)[0]),
        f"`key_labels` must be [B or 1, Nk] = [{B} or 1, {NK}]; got [5]",
    ),
    "key labels of another batch": (
        arguments(edit=edit(), key_labels=labels(NK, batch=3)),
        "`key_labels` must be [B or 1, Nk] = [2 or 1, 5]; got [3, 5]",
    ),
    "labels elsewhere": (
        arguments(edit=edit(), key_labels=labels(NK).to("meta")),
        "`key_labels` must be on the device of q, cpu; got meta",
    ),
    "padding over queries": (
        arguments(key_padding=labels(NQ, torch.bool)),
        "`key_padding` must be [B or 1, Nk] = [2 or 1, 5]; got [1, 6]",
    ),
    "padding elsewhere": (
        arguments(key_padding=labels(NK, torch.bool).to("meta")),
        "`key_padding` must be on the device of q, cpu; got meta",
    ),
    "unknown backend": (
        arguments(backend="gpu"),
        "backend: must be one of auto, cuda, triton, cpu, reference; got 'gpu'",
    ),
}


@pytest.mark.parametrize(("call", "message"), TYPES.values(), ids=TYPES.keys())
def test_wrong_types(call: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        attention(**call)


@pytest.mark.parametrize(("call", "message"), VALUES.values(), ids=VALUES.keys())
def test_wrong_values(call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        attention(**call)


def test_messages_begin_with_the_op() -> None:
    for call, _ in [*TYPES.values(), *VALUES.values()]:
        with pytest.raises((TypeError, ValueError), match=r"^(attention|backend): "):
            attention(**call)


@pytest.mark.parametrize("gradients", [False, True], ids=["forward", "backward"])
def test_unknown_backend_also_where_gradients_are_wanted(gradients: bool) -> None:
    call = arguments(backend="fast")
    call["q"].requires_grad_(gradients)
    with pytest.raises(ValueError, match="must be one of auto"):
        attention(**call)


def test_wrong_environment_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_BACKEND", "fast")
    with pytest.raises(ValueError, match="WEFT_BACKEND: must be one of auto"):
        attention(**arguments())


# --- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradients", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(
    ("name", "value", "count"),
    [
        ("query_labels", 4, "Lq) = [0, 4)"),
        ("query_labels", -1, "Lq) = [0, 4)"),
        ("key_labels", 5, "Lk) = [0, 5)"),
        ("key_labels", -7, "Lk) = [0, 5)"),
        ("query_labels", 2**32, "Lq) = [0, 4)"),
        ("key_labels", -(2**32) + 1, "Lk) = [0, 5)"),
    ],
)
def test_labels_out_of_range(backend_name, device, call_attention, gradients, name, value, count):
    case = AttentionCase(tables=("alpha",), key_labels=5, label_dtype=torch.int64)
    inputs = make_attention_inputs(case, device=device)
    if device != "cpu":
        pytest.skip("on a GPU the values are not read; out-of-range labels are clamped there")
    getattr(inputs, name)[1, 3] = value
    if gradients:
        inputs = inputs.with_gradients()
    with pytest.raises(ValueError, match=re.escape(f"`{name}` must lie in [0, {count}")):
        call_attention(inputs, backend_name)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_every_integer_dtype_of_labels_means_the_same(backend_name, device, call_attention, dtype):
    case = AttentionCase(tables=("alpha", "delta"), key_labels=5)
    expected, _ = call_attention(make_attention_inputs(case, device=device), backend_name)
    as_dtype = AttentionCase(tables=("alpha", "delta"), key_labels=5, label_dtype=dtype)
    found, _ = call_attention(make_attention_inputs(as_dtype, device=device), backend_name)
    assert torch.equal(found, expected)


# --- edits ----------------------------------------------------------------------------------------------------------

TABLE = torch.zeros(1, 2, 3)


@pytest.mark.parametrize(
    ("tables", "error", "message"),
    [
        ({}, ValueError, "Edit: needs at least one of alpha, beta, gamma, delta; leave the edit out for none"),
        (
            {"alpha": 1.0},
            TypeError,
            "Edit: `alpha` must be a float32 tensor (float64 for float64 attention); got fl",
        ),
        ({"beta": TABLE.int()}, TypeError, "Edit: `beta` must be a float32 tensor"),
        ({"beta": TABLE.half()}, TypeError, "got torch.float16"),
        ({"gamma": TABLE[0]}, ValueError, "Edit: `gamma` must be [B or 1, Lq, Lk], none of them 0; got [2, 3]"),
        ({"gamma": TABLE[:, :0]}, ValueError, "none of them 0; got [1, 0, 3]"),
        (
            {"alpha": TABLE, "delta": TABLE[:, :1]},
            ValueError,
            "Edit: tables must agree in Lq and Lk; `alpha` is [1, 2, 3], `delta` is [1, 1, 3]",
        ),
        (
            {"alpha": TABLE, "delta": TABLE.double()},
            TypeError,
            "Edit: tables must share a dtype; `alpha` is torch.float32, `delta` is torch.float64",
        ),
        (
            {"alpha": TABLE, "delta": TABLE.to("meta")},
            ValueError,
            "Edit: tables must share a device; `alpha` is on cpu, `delta` is on meta",
        ),
    ],
)
def test_wrong_edits(tables, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Edit(**tables)


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma", "delta"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_wrong_table_values(name, value):
    table = TABLE.clone()
    table[0, 1, 2] = value
    if name == "delta" and value == -math.inf:
        assert Edit(delta=table).delta is table
        return
    allowed = "finite or -inf" if name == "delta" else "finite"
    with pytest.raises(ValueError, match=re.escape(f"Edit: `{name}` must be {allowed}; got {value} at [0, 1, 2]")):
        Edit(**{name: table})


def test_an_edit_on_another_device():
    elsewhere = Edit.__new__(Edit)
    object.__setattr__(elsewhere, "alpha", None)
    for name in ("beta", "gamma"):
        object.__setattr__(elsewhere, name, None)
    object.__setattr__(elsewhere, "delta", TABLE.to("meta"))
    with pytest.raises(ValueError, match="`delta` must be on the device of q, cpu; got meta"):
        attention(**arguments(edit=elsewhere))


# --- backends that refuse -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradients", [False, True], ids=["forward", "backward"])
def test_an_explicit_backend_refuses_with_its_reason(gradients: bool) -> None:
    inputs = make_attention_inputs(AttentionCase(dtype=torch.float64))
    q = inputs.q.requires_grad_(gradients)
    with pytest.raises(
        weft.BackendUnavailableError, match=r"attention: `cpu` does not take this call\n  cpu: "
    ) as error:
        attention(q, inputs.k, inputs.v, backend="cpu")
    assert "float64" in str(error.value)


def test_a_backend_that_this_op_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    only_reference = replace(ATTENTION, backends=ATTENTION.backends[-1:])
    monkeypatch.setattr(sys.modules["weft.ops.attention.op"], "ATTENTION", only_reference)
    with pytest.raises(weft.BackendUnavailableError, match="attention: has no `cuda` backend; it has reference"):
        attention(**arguments(backend="cuda"))
