"""Random inputs of ``lowrank_linear``, as hosts really lay them out, and the op as plain PyTorch does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

X_LAYOUTS = ("contiguous", "image", "sliced", "expanded")
WEIGHTS = ("linear", "convolution", "transposed", "base")
GATES = ("none", "concepts", "samples", "rows", "shared_rows", "strided_rows", "expanded_rows", "sliced_rows")
ADDENDS = ("none", "rows", "strided_rows", "image", "channels_last", "cropped_image")


@dataclass(frozen=True)
class LowrankCase:
    """One call to draw.

    Attributes:
        samples, grid, width_in, width_out: B, (h, w), Cin, Cout; there are N = h * w rows.
        ranks: Of each concept; () for no concepts.
        dtype: Of everything but the gate, which is float32, or float64 beside float64.
        x_layout: One of ``X_LAYOUTS``: [B, N, Cin]; the transposed view of [B, Cin, h, w]; columns inside wider rows
            whose other values are NaN; one sample for all, with stride 0.
        weight: One of ``WEIGHTS``: [Cout, Cin]; [Cout, Cin, 1, 1]; the transpose of [Cin, Cout]; ``base`` instead.
        bias: Whether there is one.
        gate: One of ``GATES``: None; [K]; [B, K]; [B, N, K]; [1, N, K]; [B, N, K] as the transpose of [B, K, N]; the
            same row N times, with stride 0; columns inside wider rows whose other values are NaN.
        closed: Share of the gate that is zero.
        residual: One of ``ADDENDS``: None; [B, N, Cout]; the transpose of [B, Cout, N]; [B, Cout, h, w]; the same in
            channels_last memory; the same inside a larger image.
        as_image: Whether ``grid`` is given, for an image without an addend that is one.
    """

    samples: int = 2
    grid: tuple[int, int] = (4, 6)
    width_in: int = 40
    width_out: int = 24
    ranks: tuple[int, ...] = (4, 4)
    dtype: torch.dtype = torch.float32
    x_layout: str = "contiguous"
    weight: str = "linear"
    bias: bool = True
    gate: str = "rows"
    closed: float = 0.5
    residual: str = "none"
    as_image: bool = False

    @property
    def rows(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True, eq=False)
class LowrankInputs:
    """The arguments of one call by the names of ``weft.ops.lowrank_linear``."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None = None
    down: Tensor | None = None
    up: Tensor | None = None
    ranks: tuple[int, ...] | None = None
    gate: Tensor | None = None
    residual: Tensor | None = None
    base: Tensor | None = None
    grid: tuple[int, int] | None = None

    def arguments(self) -> dict[str, Any]:
        """All fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are there; every one can have a gradient."""
        return {name: x for name, x in self.arguments().items() if isinstance(x, Tensor)}

    def mapped(self, change: Callable[[Tensor], Tensor]) -> LowrankInputs:
        """The same call with every tensor changed."""
        changed: dict[str, Any] = {name: change(x) for name, x in self.tensors().items()}
        return replace(self, **changed)

    def in_float64(self) -> LowrankInputs:
        """The same values in float64, detached."""
        return self.mapped(lambda x: x.detach().double())

    def with_gradients(self) -> LowrankInputs:
        """The same values and strides as leaves that ask for a gradient."""
        return self.mapped(lambda x: x.detach().requires_grad_())

    def without_concepts(self) -> LowrankInputs:
        """The layer alone."""
        return replace(self, down=None, up=None, ranks=None, gate=None)


def make_lowrank_inputs(case: LowrankCase, seed: int = 0, device: str = "cpu") -> LowrankInputs:
    """Draw the tensors of ``case``. The same seed gives the same values on every device."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(case.dtype).to(device)

    samples, rows, width_in, width_out = case.samples, case.rows, case.width_in, case.width_out
    x = _X_MAKERS[case.x_layout](draw(samples, rows, width_in))
    weight = base = bias = None
    if case.weight == "base":
        # the layer's own output lies as the residual does, or as rows
        base = _addend(case, "rows" if case.residual == "none" else case.residual, draw)
    else:
        weight = draw(width_out, width_in, scale=width_in**-0.5)
        weight = weight[:, :, None, None] if case.weight == "convolution" else weight
        weight = weight.T.contiguous().T if case.weight == "transposed" else weight
        bias = draw(width_out) if case.bias else None
    down = up = gate = ranks = None
    if case.ranks:
        ranks, total = case.ranks, sum(case.ranks)
        down, up = draw(total, width_in, scale=width_in**-0.5), draw(width_out, total)
        gate = _gate(case, generator)
        gate = None if gate is None else gate.to(device)
    residual = None if case.residual == "none" else _addend(case, case.residual, draw)
    # an addend in the form of rows says that the result has rows too
    says_rows = case.weight == "base" or case.residual in ("rows", "strided_rows")
    grid = case.grid if case.as_image and not says_rows else None
    return LowrankInputs(x, weight, bias, down, up, ranks, gate, residual, base, grid)


def lowrank_linear_eager(inputs: LowrankInputs) -> Tensor:
    """The op as a peft-style layer does it: every product in the dtype of ``x``, rounded one after the other."""
    # contiguous: torch's bf16 product on AMX lets what lies between the rows of a slice into the result
    x, down, up, gate = inputs.x.contiguous(), inputs.down, inputs.up, inputs.gate
    image = next((a for a in (inputs.residual, inputs.base) if a is not None and a.ndim == 4), None)
    grid = tuple(image.shape[2:]) if image is not None and x.ndim == 3 else inputs.grid
    if inputs.weight is None:
        assert inputs.base is not None
        y = inputs.base if grid is None else inputs.base.flatten(2).transpose(1, 2)
    else:
        y = F.linear(x, inputs.weight.flatten(1), inputs.bias)
    if down is not None and up is not None:
        h = F.linear(x, down.flatten(1))
        if gate is not None:
            each = torch.tensor(inputs.ranks, device=gate.device)
            if gate.ndim == 2 and x.ndim > 2:
                gate = gate[:, None]
            h = h * gate.to(x.dtype).repeat_interleave(each, -1, output_size=down.shape[0])
        y = y + F.linear(h, up.flatten(1))
    if grid is not None:
        y = y.transpose(1, 2).reshape(y.shape[0], y.shape[2], *grid)
    return y if inputs.residual is None else y + inputs.residual


def _gate(case: LowrankCase, generator: torch.Generator) -> Tensor | None:
    concepts = len(case.ranks)
    shape = {
        "none": (0,),
        "concepts": (concepts,),
        "samples": (case.samples, concepts),
        "rows": (case.samples, case.rows, concepts),
        "shared_rows": (1, case.rows, concepts),
        "strided_rows": (case.samples, concepts, case.rows),
        "expanded_rows": (case.samples, 1, concepts),
        "sliced_rows": (case.samples, case.rows, concepts),
    }[case.gate]
    if case.gate == "none":
        return None
    wide = torch.float64 if case.dtype == torch.float64 else torch.float32
    gate = torch.rand(shape, generator=generator).add_(0.25)
    gate[torch.rand(shape, generator=generator) < case.closed] = 0.0
    gate = gate.to(wide)
    if case.gate == "strided_rows":
        return gate.transpose(1, 2)
    if case.gate == "expanded_rows":
        return gate.expand(-1, case.rows, -1)
    return _sliced(gate) if case.gate == "sliced_rows" else gate


def _addend(case: LowrankCase, layout: str, draw: Callable[..., Tensor]) -> Tensor:
    (height, width), channels = case.grid, case.width_out
    if layout == "rows":
        return draw(case.samples, case.rows, channels)
    if layout == "strided_rows":
        return draw(case.samples, channels, case.rows).transpose(1, 2)
    image = draw(case.samples, channels, height + 2, width + 3)
    if layout == "cropped_image":
        return image[:, :, 1 : height + 1, 2 : width + 2]
    image = image[:, :, :height, :width].contiguous()
    return image.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else image


def _sliced(x: Tensor) -> Tensor:
    wider = x.new_full((*x.shape[:-1], x.shape[-1] + 5), torch.nan)
    wider[..., 3 : 3 + x.shape[-1]] = x
    return wider[..., 3 : 3 + x.shape[-1]]


_X_MAKERS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "image": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "sliced": _sliced,
    "expanded": lambda x: x[:1].expand_as(x),
}
