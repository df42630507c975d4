"""``concept_gate``: from read-outs of attention to the gate of ``lowrank_linear``, a mask and a strength a concept.

It runs once a block and step, so plain inference calls the backend straight away; a call that is being traced goes
through the registered operator ``weft::concept_gate``, which writes into ``out``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weft._dispatch import Backend, Op, named_in_trace
from weft.kernels.regions.reference_gate import concept_gate_reference, gate_of
from weft.ops._autocast import follows_autocast
from weft.ops._transforms import is_transformed, needs_operator
from weft.ops._triton import is_interpreted
from weft.ops.regions import checks
from weft.ops.regions import triton as gpu


@follows_autocast("regions")
def concept_gate(
    maps: Tensor,
    strengths: Tensor,
    rule: str | float = "median",
    *,
    overlap: str = "largest",
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The strength of each concept at the cells where its map is above a threshold, 0 at all others.

    A cell is in the mask of a concept where its map is above the threshold that ``rule`` finds for each map by
    itself. ``strengths`` are read on the device, so they may change between the replays of a CUDA graph. A constant
    map has an empty mask, and so has one with a value that is not finite.

    Args:
        maps: [B, N, K], float32, bfloat16, float16 or float64, any strides: one column a concept, such as the
            read-outs of ``attention``.
        strengths: [B', K], float32 (float64 for float64 maps), B' a multiple of B: row j of the result belongs to
            maps[j mod B], since the rows of classifier-free guidance repeat the images. Where a strength is 0 the
            concept does not act: its gate is 0 and it takes no cells from others.
        rule: "median" for the cells above the lower median, half of them for even N and distinct values; "otsu" for
            Otsu's threshold between two classes, on 256 bins from the least value of the map to its largest; a
            number t in [0, 1) for those above least + t * (largest - least).
        overlap: "largest" gives a cell to the acting concept alone whose map, scaled to [0, 1] by its least and
            largest value, is largest there, the first of equals; it is in a mask if it is in that one's. "sum" lets
            masks overlap. All one where K is 1.
        out: Where the result is written, [B', N, K], dtype of ``strengths``, contiguous. None for new memory, as
            inside a transform of ``torch.func``.
        backend: "triton", "reference", or None to let ``weft.backend``, WEFT_BACKEND or the library choose. What
            these two name is passed over here where ``concept_gate`` has no such backend.

    Returns:
        ``out``, [B', N, K], contiguous.

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: A shape, layout, device or range that does not fit, or an unknown name.
        BackendUnavailableError: The named backend refuses this call.

    Gradients: none; maps and strengths are read as numbers.
    Backends: triton (one launch, two where maps compete; NVIDIA sm_80 or newer; float32, bfloat16, float16; N up to
        16384, K up to 64; by name also on the CPU where TRITON_INTERPRET=1), reference (any device and float dtype).
        Both give the same bits.

    Source:
        Localized sampling of Personalized Residuals (arXiv:2405.12978), whose rule is the median; definition in
        ``weft.kernels.regions.reference_gate``.
    """
    op = "regions.concept_gate"
    checks.check_columns(op, maps)
    checks.check_strengths(op, strengths, maps)
    rule = checks.check_rule(op, rule)
    checks.check_choice(op, "overlap", overlap, checks.GATE_OVERLAPS)
    shape = (strengths.shape[0], maps.shape[1], maps.shape[2])
    if is_transformed():
        if out is not None:
            raise ValueError(f"{op}: `out` cannot be written inside a transform of torch.func; leave it out")
        CONCEPT_GATE.definition(backend)
        return gate_of(maps.detach(), strengths.detach(), rule, overlap).contiguous()
    if out is None:
        out = torch.empty(shape, dtype=strengths.dtype, device=strengths.device)
    else:
        checks.check_out(op, out, shape, strengths)
    if out.numel() == 0:
        return out
    maps, strengths = maps.detach(), strengths.detach()
    if needs_operator((maps, strengths, out)):
        name, level = (rule, 0.0) if isinstance(rule, str) else ("level", rule)
        _operator(maps, strengths, name, level, overlap, out, named_in_trace(backend))
    else:
        CONCEPT_GATE.choose_where_known(backend, maps, strengths, rule, overlap, out).forward(
            maps, strengths, rule, overlap, out
        )
    return out


def _refuse_reference(*arguments: Any) -> list[str]:
    return []


CONCEPT_GATE = Op(
    "regions.concept_gate",
    (
        Backend("triton", gpu.refuse_gate, gpu.concept_gate_triton, only_by_name=is_interpreted),
        Backend("reference", _refuse_reference, concept_gate_reference),
    ),
)


@torch.library.custom_op(
    "weft::concept_gate",
    mutates_args=("out",),
    schema="(Tensor maps, Tensor strengths, str rule, float level, str overlap, Tensor(a!) out, str backend) -> ()",
)
def _operator(maps, strengths, rule, level, overlap, out, backend):  # type: ignore[no-untyped-def]
    arguments = (maps, strengths, level if rule == "level" else rule, overlap, out)
    CONCEPT_GATE.choose_where_known(backend or None, *arguments).forward(*arguments)


@_operator.register_fake
def _(*arguments):  # type: ignore[no-untyped-def]
    return None
