"""A key that a row may not see is as if it were absent: whatever its k, v and row of the read-out hold.

The other tests of ``attention`` draw such values at keys that no row may see (``AttentionCase.hostile``); here a key
is hidden from some rows and seen by others, and padding is looked at by itself.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from weft.testing import AttentionCase, make_attention_inputs, poison_for_some_rows

TABLES = ("alpha", "beta", "gamma", "delta")
HIDDEN = AttentionCase(seqlen_q=45, tables=TABLES, removed=0.1, readout="dense", heads=2)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("names", [("k",), ("v",), ("readout",), ("k", "v", "readout")], ids="+".join)
@pytest.mark.parametrize("tables", [TABLES, ("delta",)], ids="+".join)
@pytest.mark.parametrize("seqlen_k", [77, 300])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_that_do_not_see_a_nan_are_spared_it(
    backend_name, device, call_attention, names, tables, seqlen_k, dtype
):
    case = replace(HIDDEN, seqlen_k=seqlen_k, dtype=dtype, tables=tables)
    inputs = make_attention_inputs(case, device=device)
    poisoned, seeing = poison_for_some_rows(inputs, names)
    assert seeing.any() and not seeing.all()
    for name, found, expected in zip(
        ("out", "maps"), call_attention(poisoned, backend_name), call_attention(inputs, backend_name), strict=True
    ):
        tolerance = 8 * torch.finfo(found.dtype).eps
        torch.testing.assert_close(found[~seeing], expected[~seeing], rtol=tolerance, atol=tolerance, msg=name)
        # k spoils all that its rows give, v and the read-out what is read from them
        spoilt = "k" in names or {"out": "v", "maps": "readout"}[name] in names
        assert found[seeing].isnan().all() if spoilt else found[seeing].isfinite().all()


@pytest.mark.parametrize("names", [("k",), ("v",), ("readout",), ("k", "v", "readout")], ids="+".join)
def test_gradients_of_rows_that_do_not_see_a_nan(backend_name, device, call_attention, names):
    # each half of the rows has keys of its own
    inputs = make_attention_inputs(replace(HIDDEN, query_labels=2, removed=0.5), device=device)
    poisoned, seeing = poison_for_some_rows(inputs, names)
    # keys that are valid for a row that is spoilt may be spoilt by it
    touched = (inputs.valid() & seeing[..., None]).any(1)
    assert not touched.all()

    def gradients(inputs):
        leaves = inputs.with_gradients()
        out, maps = (x[~seeing].square().sum() for x in call_attention(leaves, backend_name))
        return torch.autograd.grad(out + maps, [leaves.q, leaves.k, leaves.v])

    rows = (~seeing, ~touched, ~touched)
    for name, found, expected, where in zip("qkv", gradients(poisoned), gradients(inputs), rows, strict=True):
        torch.testing.assert_close(found[where], expected[where], rtol=1e-4, atol=1e-5, msg=f"d{name}")


@pytest.mark.parametrize("arriving", [1.0, torch.nan], ids=["finite", "nan"])
def test_padding_has_a_gradient_of_zero(backend_name, device, call_attention, arriving):
    inputs = make_attention_inputs(replace(HIDDEN, padding=0.3, hostile=True), device=device).with_gradients()
    out, maps = call_attention(inputs, backend_name)
    loss = (out.sum() + maps.sum()) * arriving
    for gradient in torch.autograd.grad(loss, [inputs.k, inputs.v, inputs.readout]):
        assert not gradient[inputs.key_padding].any()
