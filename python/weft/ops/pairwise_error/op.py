"""``pairwise_error``: how far the prediction of every (row, column) is from the target of its row, and what a softmax
over columns makes of that: ``bounded_logit``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weft._dispatch import Backend, Op, requested_backend
from weft.kernels.pairwise_error.reference import pairwise_error_backward_reference, pairwise_error_reference
from weft.ops._autocast import follows_autocast, without_autocast
from weft.ops._transforms import call, second_gradients
from weft.ops._triton import is_interpreted
from weft.ops.pairwise_error import checks, cpu
from weft.ops.pairwise_error import triton as gpu


@follows_autocast("pairwise_error")
def pairwise_error(pred: Tensor, target: Tensor, *, backend: str | None = None) -> Tensor:
    """Mean squared error of the prediction of every (row, column) against the target of its row.

        e_rc = mean over the rest of (pred_rc - target_r)^2

    Neither the differences nor a target repeated for every column are formed, forward or backward.

    Args:
        pred: [R, C, ...], at least one axis after the first two, float32, bfloat16, float16 or float64, any strides.
            In SoftREPA [images, captions, channels, h, w].
        target: [R, ...], the same rest, dtype and device, any strides.
        backend: "triton", "cpu", "reference", or None to let ``weft.backend``, WEFT_BACKEND or the library choose.

    Returns:
        [R, C], float32, or float64 for float64 input.

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: A shape or device that does not fit, or an unknown ``backend``.
        BackendUnavailableError: The named backend refuses this call, or none accepts it.

    Gradients: pred, target, laid out as they are; only what is asked for is computed. The same bits on every run.
        Second derivatives are taken of the definition, which forms all differences.
    Autocast: in float32 as ``torch.nn.functional.mse_loss``. As that is so of any input, only a prediction and a
        target of unlike dtypes are cast, to the wider of the two.
    Transforms: inside those of ``torch.func`` (vmap, grad, jvp and so on) and in forward-mode differentiation the
        call is the definition in plain PyTorch, which forms all differences; naming another backend than
        ``reference`` raises. For speed put an axis to be mapped into R.
    Backends: triton (NVIDIA sm_80 or newer; float32, bfloat16, float16; copies what no stride leads through, such as
        a crop; by name also on the CPU where TRITON_INTERPRET=1), cpu (any float dtype), reference (any device and
        float dtype; forms all differences).

    Source:
        SoftREPA (arXiv:2503.08250); definition in ``weft.kernels.pairwise_error.reference``.
    """
    checks.check_pairs(pred, target)
    error: Tensor = call(PAIRWISE_ERROR, _pairwise_error_operator, backend, pred, target)
    return error


def bounded_logit(error: Tensor, scale: float | Tensor = 4.0, width: float | Tensor = 0.07) -> Tensor:
    """``scale`` * exp(-``error`` / ``width``): in (0, scale], and nearly flat for errors of many widths.

    With it a softmax over captions compares predictions that are close, and pairs that are far off hardly train.
    Of [R, C] errors nothing is large: the loss is torch.nn.functional.cross_entropy of the result, with the number of
    the matching column of each row.

    Args:
        error: Any shape, 0 or more, as ``pairwise_error`` gives it.
        scale: The largest logit; a tensor may be learnt.
        width: The error at which a logit has fallen to 1/e of it; likewise.

    Returns:
        Shape and dtype of ``error``.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: A constant that is not above 0.

    Source:
        SoftREPA (arXiv:2503.08250), as released: 4 and 0.07, not learnt.
    """
    checks.check_logit(error, scale, width)
    return scale * torch.exp(-error / width)


# --- backends ---------------------------------------------------------------------------------------------------


def _refuse_triton(pred: Tensor, *rest: Any) -> list[str]:
    return gpu.refuse(pred)


def _refuse_cpu(pred: Tensor, *rest: Any) -> list[str]:
    return cpu.refuse(pred)


def _refuse_reference(*arguments: Any) -> list[str]:
    return []


PAIRWISE_ERROR = Op(
    "pairwise_error",
    (
        Backend(
            "triton",
            _refuse_triton,
            gpu.pairwise_error_fwd_triton,
            gpu.pairwise_error_bwd_triton,
            only_by_name=is_interpreted,
        ),
        Backend("cpu", _refuse_cpu, cpu.pairwise_error_fwd_cpu, cpu.pairwise_error_bwd_cpu),
        Backend("reference", _refuse_reference, pairwise_error_reference, pairwise_error_backward_reference),
    ),
)


# --- registration -----------------------------------------------------------------------------------------------


@torch.library.custom_op(
    "weft::pairwise_error", mutates_args=(), schema="(Tensor pred, Tensor target, str backend) -> Tensor"
)
@without_autocast
def _pairwise_error_operator(pred, target, backend):  # type: ignore[no-untyped-def]
    return PAIRWISE_ERROR.choose(requested_backend(backend or None), pred, target).forward(pred, target)


@_pairwise_error_operator.register_fake
def _(pred, target, backend):  # type: ignore[no-untyped-def]
    return pred.new_empty(pred.shape[:2], dtype=torch.promote_types(pred.dtype, torch.float32))


@torch.library.custom_op(
    "weft::pairwise_error_backward",
    mutates_args=(),
    # no default for the backend: torch leaves out what equals one, and the arguments are taken by position
    schema="(Tensor derror, Tensor pred, Tensor target, bool pred_wanted, bool target_wanted, str backend) "
    "-> (Tensor, Tensor)",
)
@without_autocast
def _pairwise_error_backward_operator(derror, pred, target, pred_wanted, target_wanted, backend):  # type: ignore[no-untyped-def]
    chosen = PAIRWISE_ERROR.choose_backward(requested_backend(backend or None), pred, target)
    assert chosen.backward is not None
    return chosen.backward(derror, pred, target, (pred_wanted, target_wanted))


@_pairwise_error_backward_operator.register_fake
def _(derror, pred, target, pred_wanted, target_wanted, backend):  # type: ignore[no-untyped-def]
    wanted = ((pred, pred_wanted), (target, target_wanted))
    return tuple(torch.empty_like(x) if want else x.new_empty(0) for x, want in wanted)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    pred, target, backend = inputs
    # asked for here, since backward runs when a block of ``weft.backend`` may be over
    ctx.backend = requested_backend(backend or None)
    ctx.save_for_backward(pred, target)


def _backward(ctx, derror):  # type: ignore[no-untyped-def]
    pred, target = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:2]
    gradients = _pairwise_error_backward_operator(derror, pred, target, *wanted, ctx.backend)
    return (*(gradient if want else None for gradient, want in zip(gradients, wanted, strict=True)), None)


_pairwise_error_operator.register_autograd(_backward, setup_context=_save_for_backward)


def _save_for_second_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    derror, pred, target, *_ = inputs
    ctx.save_for_backward(derror, pred, target)


@without_autocast
def _second_backward(ctx, *arriving):  # type: ignore[no-untyped-def]
    derror, *pair = ctx.saved_tensors
    found = second_gradients(pairwise_error_reference, pair, range(2), (derror,), arriving)
    # pred_wanted, target_wanted, backend
    return (*found, None, None, None)


_pairwise_error_backward_operator.register_autograd(_second_backward, setup_context=_save_for_second_backward)
