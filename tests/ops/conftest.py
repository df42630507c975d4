"""Every backend of ``attention`` that works here and one way to call it; how ``lowrank_linear`` is launched."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

from weft.ops import Columns, Edit, attention, contrastive_loss, lowrank_linear, pairwise_error
from weft.ops.attention.op import ATTENTION
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
    reasons = ATTENTION.explain(probe.arguments())[name]
    backend = next(backend for backend in ATTENTION.backends if backend.name == name)
    if backend.only_by_name(probe.arguments()):
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
    from weft.kernels.common.product_tiles import Tile
    from weft.kernels.lowrank_linear.host import Call

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


# --- one call of every op that has gradients --------------------------------------------------------------------


class OpCall(NamedTuple):
    """A small call of one op.

    Attributes:
        name: Of the op.
        function: Takes the float tensors by place and ``backend``; one result.
        tensors: Float64, of different sizes along every axis.
        lowered: How many of them, from the first on, autocast casts alike.
    """

    name: str
    function: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]
    lowered: int

    def to(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The tensors in ``dtype``, what is kept in float32 at least in that."""
        kept = torch.promote_types(dtype, torch.float32)
        return tuple(x.to(dtype if i < self.lowered else kept) for i, x in enumerate(self.tensors))


def _attention_call(q: Tensor, k: Tensor, v: Tensor, w: Tensor, alpha: Tensor, beta: Tensor, **rest: Any) -> Tensor:
    labels = torch.tensor([[0, 1, 0, 0, 1]])
    edit = Edit(alpha=alpha, beta=beta, delta=0.5 * beta)
    out, maps = attention(q, k, v, edit=edit, readout=w, key_labels=labels, **rest)
    return torch.cat([out.flatten(2).to(maps.dtype), maps], 2)


def _lowrank_call(x: Tensor, weight: Tensor, bias: Tensor, *terms: Tensor, **rest: Any) -> Tensor:
    down, up, gate = terms
    return lowrank_linear(x, weight, bias, down=down, up=up, ranks=(2, 1), gate=gate, **rest)


def _contrastive_call(rows: Tensor, cols: Tensor, temperature: Tensor, **rest: Any) -> Tensor:
    kinds = [
        Columns(cols, exclude=torch.tensor([0, 1, 1, 2]), temperature=temperature, symmetric=True),
        Columns(rows, torch.tensor([0, 0, 1, 1]), "self", temperature=0.5, weight=0.3),
    ]
    return contrastive_loss(rows, kinds, normalize=True, **rest)


def _numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


OP_CALLS = (
    OpCall(
        "attention",
        _attention_call,
        (
            *(_numbers(2, 3, 1, 4), _numbers(2, 5, 1, 4), _numbers(2, 5, 1, 4)),
            *(_numbers(1, 5, 2), _numbers(1, 1, 2), _numbers(2, 1, 2)),
        ),
        3,
    ),
    OpCall(
        "lowrank_linear",
        _lowrank_call,
        (
            *(_numbers(2, 3, 4), _numbers(5, 4), _numbers(5), _numbers(3, 4), _numbers(5, 3)),
            _numbers(2, 3, 2),
        ),
        5,
    ),
    OpCall(
        "contrastive_loss",
        _contrastive_call,
        (_numbers(4, 3), _numbers(4, 3).flip(0), torch.tensor(0.7, dtype=torch.float64)),
        2,
    ),
    OpCall("pairwise_error", pairwise_error, (_numbers(2, 3, 4), _numbers(2, 4)), 2),
)


@pytest.fixture(params=OP_CALLS, ids=[one.name for one in OP_CALLS])
def op_call(request: pytest.FixtureRequest) -> OpCall:
    """One small call of every op that has gradients, in turn."""
    one: OpCall = request.param
    return one


@pytest.fixture(scope="session")
def op_calls() -> dict[str, OpCall]:
    return {one.name: one for one in OP_CALLS}
