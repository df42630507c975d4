"""Bad input to ``lowrank_linear``: one clear error for each way to be wrong, before anything is computed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

import weft
from weft.ops import lowrank_linear

B, N, CIN, COUT, R, K = 2, 6, 8, 5, 4, 2


def arguments(**changed: Any) -> dict[str, Any]:
    """A call that is right but for what is ``changed``."""
    right = {
        "x": torch.zeros(B, N, CIN),
        "weight": torch.zeros(COUT, CIN),
        "bias": torch.zeros(COUT),
        "down": torch.zeros(R, CIN),
        "up": torch.zeros(COUT, R),
        "ranks": (3, 1),
        "gate": torch.zeros(B, N, K),
    }
    return right | changed


def on_base(**changed: Any) -> dict[str, Any]:
    """The same with the layer's output in place of its weight."""
    return arguments(weight=None, bias=None, base=torch.zeros(B, N, COUT)) | changed


class Packed(Tensor):
    """Stands for what quantisation libraries make of a weight: a tensor that holds others."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Packed:
        wrapper = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)
        wrapper.inner = inner
        return wrapper

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], context: None, size: Any, stride: Any) -> Packed:
        return Packed(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("nothing may be computed with it")


TYPES = {
    "x is a list": (arguments(x=[[1.0]]), "`x` must be a tensor; got list"),
    "x integer": (arguments(x=torch.zeros(B, N, CIN).int()), "`x` must be float32, bfloat16, float16 or float64; got"),
    "weight is a module": (arguments(weight=torch.nn.Linear(CIN, COUT)), "`weight` must be a tensor or None; got Lin"),
    "weight of another dtype": (
        arguments(weight=torch.zeros(COUT, CIN).half()),
        "`weight` must have the dtype of x, float32; got float16; convert it with .to(x.dtype)",
    ),
    "weight quantised": (
        arguments(weight=torch.zeros(COUT * CIN // 2, 1, dtype=torch.uint8)),
        "`weight` must have the dtype of x, float32; got uint8; if it is quantised, hand over that layer's own output "
        "as `base`",
    ),
    "weight wrapped": (
        arguments(weight=Packed(torch.zeros(COUT, CIN))),
        "`weight` must be a plain tensor; got Packed, which is wrapped or quantised; hand over that layer's own",
    ),
    "bias of another dtype": (arguments(bias=torch.zeros(COUT).half()), "`bias` must have the dtype of x, float32"),
    "down is a list": (arguments(down=[[1.0]]), "`down` must be a tensor or None; got list"),
    "up of another dtype": (arguments(up=torch.zeros(COUT, R).bfloat16()), "`up` must have the dtype of x, float32"),
    "ranks are a tensor": (arguments(ranks=torch.tensor([3, 1])), "`ranks` must be a sequence of integers or None"),
    "ranks are floats": (arguments(ranks=(3.0, 1.0)), "`ranks` must be integers; got [3.0, 1.0]"),
    "gate is bool": (
        arguments(gate=torch.zeros(B, N, K, dtype=torch.bool)),
        "`gate` must be float32 for float32 x; got bool; convert it with .to(torch.float32)",
    ),
    "gate in half": (
        {name: x.half() if isinstance(x, Tensor) else x for name, x in arguments().items()},
        "`gate` must be float32 for float16 x; got float16",
    ),
    "residual is a number": (arguments(residual=1.0), "`residual` must be a tensor or None; got float"),
    "residual of another dtype": (
        arguments(residual=torch.zeros(B, N, COUT).half()),
        "`residual` must have the dtype of x, float32; got float16",
    ),
    "base of another dtype": (on_base(base=torch.zeros(B, N, COUT).half()), "`base` must have the dtype of x"),
    "grid is a number": (arguments(grid=6), "`grid` must be two integers (h, w) or None; got 6"),
}

VALUES = {
    "x of one axis": (arguments(x=torch.zeros(CIN)), "`x` must be [..., rows, Cin]; got [8], 1 axes"),
    "nothing to start from": (arguments(weight=None, bias=None), "needs `weight`, or `base`"),
    "weight and base": (arguments(base=torch.zeros(B, N, COUT)), "`base` replaces `weight`; got both"),
    "bias and base": (on_base(bias=torch.zeros(COUT)), "`base` has its bias already; got both; leave `bias` out"),
    "weight of another width": (
        arguments(weight=torch.zeros(COUT, CIN + 1)),
        "`weight` must be [Cout, Cin] = [Cout, 8] to match x; got [5, 9]",
    ),
    "weight of a 3x3 convolution": (
        arguments(weight=torch.zeros(COUT, CIN, 3, 3)),
        "`weight` must be [Cout, Cin], or [Cout, Cin, 1, 1] of a 1x1 convolution; got [5, 8, 3, 3]",
    ),
    "bias of another width": (arguments(bias=torch.zeros(COUT + 1)), "`bias` must be [Cout] = [5] to match weight"),
    "down without up": (arguments(up=None), "`down` needs `up` beside it; got None; give both or neither"),
    "up without down": (arguments(down=None, ranks=None, gate=None), "`up` needs `down` beside it; got None"),
    "factors swapped": (
        arguments(down=torch.zeros(COUT, R), up=torch.zeros(R, CIN)),
        "`down` must be [R, Cin] = [R, 8] to match x; got [5, 4]; it is the factor that is applied first",
    ),
    "up of another rank": (arguments(up=torch.zeros(COUT, R + 1)), "`up` must be [Cout, R] = [5, 4]; got [5, 5]"),
    "no ranks at all": (
        arguments(down=torch.zeros(0, CIN), up=torch.zeros(COUT, 0), ranks=None),
        "`down` must have at least one rank; got R = 0; leave both factors out",
    ),
    "ranks of another sum": (
        arguments(ranks=(2, 1)),
        "`ranks` must add up to R = 4, the rows of down; got [2, 1], sum 3",
    ),
    "an empty rank": (arguments(ranks=(4, 0)), "`ranks` must be 1 or more each; got [4, 0]"),
    "ranks without factors": (arguments(down=None, up=None), "`ranks` belong to `down` and `up`; got [3, 1] without"),
    "gate without factors": (arguments(down=None, up=None, ranks=None), "`gate` belongs to `down` and `up`"),
    "gate of other concepts": (
        arguments(gate=torch.zeros(B, N, K + 1)),
        "`gate` must be [K] = [2], [B, K] = [2, 2] or [B or 1, rows or 1, K] = [2 or 1, 6 or 1, 2]; got [2, 6, 3]",
    ),
    "gate of rows beside a batch": (
        arguments(gate=torch.zeros(N, K)),
        "[2, 2] or [B or 1, rows or 1, K] = [2 or 1, 6 or 1, 2]; got [6, 2]; one for all samples is gate[None]",
    ),
    "gate of samples beside rows": (
        arguments(x=torch.zeros(N, CIN), gate=torch.zeros(B, K)),
        "`gate` must be [K] = [2], [rows, K] = [6, 2] or [B or 1, rows or 1, K]",
    ),
    "gate of another batch": (arguments(gate=torch.zeros(3, N, K)), "[2 or 1, 6 or 1, 2]; got [3, 6, 2]"),
    "gate of four axes": (arguments(gate=torch.zeros(B, 2, 3, K)), "[2 or 1, 6 or 1, 2]; got [2, 2, 3, 2]"),
    "residual of another shape": (
        arguments(residual=torch.zeros(B, N, CIN)),
        "`residual` must be [2, 6, 5] or [B, Cout, h, w] with h * w = 6; got [2, 6, 8]",
    ),
    "residual broadcast": (arguments(residual=torch.zeros(1, N, COUT)), "`residual` must be [2, 6, 5]"),
    "image of other channels": (
        arguments(residual=torch.zeros(B, CIN, 2, 3)),
        "`residual` must be [B, Cout, h, w] = [2, 5, h, w]; got [2, 8, 2, 3]",
    ),
    "image of another size": (
        arguments(residual=torch.zeros(B, COUT, 2, 2)),
        "`residual` must have h * w = 6, the rows of x; got 2 x 2",
    ),
    "grid of another size": (arguments(grid=(4, 4)), "`grid` must have h * w = 6, the rows of x; got 4 x 4"),
    "grid without a batch": (
        arguments(x=torch.zeros(N, CIN), gate=None, grid=(2, 3)),
        "an image needs x of [B, rows, Cin]; got [6, 8]",
    ),
    "two forms": (
        on_base(residual=torch.zeros(B, COUT, 2, 3)),
        "needs one form of the result, rows or one grid; got residual 2 x 3, base rows",
    ),
    "two grids": (
        arguments(residual=torch.zeros(B, COUT, 2, 3), grid=(3, 2)),
        "needs one form of the result, rows or one grid; got grid 3 x 2, residual 2 x 3",
    ),
    "base of one axis": (on_base(base=torch.zeros(COUT)), "`base` must be [..., rows, Cout] or an image"),
    "an unknown backend": (arguments(backend="fast"), "must be one of auto, cuda, triton, cpu, reference; got 'fast'"),
}


@pytest.mark.parametrize(("call", "message"), TYPES.values(), ids=TYPES)
def test_types(call: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)) as error:
        lowrank_linear(**call)
    assert str(error.value).startswith("lowrank_linear: ")


@pytest.mark.parametrize(("call", "message"), VALUES.values(), ids=VALUES)
def test_values(call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        lowrank_linear(**call)


@pytest.mark.parametrize("name", ["weight", "bias", "down", "up", "gate", "residual"])
def test_devices(name: str) -> None:
    call = arguments(residual=torch.zeros(B, N, COUT))
    call[name] = call[name].to("meta")
    with pytest.raises(ValueError, match=f"`{name}` must be on the device of x, cpu; got meta"):
        lowrank_linear(**call)


def test_what_is_right_passes() -> None:
    assert lowrank_linear(**arguments()).shape == (B, N, COUT)
    assert lowrank_linear(**on_base()).shape == (B, N, COUT)


def test_a_backend_that_refuses_says_why() -> None:
    in_float64 = {name: x.double() if isinstance(x, Tensor) else x for name, x in arguments().items()}
    with pytest.raises(weft.BackendUnavailableError, match=r"`cpu` does not take this call\n  cpu: needs float32"):
        lowrank_linear(**in_float64, backend="cpu")
    with pytest.raises(weft.BackendUnavailableError, match="has no `cuda` backend"):
        lowrank_linear(**arguments(), backend="cuda")
