"""Every backend of ``attention`` that works here and one way to call it; how ``lowrank_linear`` is launched."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

from weft.ops import Edit, attention
from weft.ops.attention import ATTENTION
from weft.testing import AttentionCase, AttentionInputs, make_attention_inputs

AttentionCall = Callable[..., tuple[Tensor, Tensor]]

# a first call may build or load a kernel, so no deadline; in CI the same examples every time
settings.register_profile(
    "weft",
    deadline=None,
    max_examples=60,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("weft")


def device_of(backend: str) -> str:
    """Where a backend's inputs must lie on this machine."""
    return "cuda" if backend in ("cuda", "triton") and torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session", params=[backend.name for backend in ATTENTION.backends])
def backend_name(request: pytest.FixtureRequest) -> str:
    """A backend that takes an ordinary float32 call here."""
    name: str = request.param
    probe = make_attention_inputs(AttentionCase(seqlen_q=4, seqlen_k=4, heads=1, head_dim=8), device=device_of(name))
    reasons = ATTENTION.explain(*probe.arguments())[name]
    backend = next(backend for backend in ATTENTION.backends if backend.name == name)
    if backend.only_by_name(*probe.arguments()):
        pytest.skip(f"{name}: interpreted here, minutes a test; its own files check it at shapes that it can do")
    if reasons:
        pytest.skip(f"{name}: {'; '.join(reasons)}")
    return name


@pytest.fixture(scope="session")
def device(backend_name: str) -> str:
    return device_of(backend_name)


@pytest.fixture(scope="session")
def call_attention() -> AttentionCall:
    """``call(inputs, backend=None)``: the public op on ``inputs``; (out, maps), maps with M = 0 without a read-out."""

    def call(inputs: AttentionInputs, backend: str | None = None) -> tuple[Tensor, Tensor]:
        tables = inputs.tables()
        result = attention(
            inputs.q,
            inputs.k,
            inputs.v,
            scale=inputs.scale,
            edit=Edit(**tables) if tables else None,
            readout=inputs.readout,
            query_labels=inputs.query_labels,
            key_labels=inputs.key_labels,
            key_padding=inputs.key_padding,
            backend=backend,
        )
        if isinstance(result, tuple):
            return result
        wide = torch.promote_types(inputs.q.dtype, torch.float32)
        return result, result.new_zeros(*result.shape[:2], 0, dtype=wide)

    return call


@pytest.fixture
def small_lowrank_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 16 or 32 in the interpreter, so that a small shape has many; the loop over Cin runs more than once."""
    from weft.kernels.lowrank_linear.host import Call
    from weft.kernels.lowrank_linear.launch_table import Tile

    tiles = {
        "project": Tile(32, 32, 16, 4, 1),
        "shrink": Tile(16, 16, 16, 4, 1),
        "outer": Tile(32, 32, 16, 4, 1),
    }
    if not torch.cuda.is_available():
        monkeypatch.setattr(Call, "tile", lambda call, kernel, rows, columns: tiles[kernel])


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``take(form)``: the form of every call of ``lowrank_linear`` with concepts from now on."""
    from weft.kernels.lowrank_linear.host import Call

    def force(form: str) -> None:
        monkeypatch.setattr(Call, "form", property(lambda call: form if call.rank else "alone"))

    return force
