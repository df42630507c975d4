"""The choice of a backend: order, refusals, nested blocks, threads and the environment."""

from __future__ import annotations

import threading

import pytest

import weft
from weft._dispatch import BACKEND_NAMES, Backend, Op, requested_backend


def refuse_odd(x: int) -> list[str]:
    return ["needs an even number", f"got {x}"] if x % 2 else []


FIRST = Backend("cuda", refuse_odd, lambda x: ("first", x))
SECOND = Backend("cpu", lambda x: ["needs x < 10"] if x >= 10 else [], lambda x: ("second", x))
OP = Op("halve", (FIRST, SECOND))


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEFT_BACKEND", raising=False)


@pytest.mark.parametrize(("x", "chosen"), [(2, FIRST), (3, SECOND), (12, FIRST)])
def test_auto_takes_the_first_without_an_objection(x: int, chosen: Backend) -> None:
    assert OP.choose("auto", x) is chosen


def test_auto_with_no_taker_lists_every_objection() -> None:
    with pytest.raises(weft.BackendUnavailableError) as error:
        OP.choose("auto", 11)
    assert str(error.value) == (
        "halve: no backend takes this call\n  cuda: needs an even number; got 11\n  cpu: needs x < 10"
    )


def test_a_named_backend_is_an_order() -> None:
    assert OP.choose("cpu", 2) is SECOND
    with pytest.raises(weft.BackendUnavailableError) as error:
        OP.choose("cuda", 3)
    assert str(error.value) == "halve: `cuda` does not take this call\n  cuda: needs an even number; got 3"


def test_a_backend_that_was_never_written() -> None:
    with pytest.raises(weft.BackendUnavailableError, match="halve: has no `triton` backend; it has cuda, cpu"):
        OP.choose("triton", 2)


def test_explain_runs_nothing_and_keeps_the_order() -> None:
    def never(x: int) -> None:
        raise AssertionError("explain must not run a backend")

    op = Op("halve", (Backend("cuda", refuse_odd, never), Backend("cpu", SECOND.refuse, never)))
    assert list(op.explain(11).items()) == [("cuda", ["needs an even number", "got 11"]), ("cpu", ["needs x < 10"])]
    assert op.explain(2) == {"cuda": [], "cpu": []}


def test_call_before_block_before_environment_before_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    assert requested_backend(None) == "auto"
    monkeypatch.setenv("WEFT_BACKEND", "reference")
    assert requested_backend(None) == "reference"
    with weft.backend("cpu"):
        assert requested_backend(None) == "cpu"
        assert requested_backend("triton") == "triton"
    assert requested_backend(None) == "reference"


def test_blocks_nest_and_end_with_an_error() -> None:
    with weft.backend("cpu"):
        with pytest.raises(KeyError), weft.backend("triton"):
            assert requested_backend(None) == "triton"
            raise KeyError
        assert requested_backend(None) == "cpu"
        with weft.backend("auto"):
            assert requested_backend(None) == "auto"
    assert requested_backend(None) == "auto"


def test_one_block_object_may_be_entered_again() -> None:
    block = weft.backend("cpu")
    with block, weft.backend("triton"), block:
        assert requested_backend(None) == "cpu"
    with block:
        assert requested_backend(None) == "cpu"
    assert requested_backend(None) == "auto"


def test_a_block_does_not_reach_another_thread() -> None:
    seen = []
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        inside.wait(5)
        seen.append(requested_backend(None))
        with weft.backend("triton"):
            done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with weft.backend("cpu"):
        inside.set()
        assert done.wait(5)
        assert requested_backend(None) == "cpu"
    thread.join()
    assert seen == ["auto"]


@pytest.mark.parametrize("name", ["", "CPU", "gpu", "cpu "])
def test_unknown_names_list_the_known(name: str) -> None:
    known = ", ".join(BACKEND_NAMES)
    with pytest.raises(ValueError, match=f"backend: must be one of {known}; got '{name}'"):
        weft.backend(name)
    with pytest.raises(ValueError, match="backend: must be one of"):
        requested_backend(name)


def test_unknown_environment_value_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_BACKEND", "fast")
    with pytest.raises(ValueError, match=r"WEFT_BACKEND: must be one of auto, .*; got 'fast'"):
        requested_backend(None)
    # a named backend does not depend on the variable
    assert requested_backend("cpu") == "cpu"


@pytest.mark.parametrize("value", ["", "  ", " cpu "])
def test_environment_value_is_stripped(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WEFT_BACKEND", value)
    assert requested_backend(None) == (value.strip() or "auto")
