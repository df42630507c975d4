"""Every op in a block of ``torch.autocast``: what is cast, what comes out, and that nothing is cast inside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from weft import ops
from weft.ops import Columns, attention, contrastive_loss, lowrank_linear, regions
from weft.ops._autocast import CASTS, Cast, autocast_dtype
from weft.testing import assert_bitwise

LOWER = (torch.bfloat16, torch.float16)
each_dtype = pytest.mark.parametrize("dtype", LOWER, ids=str)
# the dtype of a result, from that of the block
RESULTS: dict[str, Callable[[torch.dtype], torch.dtype]] = {
    "attention": lambda lower: torch.float32,  # out beside maps, see OpCall
    "lowrank_linear": lambda lower: lower,
    "contrastive_loss": lambda lower: torch.float32,
    "pairwise_error": lambda lower: torch.float32,
}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def cast_by_hand(op_call: Any, tensors: tuple[Tensor, ...], lower: torch.dtype) -> tuple[Tensor, ...]:
    """What the block should make of ``tensors``."""
    rule = next(iter(CASTS[op_call.name].values()))
    to = lower if rule is Cast.LOWER else torch.float32
    return tuple(x.to(to) if i < op_call.lowered else x for i, x in enumerate(tensors))


def mixed(op_call: Any) -> tuple[Tensor, ...]:
    """The first tensor in bf16, as an earlier operation of a block leaves it, beside weights in fp32."""
    first, *others = op_call.to(torch.float32)
    return (first.bfloat16(), *others)


@each_dtype
@pytest.mark.parametrize("backend", [None, "reference"])
def test_unlike_dtypes_are_cast(op_call, dtype, backend):
    tensors = mixed(op_call)
    expected = op_call.function(*cast_by_hand(op_call, tensors, dtype), backend=backend)
    with torch.autocast("cpu", dtype):
        found = op_call.function(*tensors, backend=backend)
    assert found.dtype == RESULTS[op_call.name](dtype)
    assert_bitwise(op_call.name, found, expected)


def test_a_lower_dtype_by_the_rule_of_linear_and_attention():
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    q = torch.randn(1, 3, 1, 4)
    for dtype in LOWER:
        with torch.autocast("cpu", dtype):
            assert lowrank_linear(x, weight).dtype == F.linear(x, weight).dtype == dtype
            theirs = F.scaled_dot_product_attention(q.transpose(1, 2), q.transpose(1, 2), q.transpose(1, 2))
            out, maps = attention(q, q, q, readout=torch.ones(1, 3, 2, dtype=dtype))
            assert out.dtype == theirs.dtype == dtype and maps.dtype == torch.float32


def test_nothing_is_cast_inside(op_call):
    """float64 stays as it is, and the products inside are not taken in half precision."""
    tensors = op_call.to(torch.float64)
    expected = op_call.function(*tensors)
    with torch.autocast("cpu", torch.bfloat16):
        assert_bitwise(op_call.name, op_call.function(*tensors), expected)


@pytest.mark.parametrize("name", ["contrastive_loss", "pairwise_error"])
def test_a_loss_of_like_dtypes_is_what_it_is_without(name, op_calls):
    one = op_calls[name]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        expected = one.function(*one.to(dtype))
        for lower in LOWER:
            with torch.autocast("cpu", lower):
                assert_bitwise(name, one.function(*one.to(dtype)), expected)


def test_segments_of_columns_are_cast_together():
    rows, cols = torch.randn(3, 4), torch.randn(3, 4)
    expected = contrastive_loss(rows.bfloat16().float(), [Columns(cols), Columns(cols.half().float(), symmetric=True)])
    with torch.autocast("cpu", torch.bfloat16):
        found = contrastive_loss(rows.bfloat16(), [Columns(cols), Columns(cols.half(), symmetric=True)])
    assert_bitwise("loss", found, expected)


@each_dtype
@pytest.mark.parametrize("backward_inside", [False, True])
def test_gradients_come_in_the_dtype_of_their_inputs(op_call, dtype, backward_inside):
    def gradients(tensors: tuple[Tensor, ...], enabled: bool, cast: bool) -> tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in tensors]
        with torch.autocast("cpu", dtype, enabled=enabled):
            given = cast_by_hand(op_call, tuple(leaves), dtype) if cast else leaves
            y = op_call.function(*given)
            if backward_inside:
                return torch.autograd.grad(y.float().square().sum(), leaves)
        return torch.autograd.grad(y.float().square().sum(), leaves)

    tensors = mixed(op_call)
    found = gradients(tensors, enabled=True, cast=False)
    for x, dx, expected in zip(tensors, found, gradients(tensors, enabled=False, cast=True), strict=True):
        assert dx.dtype == x.dtype
        assert_bitwise(op_call.name, dx, expected)


def test_second_derivatives_inside_a_block(op_call):
    def second(enabled: bool) -> Tensor:
        leaves = [x.requires_grad_() for x in op_call.to(torch.float64)]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            (first,) = torch.autograd.grad(op_call.function(*leaves).square().sum(), leaves[0], create_graph=True)
            return torch.autograd.grad(first.square().sum(), leaves[0])[0]

    assert_bitwise(op_call.name, second(True), second(False))


def test_a_nested_block_may_turn_it_off(op_call):
    tensors = op_call.to(torch.float32)
    expected = op_call.function(*tensors)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            assert_bitwise(op_call.name, op_call.function(*tensors), expected)
            with pytest.raises(TypeError, match=r"must have the dtype of \w+, bfloat16; got float32"):
                op_call.function(*mixed(op_call))
        with torch.autocast("cpu", torch.float16):
            assert op_call.function(*tensors).dtype == RESULTS[op_call.name](torch.float16)


@pytest.mark.parametrize("outside", [False, True], ids=["block_inside", "block_outside"])
def test_compiled(op_call, outside):
    tensors = mixed(op_call)

    def step(*tensors: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return op_call.function(*tensors)

    function = op_call.function if outside else step
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")

    def gradients(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in tensors]
        with torch.autocast("cpu", torch.bfloat16):
            y = function(*leaves)
        return (y, *torch.autograd.grad(y.float().square().sum(), leaves))

    for found, expected in zip(gradients(compiled), gradients(step), strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected)


def test_vmap_inside_a_block(op_call):
    tensors = mixed(op_call)
    with torch.autocast("cpu", torch.bfloat16):
        expected = op_call.function(*tensors, backend="reference")
        found = torch.vmap(op_call.function)(*[torch.stack([x, x]) for x in tensors])
    torch.testing.assert_close(found, torch.stack([expected, expected]))


def test_integers_and_masks_are_left_alone():
    q = torch.randn(1, 3, 1, 4)
    padding = torch.tensor([[False, False, True]])
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(q, q, q, key_padding=padding)
    assert_bitwise("out", found, attention(*[q.bfloat16()] * 3, key_padding=padding))


def test_a_block_for_another_device_changes_nothing(op_call):
    tensors = op_call.to(torch.float32)
    expected = op_call.function(*tensors)
    with torch.autocast("cuda", torch.float16, enabled=torch.cuda.is_available()):
        assert_bitwise(op_call.name, op_call.function(*tensors), expected)


def test_a_device_without_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert autocast_dtype("meta") is None and autocast_dtype("cpu") == torch.bfloat16
        weight = torch.empty(5, 4, device="meta")
        assert lowrank_linear(torch.empty(3, 4, device="meta"), weight, backend="reference").dtype == torch.float32


def test_the_table_names_parameters(op_calls):
    for name, casts in CASTS.items():
        if casts:
            assert set(casts) <= set(inspect.signature(getattr(ops, name)).parameters)
    assert set(CASTS) == {*op_calls, "regions"}


MAPS = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
SIZES = regions.window_sizes((6, 8))
REGIONS: dict[str, Callable[[], Tensor]] = {
    "best_windows": lambda: regions.best_windows(MAPS, SIZES),
    "assign_windows": lambda: regions.assign_windows(MAPS, SIZES),
    "top_fraction": lambda: regions.top_fraction(MAPS, 0.3),
    "above_median": lambda: regions.above_median(MAPS),
    "soft_edges": lambda: regions.soft_edges(MAPS > 0.5, 1.5),
    "labels_of": lambda: regions.labels_of(MAPS > 0.5),
    "resize_labels": lambda: regions.resize_labels((MAPS[:, 0] * 9).int(), (4, 3)),
    "concept_gate": lambda: regions.concept_gate(MAPS.flatten(2).mT, torch.rand(2, 3), "otsu") > 0,
}


@pytest.mark.parametrize("name", REGIONS)
@each_dtype
def test_regions_are_neutral(name, dtype):
    expected = REGIONS[name]()
    with torch.autocast("cpu", dtype):
        found = REGIONS[name]()
    assert torch.equal(found, expected) and found.dtype == expected.dtype
