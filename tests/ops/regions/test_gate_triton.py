"""The Triton kernels of ``concept_gate`` give the bits of the definition, on a GPU or in the interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import weft
from weft.kernels.regions.launch import MAX_GATE_CELLS, choose_gate_launch
from weft.ops import regions
from weft.ops.regions.gate import CONCEPT_GATE
from weft.testing import GateCase
from weft.testing.strategies import gate_cases

pytest.importorskip("triton", reason="triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RULES: tuple[str | float, ...] = ("median", "otsu", 0.0, 0.4)
OVERLAPS = ("largest", "sum")


def check(maps: Tensor, strengths: Tensor, rule: str | float, overlap: str = "largest") -> Tensor:
    found, expected = (
        regions.concept_gate(maps, strengths, rule, overlap=overlap, backend=name) for name in ("triton", "reference")
    )
    assert torch.equal(found, expected)
    return found


# each compile again on a GPU
@settings(max_examples=20)
@given(gate_cases(), st.sampled_from(RULES), st.sampled_from(OVERLAPS))
def test_gates_are_those_of_the_definition(case: GateCase, rule: str | float, overlap: str) -> None:
    check(case.maps(device=DEVICE), case.strengths(DEVICE), rule, overlap)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("concepts", [1, 3])
@pytest.mark.parametrize("cells", [64, 4096, 24 * 40])
def test_real_maps(cells: int, concepts: int, rule: str | float) -> None:
    """Softmax over the cells: values of many magnitudes, hardly any of them equal."""
    noise = 3 * torch.randn(1, cells, concepts, generator=torch.Generator().manual_seed(cells))
    gate = check(noise.softmax(1).to(DEVICE), torch.ones(2, concepts, device=DEVICE), rule)
    assert gate.any()
    if concepts == 1 and rule == "median":
        assert int(gate[0].sum()) == cells // 2


def test_the_largest_maps() -> None:
    case = GateCase(1, MAX_GATE_CELLS, 64, values=10**6)
    check(case.maps(device=DEVICE)[..., :1], case.strengths(DEVICE)[:, :1], "median")
    check(case.maps(device=DEVICE)[:, :100], case.strengths(DEVICE), 0.4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_dtypes(dtype: torch.dtype, rule: str | float) -> None:
    if dtype == torch.bfloat16 and DEVICE == "cpu":
        pytest.skip("the interpreter computes with bfloat16 as if it were an integer")
    case = GateCase(2, 100, 2, seed=2)
    check(case.maps(dtype, DEVICE), case.strengths(DEVICE), rule)


def test_strides() -> None:
    case = GateCase(2, 100, 3, repeats=2)
    maps = torch.full((2, 200, 7), torch.nan, device=DEVICE)
    maps[:, ::2, 1:4] = case.maps()
    strengths = case.strengths(DEVICE).T.contiguous().T
    planes = case.maps(device=DEVICE).permute(2, 0, 1).contiguous().permute(1, 2, 0)
    for rule in RULES:
        assert torch.equal(check(maps[:, ::2, 1:4], strengths, rule), check(planes, strengths, rule))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_maps_that_are_not_finite(value: float, rule: str | float) -> None:
    maps = GateCase(1, 100, 3).maps(device=DEVICE)
    maps[0, 99, 1] = value
    gate = check(maps, torch.ones(1, 3, device=DEVICE), rule)
    assert gate.any() and not gate[..., 1].any()


@pytest.mark.parametrize("rule", RULES)
def test_negative_values_and_zeros_of_both_signs(rule: str | float) -> None:
    row = torch.tensor([-2.0, -0.0, 0.0, -1.0, 0.0, -0.0, -0.5, -0.0], device=DEVICE)
    check(row[None, :, None], torch.ones(1, 1, device=DEVICE), rule)


def test_the_interpreter_runs_only_by_name() -> None:
    case = GateCase(1, 64, 1)
    chosen = CONCEPT_GATE.choose("auto", case.maps(device=DEVICE), case.strengths(DEVICE), "median", "largest").name
    assert chosen == ("triton" if DEVICE == "cuda" else "reference")


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, MAX_GATE_CELLS + 1, 1), torch.float32, "needs N <= 16384 cells; N is 16385"),
        ((1, 4, 65), torch.float32, "needs K <= 64 concepts; K is 65"),
        ((1, 4, 1), torch.float64, "needs float32, float16 or bfloat16; maps is torch.float64"),
    ],
)
def test_refusals(shape: tuple[int, ...], dtype: torch.dtype, message: str) -> None:
    maps = torch.zeros(shape, dtype=dtype, device=DEVICE)
    strengths = torch.ones(1, shape[2], dtype=torch.promote_types(dtype, torch.float32), device=DEVICE)
    with pytest.raises(weft.BackendUnavailableError, match=message):
        regions.concept_gate(maps, strengths, backend="triton")
    assert regions.concept_gate(maps, strengths).shape == shape


@pytest.mark.gpu
@pytest.mark.parametrize("rule", RULES)
def test_replays_in_a_graph(rule: str | float) -> None:
    """New maps and strengths at the same addresses, and the gate follows; nothing waits while it is captured."""
    case = GateCase(2, 1024, 2, repeats=2)
    maps, strengths = case.maps(device=DEVICE), case.strengths(DEVICE)
    out = torch.empty(4, 1024, 2, device=DEVICE)
    regions.concept_gate(maps, strengths, rule, out=out)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        regions.concept_gate(maps, strengths, rule, out=out)
    other = GateCase(2, 1024, 2, repeats=2, idle=True, seed=9)
    maps.copy_(other.maps())
    strengths.copy_(other.strengths())
    graph.replay()
    assert torch.equal(out, regions.concept_gate(maps, strengths, rule, backend="reference"))


@pytest.mark.parametrize("cells", [1, 63, 64, 65, 4096, MAX_GATE_CELLS])
@pytest.mark.parametrize("concepts", [1, 2, 5, 64])
def test_launches_hold_the_maps(cells: int, concepts: int) -> None:
    launch = choose_gate_launch(cells, concepts)
    for block, length in ((launch.block_map, max(cells, 64)), (launch.block_k, concepts)):
        assert block & (block - 1) == 0 and length <= block < 2 * length
    assert launch.block_n * launch.block_k == 1024
    assert 1 <= launch.map_warps <= 32 and launch.block_map <= 512 * launch.map_warps
