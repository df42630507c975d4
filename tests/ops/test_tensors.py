"""Tensors of unusual kinds: each gives the values of the plain tensor that it stands for, or one clear error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from weft.ops import Edit, attention, bounded_logit, lowrank_linear, regions


class Marked(Tensor):
    """A subclass without behaviour of its own."""


def in_inference_mode(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


# what stands for the same values
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "parameter": torch.nn.Parameter,
    "subclass": lambda x: x.as_subclass(Marked),
    "inference": in_inference_mode,
    "lazily negated": lambda x: torch._neg_view(-x),
    "offset": lambda x: torch.cat([x.new_ones(3), x.flatten()])[3:].view(x.shape),
}
# what has no strides to walk along
SPARSE: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse_coo": Tensor.to_sparse,
    "_mkldnn": Tensor.to_mkldnn,
    "a nested tensor": lambda x: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_values(op_call, kind):
    tensors = op_call.to(torch.float32)
    expected = op_call.function(*tensors)
    for place in range(len(tensors)):
        given = [KINDS[kind](x) if i == place else x for i, x in enumerate(tensors)]
        with torch.no_grad():
            torch.testing.assert_close(op_call.function(*given).as_subclass(Tensor), expected, rtol=1e-6, atol=1e-6)


def test_zeros_without_memory(op_call):
    """Forward-mode differentiation makes such tensors of tangents that are zero."""
    first, *others = op_call.to(torch.float32)
    expected = op_call.function(torch.zeros_like(first), *others)
    found = op_call.function(torch._efficientzerotensor(first.shape), *others)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", SPARSE)
def test_no_strides_are_refused(op_call, kind):
    tensors = op_call.to(torch.float32)
    for place in range(op_call.lowered):
        given = [SPARSE[kind](x) if i == place else x for i, x in enumerate(tensors)]
        with pytest.raises(TypeError, match=rf"{op_call.name}: `\w+` must be dense, .*; got {kind}; (convert|pad) it"):
            op_call.function(*given)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool, torch.float8_e5m2], ids=str)
def test_dtypes_that_are_no_floats_of_torch(op_call, dtype):
    tensors = op_call.to(torch.float32)
    with pytest.raises(TypeError, match=r"must be float32, bfloat16, float16 or float64; got"):
        op_call.function(*[x.to(dtype) if i < op_call.lowered else x for i, x in enumerate(tensors)])


def test_two_devices(op_call):
    tensors = op_call.to(torch.float32)
    for place in range(1, len(tensors)):
        given = [x.to("meta") if i == place else x for i, x in enumerate(tensors)]
        with pytest.raises(ValueError, match=r"must (be on the device of \w+, cpu; got meta|share a device)"):
            op_call.function(*given)


def test_shapes_without_values(op_call):
    expected = op_call.function(*op_call.to(torch.float32))
    tensors = op_call.to(torch.float32)
    with FakeTensorMode() as mode:
        found = op_call.function(*map(mode.from_tensor, tensors))
    assert found.shape == expected.shape and found.dtype == expected.dtype


def test_an_edit_without_values():
    q, k = torch.empty(1, 3, 1, 4, device="meta"), torch.empty(1, 5, 1, 4, device="meta")
    labels = torch.zeros(1, 5, dtype=torch.int64, device="meta")
    edit = Edit(alpha=torch.empty(1, 1, 2, device="meta"))
    assert attention(q, k, k, edit=edit, key_labels=labels).shape == q.shape


# --- gradients ------------------------------------------------------------------------------------------------------


def reversed_axes(x: Tensor) -> Tensor:
    return x.permute(list(range(x.ndim))[::-1])


# forms of one arriving gradient
ARRIVING: dict[str, Callable[[Tensor], Tensor]] = {
    "reversed axes": lambda dy: reversed_axes(reversed_axes(dy).contiguous()),
    "expanded": lambda dy: torch.ones(()).expand(dy.shape),
    "every second": lambda dy: torch.stack([dy, dy + 1], -1)[..., 0],
    "lazily negated": lambda dy: torch._neg_view(-dy),
    "zero": lambda dy: torch._efficientzerotensor(dy.shape),
}


@pytest.mark.parametrize("form", ARRIVING)
@pytest.mark.parametrize("backend", [None, "reference"])
def test_any_layout_of_an_arriving_gradient(op_call, form, backend):
    leaves = [x.requires_grad_() for x in op_call.to(torch.float32)]
    y = op_call.function(*leaves, backend=backend)
    dy = ARRIVING[form](torch.linspace(-1, 1, y.numel()).view(y.shape))
    expected = torch.autograd.grad(y, leaves, (dy + 0).contiguous(), retain_graph=True)
    for found, like in zip(torch.autograd.grad(y, leaves, dy), expected, strict=True):
        torch.testing.assert_close(found, like, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", [None, "reference"])
def test_the_gradient_of_one_input_alone(op_call, backend):
    def gradients(wanted: list[int]) -> list[Tensor]:
        tensors = list(op_call.to(torch.float32))
        for place in wanted:
            tensors[place].requires_grad_()
        loss = op_call.function(*tensors, backend=backend).square().sum()
        return list(torch.autograd.grad(loss, [tensors[place] for place in wanted]))

    places = list(range(len(op_call.tensors)))
    for place, expected in zip(places, gradients(places), strict=True):
        torch.testing.assert_close(gradients([place])[0], expected, rtol=1e-5, atol=1e-6)


# --- regions --------------------------------------------------------------------------------------------------------


def test_boxes_of_small_integers_do_not_wrap():
    windows = torch.tensor([[[100, 200, 100, 100]]])
    expected = regions.window_masks(windows, (240, 320))
    assert expected[0, 0, 150, 280]
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(regions.window_masks(windows.to(dtype), (240, 320)), expected)
    far = torch.tensor([[[1, 1, 2**31 - 1, 2**31 - 1]]], dtype=torch.int32)
    assert int(regions.window_masks(far, (3, 3)).sum()) == 4


NOT_REGIONS: dict[str, tuple[Callable[[Any], Any], Tensor]] = {
    "maps": (lambda x: regions.top_fraction(x, 0.2), torch.ones(1, 1, 2, 2, dtype=torch.float8_e5m2)),
    "windows": (lambda x: regions.window_masks(x, (3, 3)), torch.ones(1, 1, 4, dtype=torch.uint16)),
    "labels": (lambda x: regions.resize_labels(x, (3, 3)), torch.ones(1, 2, 2, dtype=torch.uint64)),
    "masks": (regions.labels_of, torch.ones(1, 1, 2, 2, dtype=torch.complex64)),
    "error": (bounded_logit, torch.ones(2, dtype=torch.float8_e4m3fn)),
}


@pytest.mark.parametrize("name", NOT_REGIONS)
def test_dtypes_that_lack_most_operations(name):
    function, x = NOT_REGIONS[name]
    with pytest.raises(TypeError, match=rf": `{name}` must be "):
        function(x)


@pytest.mark.parametrize("grid", [(-2, -3), (True, 6), (2, 3, 1)], ids=str)
def test_a_grid_that_is_none(grid):
    x, weight = torch.randn(1, 6, 4), torch.randn(5, 4)
    with pytest.raises((TypeError, ValueError), match=r"lowrank_linear: `grid` must be"):
        lowrank_linear(x, weight, grid=grid)
