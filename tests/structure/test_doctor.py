"""``weft doctor`` reports the facts: against the dispatcher and the native module here, and for machines made up."""

from __future__ import annotations

import dataclasses
import inspect
import types

import pytest
import torch

import weft.ops
from weft import _doctor
from weft._native_loader import native_or_none


@pytest.fixture(scope="module")
def report() -> _doctor.Report:
    return _doctor.examine()


def call(state: _doctor.BackendState) -> torch.Tensor:
    """The public op as the doctor asked its backend about it."""
    arguments = _doctor.SAMPLE_CALLS[state.op](state.device)
    if state.op == "attention":
        (given,) = arguments
        return weft.ops.attention(given.q, given.k, given.v, scale=given.scale, backend=state.backend)
    if state.op == "contrastive_loss":
        rows, (segment,) = arguments
        return weft.ops.contrastive_loss(rows, segment.columns, backend=state.backend)
    if state.op == "pairwise_error":
        return weft.ops.pairwise_error(*arguments, backend=state.backend)
    if state.op == "regions.best_windows":
        ((maps, sizes, *_),) = arguments
        return weft.ops.regions.op.best_windows(maps, sizes, backend=state.backend)
    if state.op == "regions.concept_gate":
        maps, strengths, *_ = arguments
        return weft.ops.regions.op.concept_gate(maps, strengths, backend=state.backend)
    (given,) = arguments
    factors = {"down": given.down, "up": given.up, "ranks": given.ranks}
    return weft.ops.lowrank_linear(given.x, given.weight, **factors, backend=state.backend)


def test_every_op_is_asked_about(report: _doctor.Report) -> None:
    assert set(_doctor.SAMPLE_CALLS) == set(_doctor.ops()) == {state.op for state in report.backends}


def test_every_public_function_with_backends_has_an_op() -> None:
    """The table follows from the ops, and no function chooses a backend without one."""
    public = {name: getattr(weft.ops, name) for name in weft.ops.__all__}
    public |= {f"regions.{name}": getattr(weft.ops.regions, name) for name in weft.ops.regions.op.__all__}
    functions = {name: f for name, f in public.items() if isinstance(f, types.FunctionType)}
    with_backends = {name for name, f in functions.items() if "backend" in inspect.signature(f).parameters}
    # this one hands its backend on to ``best_windows``
    assert with_backends - {"regions.assign_windows"} == set(_doctor.ops())


def test_a_backend_said_to_work_does(report: _doctor.Report) -> None:
    usable = [state for state in report.backends if not state.reasons]
    assert usable
    for state in usable:
        assert torch.isfinite(call(state)).all()


def test_a_backend_said_not_to_work_gives_the_reason(report: _doctor.Report) -> None:
    refused = [state for state in report.backends if state.reasons]
    for state in refused:
        with pytest.raises(weft.BackendUnavailableError):
            call(state)
    text = _doctor.render(report)
    assert all(reason in text for state in refused for reason in state.reasons)


@pytest.mark.skipif(native_or_none() is None, reason="needs the native module")
def test_chosen_instruction_set_runs_here(report: _doctor.Report) -> None:
    assert dict(report.native.instruction_sets)[report.native.chosen]
    assert report.native.problem is None


def test_versions_are_those_imported(report: _doctor.Report) -> None:
    assert dict(report.versions)["torch"] == torch.__version__
    assert dict(report.versions)["weft"] == weft.__version__


def test_a_set_variable_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_BAKCEND", "cpu")
    assert "WEFT_BAKCEND" in _doctor.render(_doctor.examine())


def test_what_is_missing_is_said(report: _doctor.Report) -> None:
    poor = dataclasses.replace(
        report,
        versions=(("torch", "2.6.0"), ("triton", None)),
        native=_doctor.Native(problem="it is not built; install a compiler"),
        gpu=_doctor.Gpu("12.4", (), "no driver"),
        weights=_doctor.Weights("shapes/weights", None),
    )
    text = _doctor.render(poor)
    for line in ("not installed", "no: it is not built; install a compiler", "none: no driver", "missing from"):
        assert line in text


def test_what_is_there_is_said(report: _doctor.Report) -> None:
    sets = (("scalar", True), ("amx", False))
    rich = dataclasses.replace(
        report,
        native=_doctor.Native(None, "gcc 13", sets, "scalar", "libgomp.so.1", "13.0", ("90", "120+PTX")),
        gpu=_doctor.Gpu("13.0", ("NVIDIA H100 (sm_90)",), None, "takes CUDA 12.8", (("is built with CUDA 13.0",),)),
        weights=_doctor.Weights("shapes/weights", 12_345_678),
    )
    text = _doctor.render(rich)
    parts = ("scalar (amx), in brackets", "13.0 for sm 90 120+PTX", "NVIDIA H100 (sm_90)", "12.3 MB")
    for part in (*parts, "takes CUDA 12.8", "no: is built with CUDA 13.0"):
        assert part in text
