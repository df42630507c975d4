"""``attention``: logits edited by label tables, probabilities read out through extra value columns.

The function checks once, here; below it everything trusts its arguments. ``_transforms`` says when the backend is
called straight away and when through the registered operator ``weft::attention``.
"""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor

from weft._dispatch import Backend, Op, requested_backend
from weft.kernels.attention.arguments import TABLE_NAMES, Arguments
from weft.kernels.attention.reference import attention_reference
from weft.kernels.attention.reference_bwd import attention_backward_reference
from weft.ops._autocast import follows_autocast, without_autocast
from weft.ops._transforms import call, second_gradients
from weft.ops._triton import is_interpreted
from weft.ops.attention import checks, cpu, cuda
from weft.ops.attention import triton as gpu
from weft.ops.attention.edit import Edit

_LARGEST_INT32 = torch.iinfo(torch.int32).max


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = ...,
    edit: Edit | None = ...,
    readout: None = ...,
    query_labels: Tensor | None = ...,
    key_labels: Tensor | None = ...,
    key_padding: Tensor | None = ...,
    backend: str | None = ...,
) -> Tensor: ...
@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = ...,
    edit: Edit | None = ...,
    readout: Tensor,
    query_labels: Tensor | None = ...,
    key_labels: Tensor | None = ...,
    key_padding: Tensor | None = ...,
    backend: str | None = ...,
) -> tuple[Tensor, Tensor]: ...
@follows_autocast("attention")
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    edit: Edit | None = None,
    readout: Tensor | None = None,
    query_labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    key_padding: Tensor | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attend with logits edited by label, and read the probabilities out as maps.

        S    = scale * Q K^T                                             [B, H, Nq, Nk], never in memory
        S'   = alpha * S + beta * rowmax(S) + gamma * rowmin(S) + delta   tables looked up at [r(x), c(j)]
        P    = softmax_j(S')
        out  = P V                                                       [B, Nq, H, D]
        maps = mean_h(P W)                                               [B, Nq, M]

    A key is *valid* for a row unless it is padding or ``delta`` is -inf at the row's and the key's label: such a key
    is as if it were absent, whatever its k, v and row of W hold (NaN of uninitialised memory, say), forward
    and backward; the gradient of padding is 0. A row that a NaN or infinity is valid for is not finite: a k spoils all
    of it, a v its ``out``, a row of W its ``maps``, where there are masks in every column. Other rows do not change.
    rowmax and rowmin run over the valid keys of the row, per head. A row without a valid
    key gives zeros in ``out`` and ``maps``. The read-out never changes ``out``. Logits, statistics, edit, softmax
    and maps are fp32 (fp64 for float64 input); a backend may round the probabilities to the dtype of ``q`` for the
    product with V.

    Args:
        q: [B, Nq, H, D], D 1 to 256; float32, bfloat16, float16, or float64 (``reference`` only). Any strides with
            unit stride along D; nothing is copied.
        k, v: [B, Nk, Hk, D], dtype and device of ``q``, likewise. H is a multiple of Hk: head h of q reads head
            h // (H // Hk), as with ``enable_gqa`` of ``scaled_dot_product_attention``; no key is repeated in memory.
        scale: Factor of the raw logits, finite; None for 1 / sqrt(D).
        edit: The four tables, [B or 1, Lq, Lk] float32 each or absent; None for plain logits.
        readout: W, [B or 1, Nk, M] float32 (float64 for float64 input): one column a map. A one-hot column is the
            map of one token, an indicator the summed map of several. None for no maps.
        query_labels: r, integer [B or 1, Nq] in [0, Lq); None for label 0 everywhere. Copied to int32 (B * Nq values)
            unless it is that already. On the CPU the range is checked before anything is computed.
        key_labels: c, integer [B or 1, Nk] in [0, Lk), likewise. ``torch.arange(Nk)[None]`` gives each key its own.
        key_padding: bool [B or 1, Nk], True where a key is padding and must be ignored, as in
            ``torch.nn.MultiheadAttention`` (and the opposite of the mask of ``scaled_dot_product_attention``).
        backend: "cuda", "triton", "cpu", "reference", or None to let ``weft.backend``, WEFT_BACKEND or the library
            choose.

    Returns:
        out, [B, Nq, H, D] in the dtype of ``q``, contiguous; with a read-out (out, maps), maps [B, Nq, M] float32
        (float64 for float64 input).

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: A shape, stride, device, label or scale that does not fit, labels without an edit, or an unknown
            ``backend``.
        BackendUnavailableError: The named backend refuses this call, or none accepts it.

    Gradients: q, k, v, the four tables and the read-out, for gradients arriving at ``out`` and at ``maps``. The row
        maximum counts as the logit of its first largest key and passes its gradient to that key; likewise the
        minimum. A backend without a backward of its own (``cpu``) has it computed in blocks by plain PyTorch. Second
        derivatives are taken of the definition, which forms all probabilities.
    Autocast: as ``scaled_dot_product_attention``: q, k and v are cast to the dtype of the block, which is that of
        ``out``; the tables stay float32, a read-out becomes it, and so are the maps.
    Transforms: inside those of ``torch.func`` (vmap, grad, jvp and so on) and in forward-mode differentiation the
        call is the definition in plain PyTorch, which forms all probabilities; naming another backend than
        ``reference`` raises. For speed put an axis to be mapped into B.
    Backends: cuda (CUDA C++, forward; NVIDIA sm_80 or newer; float16, bfloat16; D 40, 64, 72, 80, 88, 96, 112, 128,
        160, 256; tables up to 24 KB), triton (the same devices, forward and backward; float32, bfloat16, float16;
        any D; M up to 128; by name also on the CPU where TRITON_INTERPRET=1), cpu (C++, forward; float32, bfloat16,
        float16; any D), reference (any device and float dtype). On a GPU a label out of range counts as the nearest
        one in it.

    Source:
        weft's own affine form of MaskDiffusion (arXiv:2309.04399), DenseDiffusion (arXiv:2308.12964, eq. 2-4) and
        DAAM (arXiv:2210.04885); definition in ``weft.kernels.attention.reference``.
    """
    checks.check_qkv(q, k, v)
    scale = checks.check_scale(scale, q.shape[3])
    if edit is not None:
        if not isinstance(edit, Edit):
            raise TypeError(f"attention: `edit` must be a weft.ops.Edit or None; got {type(edit).__name__}")
        for name, table in zip(TABLE_NAMES, edit.tables(), strict=True):
            if table is not None:
                checks.check_table(name, table, q)
    if readout is not None:
        checks.check_readout(readout, q, k.shape[1])
    query_labels = _prepare_labels("query_labels", query_labels, q, q.shape[1], edit)
    key_labels = _prepare_labels("key_labels", key_labels, q, k.shape[1], edit)
    if key_padding is not None:
        checks.check_key_padding(key_padding, q, k.shape[1])

    tables = (None, None, None, None) if edit is None else edit.tables()
    arguments = Arguments(q, k, v, scale, *tables, readout, query_labels, key_labels, key_padding)
    out, maps = call(ATTENTION, _attention_operator, backend, arguments)
    return out if readout is None else (out, maps)


def _prepare_labels(name: str, labels: Tensor | None, q: Tensor, length: int, edit: Edit | None) -> Tensor | None:
    if labels is None:
        return None
    if edit is None:
        raise ValueError(f"attention: `{name}` needs an edit whose tables it looks up; got none")
    checks.check_labels(name, labels, q, length)
    # a wide label must not wrap around into the range: what int32 cannot hold stays outside, for the check to find
    return labels.clamp(-1, _LARGEST_INT32).to(torch.int32) if labels.dtype == torch.int64 else labels.to(torch.int32)


# --- backends ---------------------------------------------------------------------------------------------------


def _refuse_reference(call: Arguments) -> list[str]:
    return []


def _check_labels_on_cpu(call: Arguments) -> None:
    """Read the labels where that costs no wait for a device."""
    if call.q.device.type == "cpu":
        labels_q, labels_k = call.labels
        checks.check_label_range("query_labels", call.query_labels, labels_q)
        checks.check_label_range("key_labels", call.key_labels, labels_k)


def _triton_forward(call: Arguments) -> tuple[Tensor, Tensor]:
    _check_labels_on_cpu(call)
    return gpu.attention_fwd_triton(call)


def _reference_forward(call: Arguments) -> tuple[Tensor, Tensor]:
    _check_labels_on_cpu(call)
    out, maps = attention_reference(call)
    return out.contiguous(), maps.contiguous()


ATTENTION = Op(
    "attention",
    (
        Backend("cuda", cuda.refuse, cuda.attention_fwd_cuda),
        Backend("triton", gpu.refuse, _triton_forward, gpu.attention_bwd_triton, only_by_name=is_interpreted),
        Backend("cpu", cpu.refuse, cpu.attention_fwd_cpu),
        Backend("reference", _refuse_reference, _reference_forward, attention_backward_reference),
    ),
)


# --- registration -----------------------------------------------------------------------------------------------

_INPUTS = (
    "Tensor q, Tensor k, Tensor v, float scale, Tensor? alpha, Tensor? beta, Tensor? gamma, Tensor? delta, "
    "Tensor? readout, Tensor? query_labels, Tensor? key_labels, Tensor? key_padding"
)


@torch.library.custom_op("weft::attention", mutates_args=(), schema=f"({_INPUTS}, str backend) -> (Tensor, Tensor)")
@without_autocast
def _attention_operator(q, k, v, scale, *rest):  # type: ignore[no-untyped-def]
    *optional, backend = rest
    arguments = Arguments(q, k, v, scale, *optional)
    return ATTENTION.choose(requested_backend(backend or None), arguments).forward(arguments)


@_attention_operator.register_fake
def _(q, k, v, scale, alpha, beta, gamma, delta, readout, *rest):  # type: ignore[no-untyped-def]
    columns = 0 if readout is None else readout.shape[2]
    maps_dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty(q.shape), q.new_empty((q.shape[0], q.shape[1], columns), dtype=maps_dtype)


@torch.library.custom_op(
    "weft::attention_backward",
    mutates_args=(),
    schema=f"(Tensor dout, Tensor dmaps, {_INPUTS}, bool table_gradients, bool readout_gradient, "
    # no default: torch leaves out what equals one, and the arguments are taken by position
    "str backend) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
@without_autocast
def _attention_backward_operator(dout, dmaps, *rest):  # type: ignore[no-untyped-def]
    *inputs, table_gradients, readout_gradient, backend = rest
    arguments = Arguments(*inputs)
    chosen = ATTENTION.choose_backward(requested_backend(backend or None), arguments)
    assert chosen.backward is not None
    return tuple(chosen.backward(dout, dmaps, arguments, table_gradients, readout_gradient))


@_attention_backward_operator.register_fake
def _(dout, dmaps, q, k, v, scale, alpha, beta, gamma, delta, readout, *rest):  # type: ignore[no-untyped-def]
    *_, table_gradients, readout_gradient, _ = rest

    def like(x: Tensor | None, wanted: bool) -> Tensor:
        return q.new_empty(0) if x is None or not wanted else x.new_empty(x.shape)

    tables = [like(table, table_gradients) for table in (alpha, beta, gamma, delta)]
    return (like(q, True), like(k, True), like(v, True), *tables, like(readout, readout_gradient))


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    # inputs only: the backward makes logits and probabilities again rather than keep B * H * Nq * Nk of them
    q, k, v, ctx.scale, *rest, backend = inputs
    # asked for here, since backward runs when a block of ``weft.backend`` may be over
    ctx.backend = requested_backend(backend or None)
    ctx.save_for_backward(q, k, v, *rest)


def _backward(ctx, dout, dmaps):  # type: ignore[no-untyped-def]
    q, k, v, *rest = ctx.saved_tensors
    needs = ctx.needs_input_grad
    table_gradients, readout_gradient = any(needs[4:8]), needs[8]
    wanted = (table_gradients, readout_gradient, ctx.backend)
    gradients = _attention_backward_operator(dout, dmaps, q, k, v, ctx.scale, *rest, *wanted)
    dq, dk, dv, *dtables, dreadout = gradients

    def given(gradient: Tensor, position: int) -> Tensor | None:
        return gradient if needs[position] else None

    tables = [given(gradient, 4 + i) for i, gradient in enumerate(dtables)]
    return (
        given(dq, 0),
        given(dk, 1),
        given(dv, 2),
        None,
        *tables,
        given(dreadout, 8),
        None,
        None,
        None,
        None,
    )


_attention_operator.register_autograd(_backward, setup_context=_save_for_backward)

# places of the float inputs among those of the operator
_DIFFERENTIABLE = (0, 1, 2, 4, 5, 6, 7, 8)


def _save_for_second_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    dout, dmaps, q, k, v, ctx.scale, *rest, _, _, _ = inputs
    ctx.save_for_backward(dout, dmaps, q, k, v, *rest)


def _definition(*arguments: Any) -> tuple[Tensor, Tensor]:
    return attention_reference(Arguments(*arguments))


@without_autocast
def _second_backward(ctx, *arriving):  # type: ignore[no-untyped-def]
    dout, dmaps, q, k, v, *rest = ctx.saved_tensors
    arguments = (q, k, v, ctx.scale, *rest)
    found = second_gradients(_definition, arguments, _DIFFERENTIABLE, (dout, dmaps), arriving)
    # table_gradients, readout_gradient, backend
    return (*found, None, None, None)


_attention_backward_operator.register_autograd(_second_backward, setup_context=_save_for_second_backward)
