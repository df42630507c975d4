"""Whether a CUDA build runs on a device with a driver, for machines that are made up; ``auto`` goes on to Triton."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from weft.kernels.attention.arguments import Arguments
from weft.ops import _cuda
from weft.ops.attention import cuda as _attention_cuda
from weft.ops.attention import triton as _attention_triton
from weft.ops.attention.op import ATTENTION

DEFAULT = ("80", "90+PTX")


@pytest.mark.parametrize(
    ("toolkit", "archs", "driver", "capability"),
    [
        ((13, 0), DEFAULT, (13, 0), (9, 0)),
        ((13, 0), DEFAULT, (13, 1), (9, 0)),
        # code of a newer minor version runs on the drivers of its major version
        ((12, 9), DEFAULT, (12, 0), (9, 0)),
        ((12, 4), DEFAULT, (13, 0), (9, 0)),
        # code for 8.0 runs on 8.6 and 8.9
        ((12, 9), DEFAULT, (12, 0), (8, 6)),
        ((12, 9), DEFAULT, (12, 0), (8, 9)),
        # PTX of 9.0, compiled by the driver
        ((12, 8), DEFAULT, (12, 8), (10, 0)),
        ((12, 8), DEFAULT, (13, 0), (12, 0)),
        ((12, 9), ("90a",), (12, 9), (9, 0)),
        ((12, 9), ("100f",), (12, 9), (10, 3)),
        ((12, 9), ("120",), (12, 9), (12, 1)),
    ],
)
def test_it_runs(toolkit, archs, driver, capability) -> None:
    assert _cuda.refuse_build(toolkit, archs, driver, capability) == []


@pytest.mark.parametrize(
    ("toolkit", "archs", "driver", "capability", "words"),
    [
        ((13, 0), DEFAULT, (12, 8), (9, 0), ("built with CUDA 13.0", "takes CUDA 12.8", "nvcc of CUDA 12")),
        ((12, 9), DEFAULT, (12, 8), (12, 0), ("PTX of CUDA 12.9", "that of CUDA 12.8", "WEFT_CUDA_ARCHS=120")),
        ((12, 9), ("89",), (12, 9), (8, 0), ("built for sm 89", "WEFT_CUDA_ARCHS=80")),
        ((12, 9), ("90",), (12, 9), (8, 9), ("built for sm 90", "WEFT_CUDA_ARCHS=89")),
        ((12, 9), ("90",), (12, 9), (10, 0), ("built for sm 90", "WEFT_CUDA_ARCHS=100")),
        ((12, 9), ("90a+PTX",), (12, 9), (10, 0), ("built for sm 90a+PTX",)),
        ((12, 9), ("100f+PTX",), (12, 9), (12, 0), ("built for sm 100f+PTX",)),
    ],
)
def test_it_does_not_run(toolkit, archs, driver, capability, words) -> None:
    (reason,) = _cuda.refuse_build(toolkit, archs, driver, capability)
    assert all(word in reason for word in words), reason


class OnGpu(torch.Tensor):
    """A tensor that says it is on the second GPU."""

    is_cuda = True
    device = torch.device("cuda", 1)


class Machine:
    """Stands in for ``weft._native`` and for a driver; counts how often the driver is asked."""

    def __init__(self, cuda: str | None = "13.0", driver: int | RuntimeError = 13000) -> None:
        self.cuda, self.driver, self.asked = cuda, driver, 0

    def build_info(self) -> dict[str, object]:
        return {"cuda": self.cuda, "cuda_archs": DEFAULT if self.cuda else ()}

    def cuda_driver_version(self) -> int:
        self.asked += 1
        if isinstance(self.driver, RuntimeError):
            raise self.driver
        return self.driver


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """``use(native, capability)`` puts a machine in place of this one."""

    def use(module: Machine | None, capability: tuple[int, int] = (9, 0)) -> None:
        monkeypatch.setattr(_cuda, "native_or_none", lambda: module)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        _cuda.refuse_machine.cache_clear()

    yield SimpleNamespace(use=use)
    _cuda.refuse_machine.cache_clear()


@pytest.mark.parametrize(
    ("native", "capability", "words"),
    [
        (Machine(cuda=None), (9, 0), "built without CUDA; install weft again with nvcc on PATH and WEFT_CUDA=1"),
        (Machine(), (7, 5), "needs compute capability 8.0; device 1 has 7.5"),
        (Machine(driver=0), (9, 0), "needs an NVIDIA driver; there is none"),
        (Machine(driver=RuntimeError("unknown error")), (9, 0), "does not know its driver: unknown error"),
        (Machine(driver=12080), (9, 0), "the driver takes CUDA 12.8 at most"),
        (Machine(driver=12080), (9, 0), "; device 1 has compute capability 9.0"),
    ],
)
def test_a_machine_is_refused(machine: SimpleNamespace, native: Machine, capability, words: str) -> None:
    machine.use(native, capability)
    (reason,) = _cuda.refuse_machine(1)
    assert words in reason


def test_a_device_is_asked_about_once(machine: SimpleNamespace) -> None:
    native = Machine()
    machine.use(native)
    assert _cuda.refuse_machine(1) == _cuda.refuse_machine(1) == ()
    assert native.asked == 1


@pytest.mark.parametrize(("driver", "chosen"), [(13000, "cuda"), (12080, "triton")])
def test_auto_goes_on_to_triton(monkeypatch, machine: SimpleNamespace, driver: int, chosen: str) -> None:
    machine.use(Machine(driver=driver))
    monkeypatch.setattr(_attention_triton, "refuse_machine", lambda device: [])
    x = torch.zeros(1, 4, 1, 64, dtype=torch.float16).as_subclass(OnGpu)
    call = Arguments(x, x, x, 0.125)
    assert ATTENTION.choose("auto", call).name == chosen
    assert bool(_attention_cuda.refuse(call)) == (chosen == "triton")
