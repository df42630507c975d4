"""Every op under what torch does to functions: vmap, grad, jvp and their combinations, and second derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import weft
from weft.ops import Edit, attention, regions

FUSED = "cpu"


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def of_first(op_call: Any, dtype: torch.dtype = torch.float64, **rest: Any) -> tuple[Callable[..., Tensor], Tensor]:
    """The op as a function of its first tensor alone, and that tensor."""
    first, *others = op_call.to(dtype)
    return lambda x: op_call.function(x, *others, **rest), first


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """By ordinary autograd, which takes the backward of a backend."""
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(function(leaf).square().sum(), leaf)[0]


def square_sum(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x).square().sum()


def dual_tangent(function: Callable[[Tensor], Tensor], x: Tensor, tangent: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent))).tangent


def tangent_by_transposing(function: Callable[[Tensor], Tensor], x: Tensor, tangent: Tensor) -> Tensor:
    """J t from rows of J, each by ordinary autograd."""
    leaf = x.detach().requires_grad_()
    y = function(leaf)
    rows = [torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in y.flatten()]
    return torch.stack([(row * tangent).sum() for row in rows]).view(y.shape)


# --- derivatives by finite differences ------------------------------------------------------------------------------


def test_first_derivatives_of_every_input_both_ways(op_call):
    leaves = [x.requires_grad_() for x in op_call.to(torch.float64)]
    assert gradcheck(op_call.function, leaves, check_forward_ad=True)


def test_second_derivatives_of_every_input(op_call):
    leaves = [x.requires_grad_() for x in op_call.to(torch.float64)]
    assert gradgradcheck(op_call.function, leaves)


def test_third_derivatives(op_call):
    function, x = of_first(op_call)

    def hessian_vector(x: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(square_sum(function)(x), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x, create_graph=True)[0]

    assert gradcheck(hessian_vector, [x.requires_grad_()])


def test_second_derivatives_after_the_fused_forward(op_call):
    function, x = of_first(op_call, torch.float32, backend=FUSED)
    exact, wide = of_first(op_call)

    def second(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        (first,) = torch.autograd.grad(square_sum(function)(leaf), leaf, create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaf)[0]

    torch.testing.assert_close(second(function, x).double(), second(exact, wide), rtol=1e-4, atol=1e-4)


# --- torch.func -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_vmap(op_call, axis):
    function, x = of_first(op_call, torch.float32)
    stacked = torch.stack([x, 2 * x, x - 1], axis)
    expected = torch.stack([function(x), function(2 * x), function(x - 1)])
    torch.testing.assert_close(torch.vmap(function, in_dims=axis)(stacked), expected)


def test_vmap_of_every_input(op_call):
    tensors = op_call.to(torch.float32)
    stacked = [torch.stack([x, 0.5 * x]) for x in tensors]
    expected = torch.stack([op_call.function(*one) for one in zip(*stacked, strict=True)])
    torch.testing.assert_close(torch.vmap(op_call.function)(*stacked), expected)


def transformed_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The gradient of the sum of squares by each way that torch.func has."""
    loss = square_sum(function)
    stacked = torch.stack([x, x])
    return {
        "grad": lambda: torch.func.grad(loss)(x),
        "vjp": lambda: torch.func.vjp(loss, x)[1](torch.ones((), dtype=function(x).dtype))[0],
        "vmap of grad": lambda: torch.vmap(torch.func.grad(loss))(stacked)[1],
        "grad of vmap": lambda: torch.func.grad(lambda x: torch.vmap(loss)(torch.stack([x, x])).sum())(x) / 2,
        "jacrev": lambda: torch.func.jacrev(loss)(x),
        "jacfwd": lambda: torch.func.jacfwd(loss)(x),
        "compiled grad": lambda: torch.compile(torch.func.grad(loss), fullgraph=True, backend="aot_eager")(x),
    }


@pytest.mark.parametrize("way", list(transformed_gradient(torch.sin, torch.ones(2))))
def test_gradients(op_call, way):
    function, x = of_first(op_call, torch.float32)
    found = transformed_gradient(function, x)[way]()
    assert found.dtype == x.dtype
    torch.testing.assert_close(found, gradient(function, x), rtol=1e-4, atol=1e-5)


def test_tangents(op_call):
    function, x = of_first(op_call, torch.float32)
    t = torch.linspace(-1, 1, x.numel()).view(x.shape)
    expected = tangent_by_transposing(function, x, t)
    stacked = torch.stack([x, x])
    found = {
        "jvp": torch.func.jvp(function, (x,), (t,))[1],
        "dual": dual_tangent(function, x, t),
        "jvp of vmap": torch.func.jvp(torch.vmap(function), (stacked,), (torch.stack([t, t]),))[1][1],
        "vmap of jvp": torch.vmap(lambda t: torch.func.jvp(function, (x,), (t,))[1])(torch.stack([t, t]))[1],
    }
    for way, tangent in found.items():
        assert tangent.dtype == expected.dtype, way
        torch.testing.assert_close(tangent, expected, rtol=1e-4, atol=1e-5, msg=lambda text, way=way: f"{way}: {text}")


def test_hessian(op_call):
    function, x = of_first(op_call)
    expected = torch.autograd.functional.hessian(square_sum(function), x)
    torch.testing.assert_close(torch.func.hessian(square_sum(function))(x), expected)


def test_compiled_vmap(op_call):
    function, x = of_first(op_call, torch.float32)
    compiled = torch.compile(torch.vmap(function), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(torch.stack([x, 2 * x])), torch.stack([function(x), function(2 * x)]))


# --- a backend that is asked for by name ----------------------------------------------------------------------------

REFUSED = {
    "vmap": lambda function, x: torch.vmap(function)(x[None]),
    "grad": lambda function, x: torch.func.grad(square_sum(function))(x),
    "jvp": lambda function, x: torch.func.jvp(function, (x,), (x,)),
    "dual": lambda function, x: dual_tangent(function, x, x),
}


@pytest.mark.parametrize("way", REFUSED)
@pytest.mark.parametrize("by_block", [False, True], ids=["argument", "block"])
def test_a_fused_backend_is_refused_in_one_sentence(op_call, way, by_block):
    function, x = of_first(op_call, torch.float32, **({} if by_block else {"backend": FUSED}))
    with weft.backend(FUSED if by_block else "auto"), pytest.raises(weft.BackendUnavailableError) as caught:
        REFUSED[way](function, x)
    assert str(caught.value) == (
        f"{op_call.name}: `cpu` cannot be called inside a torch.func transform (vmap, grad, jvp) or with forward-mode "
        'tangents; leave `backend` out or ask for "reference", plain PyTorch'
    )


def test_the_definition_by_name(op_call):
    function, x = of_first(op_call, torch.float32, backend="reference")
    torch.testing.assert_close(torch.func.grad(square_sum(function))(x), gradient(function, x), rtol=1e-4, atol=1e-5)


# --- what attention reads of its arguments ---------------------------------------------------------------------------


def test_labels_and_tables_are_checked_inside_vmap():
    q = torch.randn(1, 3, 1, 4)
    labels = torch.tensor([[[0, 1, 0]], [[1, 1, 2]]])
    table = torch.ones(2, 1, 3, 1)

    def attend(labels: Tensor, table: Tensor) -> Tensor:
        return attention(q, q, q, edit=Edit(alpha=table), query_labels=labels)

    torch.testing.assert_close(torch.vmap(attend)(labels, table), torch.stack([attend(labels[0], table[0])] * 2))
    with pytest.raises(ValueError, match=r"`query_labels` must lie in \[0, Lq\)"):
        torch.vmap(attend)(labels + 1, table)
    with pytest.raises(ValueError, match="`alpha` must be finite"):
        torch.vmap(attend)(labels, table / 0)


# --- regions --------------------------------------------------------------------------------------------------------

SIZES = regions.window_sizes((6, 8))
REGIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "best_windows": lambda maps: regions.best_windows(maps, SIZES),
    "assign_windows": lambda maps: regions.assign_windows(maps, SIZES),
    "window_masks": lambda maps: regions.window_masks((maps[..., 0, :4] * 4).int(), (6, 8)),
    "top_fraction": lambda maps: regions.top_fraction(maps, 0.3),
    "above_median": regions.above_median,
    "soft_edges": lambda maps: regions.soft_edges(maps > 0.5, 1.5),
    "labels_of": lambda maps: regions.labels_of(maps > 0.5),
    "resize_labels": lambda maps: regions.resize_labels((maps[:, 0] * 9).int(), (4, 3)),
    "concept_gate": lambda maps: regions.concept_gate(maps.flatten(2).mT, torch.ones(2, 3), "otsu"),
}


@pytest.fixture(params=REGIONS)
def region(request: pytest.FixtureRequest) -> Callable[[Tensor], Tensor]:
    return REGIONS[request.param]


def some_maps(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("axis", [0, -1])
def test_vmap_of_regions(region, axis):
    maps = some_maps(3, 2, 3, 6, 8)
    expected = torch.stack([region(one) for one in maps])
    found = torch.vmap(region, in_dims=axis)(maps.movedim(0, axis))
    assert torch.equal(found, expected) and found.dtype == expected.dtype


def test_regions_have_no_tangent_and_no_gradient(region):
    maps = some_maps(2, 3, 6, 8)
    found, tangent = torch.func.jvp(region, (maps,), (torch.ones_like(maps),))
    assert torch.equal(found, region(maps)) and not tangent.any()

    def weighed(x: Tensor) -> Tensor:
        return region(x).double().sum() * x.double().mean()

    expected = (region(maps).double().sum() / maps.numel()).float()
    torch.testing.assert_close(torch.func.grad(weighed)(maps), expected.expand_as(maps))


def test_a_gate_is_not_written_in_place_inside_a_transform():
    maps, strengths = some_maps(2, 2, 5, 3), torch.ones(2, 3)
    with pytest.raises(ValueError, match="`out` cannot be written inside a transform"):
        torch.vmap(lambda one: regions.concept_gate(one, strengths, out=torch.empty(2, 5, 3)))(maps)
