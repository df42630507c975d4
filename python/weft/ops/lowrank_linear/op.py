"""``lowrank_linear``: a linear layer plus gated low-rank terms, one for each concept, in one call.

The function checks once, here, and brings every argument to one form: rows [B, N, C], matrices, a gate of three axes.
Plain inference calls the backend straight away; a call that needs gradients or is being traced goes through the
registered operator ``weft::lowrank_linear``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft._dispatch import Backend, Op, requested_backend
from weft.kernels.lowrank_linear.arguments import Arguments
from weft.kernels.lowrank_linear.reference import lowrank_linear_reference
from weft.kernels.lowrank_linear.reference_bwd import Wanted, lowrank_linear_backward_reference
from weft.ops._autocast import follows_autocast, without_autocast
from weft.ops._transforms import call, second_gradients
from weft.ops._triton import is_interpreted
from weft.ops.lowrank_linear import checks, cpu
from weft.ops.lowrank_linear import triton as gpu


@follows_autocast("lowrank_linear")
def lowrank_linear(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
    *,
    down: Tensor | None = None,
    up: Tensor | None = None,
    ranks: Sequence[int] | None = None,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    base: Tensor | None = None,
    grid: tuple[int, int] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Apply a linear layer and, each as far as its gate is open, the low-rank terms of up to 64 concepts and more.

        y = x W^T + b + ((x A^T) * expand(G)) B^T + residual

    One projection serves an ordinary LoRA, several at once, a different one in every image of a batch, and one that
    acts only where a mask says so. A gate that is zero everywhere gives the bits of the call without concepts.
    Products are accumulated in fp32 (fp64 for float64 input); a backend may round x A^T * G to the dtype of ``x``
    for the product with B. Factors and ``x`` must be finite, also where a gate is zero.

    Args:
        x: [..., rows, Cin], float32, bfloat16, float16, or float64 (``reference`` only). Any strides: a feature map
            [B, Cin, h, w] goes in as ``image.flatten(2).transpose(1, 2)``, which copies nothing. Axes before the
            rows are the batch B.
        weight: W, [Cout, Cin], or [Cout, Cin, 1, 1] of a 1x1 convolution, dtype and device of ``x``, any strides.
            None where ``base`` is given.
        bias: b, [Cout], dtype of ``x``, or None.
        down: A, [R, Cin] or [R, Cin, 1, 1]: the factors that are applied first, all concepts stacked (peft's
            ``lora_A``). None for no concepts.
        up: B, [Cout, R] or [Cout, R, 1, 1]: those applied second (peft's ``lora_B``). None with ``down``.
        ranks: How many rows of ``down`` each of the K concepts has, sum R; None for one concept. They are sizes, so
            new ones recompile. Where concepts are exchanged, give every slot the largest rank and fill what a concept
            leaves over with zeros in ``down`` and ``up``: that adds exactly nothing, and nothing recompiles.
        gate: G, float32 (float64 for float64 input), any strides: [K]; [B, K], or [rows, K] where x has no batch;
            [B or 1, rows or 1, K]. Strength times mask times which image uses which concept. None for 1.
        residual: Added to the result: [..., rows, Cout], or an image [B, Cout, h, w] with h * w = rows beside x
            [B, rows, Cin]; dtype of ``x``, any strides (an image whose last two axes do not lie as one is copied).
        base: What the layer itself gave, likewise, in place of W and b: for layers that are quantised or wrapped, of
            which nothing is unpacked here. Both addends are of one form.
        grid: (h, w) of the image that the rows are, for a result as an image where no addend says so.
        backend: "triton", "cpu", "reference", or None to let ``weft.backend``, WEFT_BACKEND or the library choose.

    Returns:
        [..., rows, Cout] in the dtype of ``x``, contiguous. Where an addend is an image, or with ``grid``,
        [B, Cout, h, w]: in channels_last memory if the addend is, else contiguous.

    Raises:
        TypeError: An argument of the wrong type or dtype, or a weight that is not a plain tensor.
        ValueError: A shape, device or rank that does not fit, or an unknown ``backend``.
        BackendUnavailableError: The named backend refuses this call, or none accepts it.

    Gradients: x, weight, bias, down, up, gate, residual, base; of the first four only those asked for are computed.
        Second derivatives are taken of the definition.
    Autocast: as ``torch.nn.functional.linear``: x, weight, bias, both factors and what is added are cast to the dtype
        of the block, which is that of the result; the gate becomes float32.
    Transforms: inside those of ``torch.func`` (vmap, grad, jvp and so on) and in forward-mode differentiation the
        call is the definition in plain PyTorch; naming another backend than ``reference`` raises. For speed put an
        axis to be mapped before the rows.
    Backends: triton (NVIDIA sm_80 or newer; float32, bfloat16, float16; forward and backward; by name also on the
        CPU where TRITON_INTERPRET=1), cpu (C++ with AVX2 or AVX-512, else BLAS; passes over concepts where their
        gate is zero; forward; float32, bfloat16, float16), reference (any device and float dtype).

    Source:
        weft's own form of Personalized Residuals with localized sampling (arXiv:2405.12978, whose A is ``up`` and
        whose B is ``down``) and of LoRA (arXiv:2106.09685); definition in ``weft.kernels.lowrank_linear.reference``.
    """
    checks.check_x(x)
    checks.check_one_base(weight, bias, base)
    if weight is not None:
        checks.check_weight(weight, bias, x)
        weight = _matrix(weight)
        width = weight.shape[0]
    else:
        assert base is not None
        width = checks.check_base(base, x)
    checks.check_factors(down, up, x, width)
    ranks = checks.check_ranks(ranks, 0 if down is None else down.shape[0])
    rows = _batched(x)
    if gate is not None:
        checks.check_gate(gate, x, rows.shape[0], len(ranks))
        gate = _three_axes(gate, x)
    grids = {} if grid is None else {"grid": checks.check_grid(grid, x)}
    for name, addend in (("residual", residual), ("base", base)):
        if addend is not None:
            checks.check_addend(name, addend, x, width)
            grids[name] = (addend.shape[2], addend.shape[3]) if checks.is_image(addend, x) else None
    grid = checks.check_one_grid(grids)
    channels_last = grid is not None and any(_lies_channels_last(a) for a in (residual, base))

    arguments = Arguments(
        rows,
        weight,
        bias,
        None if down is None else _matrix(down),
        None if up is None else _matrix(up),
        ranks,
        gate,
        None if residual is None else _as_rows(residual, grid),
        None if base is None else _as_rows(base, grid),
        grid is not None and not channels_last,
    )
    y: Tensor = call(LOWRANK_LINEAR, _lowrank_linear_operator, backend, arguments)
    shape = (*x.shape[:-1], width) if grid is None else (x.shape[0], width, *grid)
    return (y.transpose(1, 2) if channels_last else y).view(shape)


def _matrix(x: Tensor) -> Tensor:
    """[p, q] of [p, q] or [p, q, 1, 1], whatever its strides."""
    return x if x.ndim == 2 else x[:, :, 0, 0]


def _batched(x: Tensor) -> Tensor:
    """[..., rows, C] as [B, rows, C]."""
    return x[None] if x.ndim == 2 else x.flatten(0, -3) if x.ndim > 3 else x


def _as_rows(addend: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """An addend as [B, rows, Cout]; a view wherever its strides allow one."""
    return _batched(addend) if grid is None else addend.flatten(2).transpose(1, 2)


def _three_axes(gate: Tensor, x: Tensor) -> Tensor:
    """The gate as [B or 1, rows or 1, K]."""
    if gate.ndim == 1:
        return gate[None, None]
    if gate.ndim == 2:
        return gate[None] if x.ndim == 2 else gate[:, None]
    return gate


def _lies_channels_last(addend: Tensor | None) -> bool:
    return (
        addend is not None and addend.is_contiguous(memory_format=torch.channels_last) and not addend.is_contiguous()
    )


# --- backends ---------------------------------------------------------------------------------------------------


def _refuse_reference(call: Arguments) -> list[str]:
    return []


def _reference_forward(call: Arguments) -> Tensor:
    y = lowrank_linear_reference(call)
    # `base` itself may be what is left, and the result of an operator must not be an input
    y = y.clone() if y is call.base else y
    return (y.transpose(1, 2) if call.channels_first else y).contiguous()


LOWRANK_LINEAR = Op(
    "lowrank_linear",
    (
        Backend(
            "triton",
            gpu.refuse,
            gpu.lowrank_linear_fwd_triton,
            gpu.lowrank_linear_bwd_triton,
            only_by_name=is_interpreted,
        ),
        Backend("cpu", cpu.refuse, cpu.lowrank_linear_fwd_cpu),
        Backend("reference", _refuse_reference, _reference_forward, lowrank_linear_backward_reference),
    ),
)


# --- registration -----------------------------------------------------------------------------------------------


@torch.library.custom_op(
    "weft::lowrank_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor? weight, Tensor? bias, Tensor? down, Tensor? up, int[] ranks, Tensor? gate, "
    "Tensor? residual, Tensor? base, bool channels_first, str backend) -> Tensor",
)
@without_autocast
def _lowrank_linear_operator(x, weight, bias, down, up, ranks, *rest):  # type: ignore[no-untyped-def]
    *optional, backend = rest
    arguments = Arguments(x, weight, bias, down, up, tuple(ranks), *optional)
    return LOWRANK_LINEAR.choose(requested_backend(backend or None), arguments).forward(arguments)


@_lowrank_linear_operator.register_fake
def _(x, weight, bias, down, up, ranks, gate, residual, base, channels_first, backend):  # type: ignore[no-untyped-def]
    width = base.shape[2] if weight is None else weight.shape[0]
    samples, rows = x.shape[:2]
    return x.new_empty((samples, width, rows) if channels_first else (samples, rows, width))


@torch.library.custom_op(
    "weft::lowrank_linear_backward",
    mutates_args=(),
    # no default for the backend: torch leaves out what equals one, and the arguments are taken by position
    schema="(Tensor dy, Tensor x, Tensor? weight, Tensor? down, Tensor? up, int[] ranks, Tensor? gate, "
    "bool[] wanted, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
@without_autocast
def _lowrank_linear_backward_operator(dy, x, weight, down, up, ranks, gate, wanted, backend):  # type: ignore[no-untyped-def]
    arguments = Arguments(x, weight, None, down, up, tuple(ranks), gate)
    chosen = LOWRANK_LINEAR.choose_backward(requested_backend(backend or None), arguments)
    assert chosen.backward is not None
    return tuple(chosen.backward(dy, arguments, Wanted(*wanted)))


@_lowrank_linear_backward_operator.register_fake
def _(dy, x, weight, down, up, ranks, gate, wanted, backend):  # type: ignore[no-untyped-def]
    bias = x.new_empty(dy.shape[2])
    inputs = (x, weight, bias, down, up, gate)
    return tuple(
        x.new_empty(0) if like is None or not want else like.new_empty(like.shape)
        for like, want in zip(inputs, wanted, strict=True)
    )


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, _, down, up, ctx.ranks, gate, *_, ctx.channels_first, backend = inputs
    # asked for here, since backward runs when a block of ``weft.backend`` may be over
    ctx.backend = requested_backend(backend or None)
    # x A^T is made again: it is a small product, and forward never has it in memory as a whole
    ctx.save_for_backward(x, weight, down, up, gate)


def _backward(ctx, dy):  # type: ignore[no-untyped-def]
    x, weight, down, up, gate = ctx.saved_tensors
    needs = ctx.needs_input_grad
    # x, weight, bias, down, up, ranks, gate, residual, base, channels_first, backend
    wanted = [*needs[:5], needs[6]]
    rows = dy.transpose(1, 2) if ctx.channels_first else dy
    found: list[Tensor | None] = [None] * len(wanted)
    if any(wanted):
        gradients = _lowrank_linear_backward_operator(rows, x, weight, down, up, ctx.ranks, gate, wanted, ctx.backend)
        found = [gradient if want else None for gradient, want in zip(gradients, wanted, strict=True)]
    *through_factors, dgate = found
    addends = (rows if needs[7] else None, rows if needs[8] else None)
    return (*through_factors, None, dgate, *addends, None, None)


_lowrank_linear_operator.register_autograd(_backward, setup_context=_save_for_backward)


def _save_for_second_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    dy, x, weight, down, up, ctx.ranks, gate, _, _ = inputs
    ctx.save_for_backward(dy, x, weight, down, up, gate)


@without_autocast
def _second_backward(ctx, *arriving):  # type: ignore[no-untyped-def]
    dy, x, weight, down, up, gate = ctx.saved_tensors
    # y is linear in the bias and in what is added, so nothing else depends on their values
    zeros = dy.new_zeros(())

    def definition(x, weight, bias, down, up, gate):  # type: ignore[no-untyped-def]
        base = zeros.expand(dy.shape) if weight is None else None
        return lowrank_linear_reference(Arguments(x, weight, bias, down, up, tuple(ctx.ranks), gate, None, base))

    # an empty gradient stands for a bias that is not there
    bias = None if arriving[2] is None or not arriving[2].numel() else zeros.expand(dy.shape[2])
    arguments = (x, weight, bias, down, up, gate)
    ddy, dx, dweight, _, ddown, dup, dgate = second_gradients(definition, arguments, range(6), (dy,), arriving)
    # ranks, wanted, backend
    return ddy, dx, dweight, ddown, dup, None, dgate, None, None


_lowrank_linear_backward_operator.register_autograd(_second_backward, setup_context=_save_for_second_backward)
