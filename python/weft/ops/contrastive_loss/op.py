"""``contrastive_loss``: the positives of each row against its other columns, without the matrix of logits.

The function checks once, here, and turns words into ids. A call that needs gradients or is being traced goes through
the registered operator ``weft::contrastive_loss``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from weft._dispatch import Backend, Op, named_in_trace, requested_backend
from weft.kernels.contrastive_loss.arguments import Segment
from weft.kernels.contrastive_loss.reference import contrastive_loss_reference, loss_of, segment_statistics
from weft.kernels.contrastive_loss.reference_bwd import Wanted, contrastive_loss_backward_reference
from weft.ops._autocast import follows_autocast, without_autocast
from weft.ops._transforms import is_transformed, needs_operator, second_gradients
from weft.ops._triton import is_interpreted
from weft.ops.contrastive_loss import checks, cpu
from weft.ops.contrastive_loss import triton as gpu
from weft.ops.contrastive_loss.columns import Columns, Ids, as_segment


@follows_autocast("contrastive_loss")
def contrastive_loss(
    rows: Tensor,
    cols: Tensor | Sequence[Columns],
    *,
    positives: Ids | str = "diagonal",
    exclude: Ids | str | None = None,
    classes: Ids | None = None,
    temperature: float | Tensor = 1.0,
    symmetric: bool = False,
    normalize: bool = False,
    group: Any = None,
    backend: str | None = None,
) -> Tensor:
    """Classify the positives of each row against its other columns, by softmax over products.

        s_ik = a_i . c_k / T
        L    = mean over rows i with a positive of (log of the sum of exp(s_ik) over admissible k
                                                    - mean of s_ik over the positives k of i)

    Which pairs are positive and which are left out is given by ids, so that no [R, K] mask is needed either:

        InfoNCE             contrastive_loss(a, c, temperature=0.07, symmetric=True, normalize=True)
        NT-Xent             contrastive_loss(z, z, positives=arange(n).repeat(2), exclude="self", temperature=0.5)
        several positives   contrastive_loss(a, c, positives=(class_of_row, class_of_column))
        false negatives     contrastive_loss(a, c, classes=class_of_caption)
        two kinds at once   contrastive_loss(fake, [Columns(fake, pairs, "self", temperature=0.5, weight=0.2),
                                                    Columns(real, temperature=0.1)])

    No matrix of logits is formed but by ``reference``: forward keeps four numbers a row, and a column where symmetric,
    backward makes the products again. Nothing is dropped, however small its probability. Logits that are already
    there, few as those of ``bounded_logit``, want torch.nn.functional.cross_entropy.

    Args:
        rows: A, [R, D], float32, bfloat16, float16 or float64, any strides.
        cols: C, [K, D], dtype and device of ``rows``, any strides; or several ``Columns``, each with a denominator
            and with all of the following up to ``symmetric`` of its own. Their losses are added by weight.
        positives: "diagonal", row i and column i; or integer ids, equal where a pair is positive: [R] and [K], or one
            tensor for both. Equal ids may be many. A row without a positive has no part in the loss.
        exclude: Pairs that are left out, positive or not: "self", row i and column i; or ids, equal where they are.
        classes: Ids, equal where a pair is left out unless it is positive.
        temperature: T, above 0, which is not checked of a tensor; that may be learnt (CLIP learns log(1 / T)).
        symmetric: Whether to average with the same loss of columns against rows.
        normalize: Whether rows and columns are first brought to length 1, in fp32, and rounded to their dtype. Rows
            of zeros stay zeros.
        group: Of ``torch.distributed``, where rows and columns are spread over its ranks, equally many on each. The
            columns and their ids are then those of all ranks, one rank after the other; "diagonal" and "self" mean the
            own ones. The mean over ranks of the results is the result of one process that has everything, and the
            gradients averaged over ranks, as DistributedDataParallel does, are its gradients, provided that each rank
            has as many rows with a positive.
        backend: "triton", "cpu", "reference", or None to let ``weft.backend``, WEFT_BACKEND or the library choose.

    Returns:
        0-dim, float32, or float64 for float64 input; 0 where no row has a positive.

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: A shape, device or number that does not fit, an unknown word or ``backend``.
        BackendUnavailableError: The named backend refuses this call, or none accepts it.

    Gradients: rows, cols, temperature; of each only what is asked for is computed. The same bits on every run.
        Second derivatives are taken of the definition, which forms all logits.
    Autocast: in float32 as torch's own losses. As that is so of any input, only rows and columns of unlike dtypes are
        cast, to the widest of theirs.
    Transforms: inside those of ``torch.func`` (vmap, grad, jvp and so on) and in forward-mode differentiation the
        call is the definition in plain PyTorch, which forms all logits; naming another backend than ``reference``
        raises.
    Backends: triton (NVIDIA sm_80 or newer; float32, bfloat16, float16; gradients at logits are rounded to the dtype
        of the features before the products with these; by name also on the CPU where TRITON_INTERPRET=1), cpu (BLAS
        by tiles; any float dtype, computed in fp32 or better), reference (any device and float dtype; forms all
        logits).

    Source:
        The sources of ``weft.kernels.contrastive_loss.reference``, the definition; two kinds of columns at once after
        the fake-to-fake and fake-to-real losses of arXiv:2312.10854, whose own equations are not public.
    """
    checks.check_rows(rows)
    options = {
        "positives": positives,
        "exclude": exclude,
        "classes": classes,
        "temperature": temperature,
        "symmetric": symmetric,
    }
    segments = checks.check_segments(cols, options)
    return _total(_sweeps(rows, segments, normalize, group, backend))


@follows_autocast("contrastive_loss")
def contrastive_loss_parts(
    rows: Tensor,
    cols: Sequence[Columns],
    *,
    normalize: bool = False,
    group: Any = None,
    backend: str | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """``contrastive_loss`` of several ``Columns``, and of the same sweep the loss of each.

    Returns:
        The loss, and of each segment its own without its weight and without gradient, 0-dim.

    Raises:
        As ``contrastive_loss``, whose arguments these are.
    """
    checks.check_rows(rows)
    segments = checks.check_segments(cols, {})
    first, *turned = swept = _sweeps(rows, segments, normalize, group, backend)
    parts, opposite = first.parts(), iter(turned)
    for place, segment in enumerate(segments):
        # across ranks the two directions of a symmetric loss are sweeps of their own
        if segment.symmetric and turned:
            parts[place] = (parts[place] + next(opposite).parts()[0]) / 2
    return _total(swept), parts


class _Sweep(NamedTuple):
    """A loss, and what it was made of."""

    loss: Tensor
    segments: list[Segment]
    statistics: list[Tensor]

    def parts(self) -> list[Tensor]:
        """Of each segment the loss without its weight, and without gradient."""
        pairs = zip(self.segments, self.statistics, strict=True)
        return [loss_of([one._replace(weight=1.0)], [found.detach()]) for one, found in pairs]


def _total(swept: list[_Sweep]) -> Tensor:
    return swept[0].loss if len(swept) == 1 else torch.stack([one.loss for one in swept]).sum()


def _sweeps(rows: Tensor, segments: list[Columns], normalize: bool, group: Any, backend: str | None) -> list[_Sweep]:
    """What the loss is the sum of; more than one only across ranks."""
    for segment in segments:
        checks.check_segment(segment, rows)
    if normalize:
        rows, segments = _normalized(rows, segments)
    calls = [(rows, segments)]
    if group is not None:
        # not every build of torch has what this imports
        from weft.ops.contrastive_loss.ranks import across_ranks

        calls = across_ranks(rows, segments, group)
    return [_contrast(*call, backend) for call in calls]


def _normalized(rows: Tensor, segments: list[Columns]) -> tuple[Tensor, list[Columns]]:
    """Everything at length 1; rows that are columns, too, are normalised once."""
    unit = _unit(rows)
    return unit, [replace(one, values=unit if one.values is rows else _unit(one.values)) for one in segments]


def _unit(x: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    return F.normalize(x.to(wide), dim=1).to(x.dtype)


def _contrast(rows: Tensor, columns: list[Columns], backend: str | None) -> _Sweep:
    """The loss of checked arguments."""
    segments = [as_segment(one, rows) for one in columns]
    if not is_transformed() and needs_operator([rows, *(x for one in segments for x in one)]):
        values, temperatures, *rest = (list(of_each) for of_each in zip(*segments, strict=True))
        arguments = (rows, values, torch.stack(temperatures), *rest, named_in_trace(backend))
        loss, statistics = _contrastive_loss_operator(*arguments)
        return _Sweep(loss, segments, statistics)
    if is_transformed():
        chosen = CONTRASTIVE_LOSS.definition(backend)
    else:
        chosen = CONTRASTIVE_LOSS.choose(requested_backend(backend), rows, segments)
    statistics = chosen.forward(rows, segments)
    return _Sweep(loss_of(segments, statistics), segments, statistics)


# --- backends ---------------------------------------------------------------------------------------------------


def _refuse_triton(rows: Tensor, segments: list[Segment]) -> list[str]:
    return gpu.refuse(rows)


def _refuse_cpu(rows: Tensor, segments: list[Segment]) -> list[str]:
    return cpu.refuse(rows)


def _refuse_reference(rows: Tensor, segments: list[Segment]) -> list[str]:
    return []


def _reference_forward(rows: Tensor, segments: list[Segment]) -> list[Tensor]:
    return [segment_statistics(rows, segment) for segment in segments]


# forward gives the statistics of each segment, of which ``loss_of`` makes the loss
CONTRASTIVE_LOSS = Op(
    "contrastive_loss",
    (
        Backend(
            "triton",
            _refuse_triton,
            gpu.contrastive_loss_fwd_triton,
            gpu.contrastive_loss_bwd_triton,
            only_by_name=is_interpreted,
        ),
        Backend("cpu", _refuse_cpu, cpu.contrastive_loss_fwd_cpu, cpu.contrastive_loss_bwd_cpu),
        Backend("reference", _refuse_reference, _reference_forward, contrastive_loss_backward_reference),
    ),
)


# --- registration -----------------------------------------------------------------------------------------------


def _segments(*by_field: Sequence[Any]) -> list[Segment]:
    """The fields of all segments, one list a field; the temperatures are one tensor."""
    return [Segment(*of_one) for of_one in zip(*by_field, strict=True)]


_INPUTS = (
    "Tensor rows, Tensor[] columns, Tensor temperatures, Tensor[] row_ids, Tensor[] column_ids, bool[] excludes, "
    "bool[] has_classes, bool[] symmetric, float[] weights"
)


@torch.library.custom_op(
    "weft::contrastive_loss", mutates_args=(), schema=f"({_INPUTS}, str backend) -> (Tensor, Tensor[])"
)
@without_autocast
def _contrastive_loss_operator(rows, *rest):  # type: ignore[no-untyped-def]
    *arguments, backend = rest
    segments = _segments(*arguments)
    chosen = CONTRASTIVE_LOSS.choose(requested_backend(backend or None), rows, segments)
    statistics = chosen.forward(rows, segments)
    return loss_of(segments, statistics), statistics


@_contrastive_loss_operator.register_fake
def _(rows, columns, temperatures, row_ids, column_ids, excludes, has_classes, symmetric, *rest):  # type: ignore[no-untyped-def]
    # not len, which would fix the sizes of a compiled graph
    lengths = [rows.shape[0] + both * c.shape[0] for c, both in zip(columns, symmetric, strict=True)]
    return temperatures.new_empty(()), [temperatures.new_empty(4, length) for length in lengths]


@torch.library.custom_op(
    "weft::contrastive_loss_backward",
    mutates_args=(),
    # no default for the backend: torch leaves out what equals one, and the arguments are taken by position
    schema=f"(Tensor dloss, {_INPUTS}, Tensor[] statistics, bool rows_wanted, bool[] columns_wanted, "
    "bool temperature_wanted, str backend) -> (Tensor, Tensor[], Tensor)",
)
@without_autocast
def _contrastive_loss_backward_operator(dloss, rows, *rest):  # type: ignore[no-untyped-def]
    *arguments, statistics, rows_wanted, columns_wanted, temperature_wanted, backend = rest
    segments = _segments(*arguments)
    chosen = CONTRASTIVE_LOSS.choose_backward(requested_backend(backend or None), rows, segments)
    assert chosen.backward is not None
    wanted = Wanted(rows_wanted, tuple(columns_wanted), temperature_wanted)
    return chosen.backward(dloss, rows, segments, statistics, wanted)


@_contrastive_loss_backward_operator.register_fake
def _(dloss, rows, columns, temperatures, *rest):  # type: ignore[no-untyped-def]
    *_, rows_wanted, columns_wanted, temperature_wanted, _ = rest

    def like(x: Tensor, wanted: bool) -> Tensor:
        return x.new_empty(x.shape if wanted else 0)

    each = [like(c, wanted) for c, wanted in zip(columns, columns_wanted, strict=True)]
    return like(rows, rows_wanted), each, like(temperatures, temperature_wanted)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    rows, columns, temperatures, row_ids, column_ids, *ctx.of_each, backend = inputs
    # asked for here, since backward runs when a block of ``weft.backend`` may be over
    ctx.backend = requested_backend(backend or None)
    _, statistics = output
    ctx.save_for_backward(rows, temperatures, *columns, *row_ids, *column_ids, *statistics)


def _backward(ctx, dloss, _):  # type: ignore[no-untyped-def]
    rows, temperatures, *rest = ctx.saved_tensors
    count = len(rest) // 4
    columns, row_ids, column_ids, statistics = (rest[start : start + count] for start in range(0, len(rest), count))
    needs_rows, needs_columns, needs_temperature = ctx.needs_input_grad[:3]
    drows, dcolumns, dtemperatures = _contrastive_loss_backward_operator(
        dloss,
        rows,
        columns,
        temperatures,
        row_ids,
        column_ids,
        *ctx.of_each,
        statistics,
        needs_rows,
        list(needs_columns),
        needs_temperature,
        ctx.backend,
    )
    return (
        drows if needs_rows else None,
        [dc if wanted else None for dc, wanted in zip(dcolumns, needs_columns, strict=True)],
        dtemperatures if needs_temperature else None,
        [None] * count,
        [None] * count,
        *[None] * 5,
    )


_contrastive_loss_operator.register_autograd(_backward, setup_context=_save_for_backward)


def _save_for_second_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    dloss, rows, columns, temperatures, row_ids, column_ids, *ctx.of_each = inputs[:10]
    ctx.save_for_backward(dloss, rows, temperatures, *columns, *row_ids, *column_ids)


@without_autocast
def _second_backward(ctx, drows, dcolumns, dtemperatures):  # type: ignore[no-untyped-def]
    dloss, rows, temperatures, *rest = ctx.saved_tensors
    count = len(rest) // 3
    columns, row_ids, column_ids = (rest[start : start + count] for start in range(0, len(rest), count))

    def definition(rows, temperatures, *columns):  # type: ignore[no-untyped-def]
        segments = _segments(columns, temperatures, row_ids, column_ids, *ctx.of_each)
        return contrastive_loss_reference(rows, segments)

    arguments = (rows, temperatures, *columns)
    arriving = (drows, dtemperatures, *dcolumns)
    found = second_gradients(definition, arguments, range(len(arguments)), (dloss,), arriving)
    ddloss, drows, dtemperatures, *dcolumns = found
    none = [None] * count
    # of the statistics too, since they were made of rows, columns and temperatures again
    return (ddloss, drows, dcolumns, dtemperatures, none, none, *[None] * 4, none, *[None] * 4)


_contrastive_loss_backward_operator.register_autograd(_second_backward, setup_context=_save_for_second_backward)
