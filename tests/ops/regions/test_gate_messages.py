"""Every way to call ``concept_gate`` wrongly has its own message: what must hold, what came, what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from weft.ops import regions

MAPS, STRENGTHS = torch.rand(2, 16, 3), torch.ones(4, 3)
MESSAGES: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "maps_type": (([1.0], STRENGTHS), {}, TypeError, "`maps` must be a tensor [B, N, K]; got list"),
    "maps_rank": ((MAPS[0], STRENGTHS), {}, ValueError, "`maps` must be [B, N, K]; got [16, 3], 2 axes"),
    "maps_dtype": ((MAPS.int(), STRENGTHS), {}, TypeError, "`maps` must be a float tensor; got int32"),
    "strengths_type": ((MAPS, 1.0), {}, TypeError, "`strengths` must be a tensor [B', K]; got float"),
    "strengths_dtype": (
        (MAPS.bfloat16(), STRENGTHS.bfloat16()),
        {},
        TypeError,
        "`strengths` must be float32 beside maps of bfloat16; got bfloat16",
    ),
    "strengths_double": (
        (MAPS.double(), STRENGTHS),
        {},
        TypeError,
        "`strengths` must be float64 beside maps of float64; got float32",
    ),
    "strengths_rows": (
        (MAPS, STRENGTHS[:3]),
        {},
        ValueError,
        "`strengths` must be [B', K] = [a multiple of 2, 3] to match maps; got [3, 3]",
    ),
    "strengths_concepts": (
        (MAPS, STRENGTHS[:, :2]),
        {},
        ValueError,
        "= [a multiple of 2, 3] to match maps; got [4, 2]",
    ),
    "strengths_none": ((MAPS[:0], STRENGTHS), {}, ValueError, "= [a multiple of 0, 3] to match maps; got [4, 3]"),
    "strengths_device": (
        (MAPS, STRENGTHS.to("meta")),
        {},
        ValueError,
        "`strengths` must be on the device of maps, cpu; got meta",
    ),
    "rule_name": (
        (MAPS, STRENGTHS, "mean"),
        {},
        ValueError,
        "`rule` must be one of 'median', 'otsu' or a number in [0, 1); got 'mean'",
    ),
    "rule_type": ((MAPS, STRENGTHS, None), {}, TypeError, "`rule` must be a number; got None"),
    "rule_range": (
        (MAPS, STRENGTHS, 1.0),
        {},
        ValueError,
        "a share of the range of a map, must be in [0, 1); got 1.0",
    ),
    "overlap": (
        (MAPS, STRENGTHS),
        {"overlap": "first"},
        ValueError,
        "`overlap` must be one of 'largest', 'sum'; got 'first'",
    ),
    "out_type": ((MAPS, STRENGTHS), {"out": 1}, TypeError, "`out` must be a tensor [B', N, K]; got int"),
    "out_dtype": (
        (MAPS, STRENGTHS),
        {"out": torch.empty(4, 16, 3, dtype=torch.float16)},
        TypeError,
        "`out` must have the dtype of strengths, float32; got float16",
    ),
    "out_shape": (
        (MAPS, STRENGTHS),
        {"out": torch.empty(2, 16, 3)},
        ValueError,
        "`out` must be [B', N, K] = [4, 16, 3], contiguous; got [2, 16, 3]",
    ),
    "out_layout": (
        (MAPS, STRENGTHS),
        {"out": torch.empty(4, 3, 16).transpose(1, 2)},
        ValueError,
        "got [4, 16, 3], not contiguous",
    ),
    "out_device": (
        (MAPS, STRENGTHS),
        {"out": torch.empty(4, 16, 3, device="meta")},
        ValueError,
        "`out` must be on the device of maps, cpu; got meta",
    ),
    "out_gradient": (
        (MAPS, STRENGTHS),
        {"out": torch.empty(4, 16, 3, requires_grad=True)},
        ValueError,
        "`out` must not require a gradient",
    ),
    "backend": ((MAPS, STRENGTHS), {"backend": "gpu"}, ValueError, "must be one of auto, cuda, triton"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_message(name: str) -> None:
    arguments, options, error, text = MESSAGES[name]
    with pytest.raises(error) as caught:
        regions.concept_gate(*arguments, **options)
    assert type(caught.value) is error
    message = str(caught.value)
    assert message.startswith("backend: " if name == "backend" else "regions.concept_gate: ") and text in message
