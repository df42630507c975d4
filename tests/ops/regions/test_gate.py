"""``concept_gate`` against its sentences, cell by cell; memory, repeats and compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import weft
from weft.kernels.regions.reference_gate import BINS
from weft.ops import regions
from weft.testing import GateCase
from weft.testing.strategies import gate_cases

Rule = str | float
RULES: tuple[Rule, ...] = ("median", "otsu", 0.0, 0.4)
OVERLAPS = ("largest", "sum")


def inside(x: np.ndarray[Any, Any], rule: Rule) -> list[bool]:
    """Which values of one map pass its threshold."""
    if rule == "median":
        middle = sorted(x)[(len(x) - 1) // 2]
        return [bool(value > middle) for value in x]
    low, span = x.min(), x.max() - x.min()
    if not span > 0:
        return [False] * len(x)
    if rule == "otsu":
        return inside_upper_class([min(int((value - low) / span * np.float32(BINS)), BINS - 1) for value in x])
    return [bool(value > low + np.float32(rule) * span) for value in x]


def inside_upper_class(bins: list[int]) -> list[bool]:
    """Of all splits of the bins in two, that with the largest variance between the classes; the first of equals."""

    def between(k: int) -> float:
        lower, upper = [b for b in bins if b <= k], [b for b in bins if b > k]
        difference = sum(upper) * len(lower) - sum(lower) * len(upper)
        # len(lower) * len(upper) * (mean of the upper - mean of the lower) ** 2, rounded once
        return difference**2 / (len(lower) * len(upper)) if upper and lower else -1.0

    best = max(range(BINS - 1), key=lambda k: (between(k), -k))
    return [b > best for b in bins]


def brute_force(maps: Tensor, strengths: Tensor, rule: Rule, overlap: str) -> Tensor:
    """The definition in loops over rows, concepts and cells."""
    samples, cells, concepts = maps.shape
    gate = torch.zeros(len(strengths), cells, concepts)
    for j in range(len(strengths)):
        columns = [maps[j % samples, :, k].numpy() for k in range(concepts)]
        masks = [inside(x, rule) for x in columns]
        spans = [x.max() - x.min() for x in columns]
        scaled = [
            (x - x.min()) / span if span > 0 else np.zeros_like(x) for x, span in zip(columns, spans, strict=True)
        ]
        acting = [k for k in range(concepts) if strengths[j, k] != 0]
        for n in range(cells):
            owner = max(acting, key=lambda k: (scaled[k][n], -k)) if acting else None
            for k in acting:
                if masks[k][n] and (overlap == "sum" or k == owner):
                    gate[j, n, k] = strengths[j, k]
    return gate


@given(gate_cases(), st.sampled_from(RULES), st.sampled_from(OVERLAPS))
def test_gates_are_those_of_the_sentences(case: GateCase, rule: Rule, overlap: str) -> None:
    maps, strengths = case.maps(), case.strengths()
    found = regions.concept_gate(maps, strengths, rule, overlap=overlap)
    assert found.is_contiguous() and found.dtype == torch.float32
    assert torch.equal(found, brute_force(maps, strengths, rule, overlap))


@pytest.mark.parametrize("cells", [2, 64, 1024, 4096])
def test_the_median_takes_half_of_distinct_values(cells: int) -> None:
    maps = torch.randperm(cells, generator=torch.Generator().manual_seed(cells)).float()[None, :, None]
    gate = regions.concept_gate(maps, torch.ones(1, 1))
    assert int(gate.sum()) == cells // 2
    assert torch.equal(gate[0, :, 0] > 0, maps[0, :, 0] > maps.median())


def test_otsu_splits_two_hills_between_them() -> None:
    generator = torch.Generator().manual_seed(0)
    low, high = (mean + 0.05 * torch.randn(300, generator=generator) for mean in (0.2, 0.7))
    gate = regions.concept_gate(torch.cat([low, high])[None, :, None], torch.ones(1, 1), "otsu")
    assert not gate[0, :300].any() and gate[0, 300:].all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("overlap", OVERLAPS)
class TestMapsWithoutAMask:
    def test_constant(self, rule: Rule, overlap: str) -> None:
        assert not regions.concept_gate(torch.full((1, 16, 2), 0.3), torch.ones(1, 2), rule, overlap=overlap).any()

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    def test_not_finite(self, value: float, rule: Rule, overlap: str) -> None:
        """It has no mask, and the others are as if it did not act."""
        case = GateCase(1, 40, 3, seed=3)
        maps, strengths = case.maps(), torch.ones(1, 3)
        maps[0, 7, 1] = value
        gate = regions.concept_gate(maps, strengths, rule, overlap=overlap)
        strengths[0, 1] = 0.0
        assert not gate[..., 1].any()
        assert torch.equal(gate, regions.concept_gate(case.maps(), strengths, rule, overlap=overlap))
        assert gate.any()


def test_what_does_not_act_takes_no_cells() -> None:
    """A row in which only one concept acts has the gate that the concept would have alone; the next row does not."""
    maps = GateCase(1, 60, 2, seed=1).maps()
    gate = regions.concept_gate(maps, torch.tensor([[0.5, 0.0], [0.5, 1.0]]))
    assert torch.equal(gate[:1, :, :1], regions.concept_gate(maps[..., :1], torch.tensor([[0.5]])))
    assert not torch.equal(gate[0], gate[1]) and not (gate[1] != 0).all(-1).any()


def test_rows_repeat_the_images() -> None:
    case = GateCase(2, 30, 3, repeats=3, seed=4)
    maps, strengths = case.maps(), case.strengths()
    together = regions.concept_gate(maps, strengths)
    for j in range(6):
        alone = regions.concept_gate(maps[j % 2, None], strengths[j, None])
        assert torch.equal(together[j], alone[0])


@pytest.mark.parametrize("rule", RULES)
def test_strides(rule: Rule) -> None:
    case = GateCase(2, 32, 3, seed=5)
    expected = regions.concept_gate(case.maps(), case.strengths(), rule)
    planes = case.maps().permute(2, 0, 1).contiguous().permute(1, 2, 0)
    columns = torch.full((2, 64, 7), torch.nan)
    columns[:, ::2, 1:4] = case.maps()
    strided = case.strengths().T.contiguous().T
    for maps in (planes, columns[:, ::2, 1:4]):
        assert not maps.is_contiguous()
        assert torch.equal(regions.concept_gate(maps, strided, rule), expected)
    alike = case.maps()[:1].expand(2, -1, -1)
    assert torch.equal(regions.concept_gate(alike, strided, rule)[0], expected[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rule", RULES)
def test_dtypes(dtype: torch.dtype, rule: Rule) -> None:
    """Narrow maps are widened, so they have the gate of the same numbers in float32."""
    case = GateCase(2, 50, 2, seed=6)
    maps, strengths = case.maps().to(dtype), case.strengths()
    if dtype == torch.float64:
        strengths = strengths.double()
        # float32 would not distinguish them from their neighbours
        maps = maps + 1e-12 * torch.arange(50)[:, None]
    gate = regions.concept_gate(maps, strengths, rule)
    assert gate.dtype == strengths.dtype
    if dtype == torch.float64 and rule == "median":
        assert ((gate != 0).sum(1) <= 25).all() and (gate != 0).any(-1).sum() >= 50
    elif dtype != torch.float64:
        assert torch.equal(gate, regions.concept_gate(maps.float(), strengths, rule))


def test_out_is_written_in_place() -> None:
    case = GateCase(2, 20, 2, repeats=2)
    out = torch.full((4, 20, 2), torch.nan)
    address = out.data_ptr()
    returned = regions.concept_gate(case.maps(), case.strengths(), out=out)
    assert returned is out and out.data_ptr() == address
    assert torch.equal(out, regions.concept_gate(case.maps(), case.strengths()))


@pytest.mark.parametrize("shape", [(0, 8, 1), (2, 0, 1), (2, 8, 0)])
def test_nothing_to_gate(shape: tuple[int, int, int]) -> None:
    assert regions.concept_gate(torch.zeros(shape), torch.ones(2 * shape[0], shape[2])).shape == (
        2 * shape[0],
        *shape[1:],
    )


def test_no_gradient() -> None:
    case = GateCase(1, 8, 1)
    maps, strengths = case.maps().requires_grad_(), case.strengths().requires_grad_()
    assert not regions.concept_gate(maps, strengths).requires_grad


class TestCompiled:
    @pytest.mark.parametrize("rule", RULES)
    def test_without_a_break(self, rule: Rule) -> None:
        case = GateCase(2, 24, 3, repeats=2)
        call = torch.compile(
            lambda *tensors: 2 * regions.concept_gate(*tensors, rule), fullgraph=True, backend="eager"
        )
        found = call(case.maps(), case.strengths())
        assert torch.equal(found, 2 * regions.concept_gate(case.maps(), case.strengths(), rule))

    def test_into_out_and_never_again(self) -> None:
        """New maps and strengths, zeros among them, neither compile again nor move the result."""
        compilations = []

        def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
            compilations.append(graph)
            return graph.forward

        call = torch.compile(lambda *tensors: regions.concept_gate(*tensors[:2], out=tensors[2]).sum(), backend=count)
        out = torch.empty(4, 24, 3)
        for seed in range(3):
            case = GateCase(2, 24, 3, repeats=2, idle=seed > 0, seed=seed)
            total = call(case.maps(), case.strengths(), out)
            assert torch.equal(out, regions.concept_gate(case.maps(), case.strengths()))
            assert torch.equal(total, out.sum())
        assert len(compilations) == 1

    def test_by_inductor(self) -> None:
        case = GateCase(1, 24, 2)
        call = torch.compile(lambda *tensors: regions.concept_gate(*tensors[:2], out=tensors[2]) + 1, fullgraph=True)
        out = torch.empty(1, 24, 2)
        expected = regions.concept_gate(case.maps(), case.strengths())
        assert torch.equal(call(case.maps(), case.strengths(), out), expected + 1)
        assert torch.equal(out, expected)

    def test_operator(self) -> None:
        case = GateCase(2, 24, 3, repeats=2)
        for maps in (case.maps(), case.maps().permute(2, 0, 1).contiguous().permute(1, 2, 0)):
            arguments = (maps, case.strengths(), "median", 0.0, "largest", torch.empty(4, 24, 3), "")
            torch.library.opcheck(torch.ops.weft.concept_gate.default, arguments)


def test_a_backend_for_every_op_is_passed_over_where_there_is_none() -> None:
    case = GateCase(1, 8, 1)
    with weft.backend("cpu"):
        gate = regions.concept_gate(case.maps(), case.strengths())
    assert torch.equal(gate, regions.concept_gate(case.maps(), case.strengths(), backend="reference"))
    with pytest.raises(weft.BackendUnavailableError, match="has no `cpu` backend"):
        regions.concept_gate(case.maps(), case.strengths(), backend="cpu")
