"""What a mode asks of ``attention`` at a shape: its inputs, its gradients, and what it costs at the least."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases.attention.shapes import TEXT_KEYS
from benchmarks.measuring.compiled import Wrapped
from benchmarks.registry import Call, Costs, Mode, Shape
from weft.testing import AttentionCase, AttentionInputs, make_attention_inputs

COLUMNS = 8
TABLES = ("alpha", "beta", "gamma", "delta")


@dataclass(frozen=True)
class Work:
    """One mode, as data.

    Attributes:
        tables: Of the edit; () for none.
        regions: Query labels, and the key labels of a self-attention.
        readout: "none", "one_hot", "dense", or "text": one-hot columns of text keys in a joint attention.
        gradients: "" for forward alone, "too" for the gradients of q, k and v as well, "alone" for those alone.
    """

    tables: tuple[str, ...] = ()
    regions: int = 4
    readout: str = "none"
    gradients: str = ""


WORK = {
    "plain": Work(),
    "edit_maps": Work(TABLES, readout="one_hot"),
    "edit_dense_maps": Work(TABLES, readout="dense"),
    "self_edit": Work(("alpha", "beta", "gamma"), regions=3),
    "joint_maps": Work(readout="text"),
    "edit_maps_backward": Work(TABLES, readout="one_hot", gradients="too"),
    "plain_gradients": Work(gradients="alone"),
    "edit_maps_gradients": Work(TABLES, readout="one_hot", gradients="alone"),
    "joint_maps_gradients": Work(readout="text", gradients="alone"),
}


@dataclass(frozen=True, eq=False)
class Problem:
    """The inputs of one mode.

    Attributes:
        inputs: Of the op.
        one_hot: Whether every read-out column is one key's, shared by the samples, so that columns can be picked.
        gradients: As in ``Work``.
    """

    inputs: AttentionInputs
    one_hot: bool
    gradients: str = ""

    def columns(self) -> Tensor | None:
        """The keys that are read out, [M], where the read-out is one-hot."""
        readout = self.inputs.readout
        return readout[0].argmax(0) if self.one_hot and readout is not None else None

    def wrap(self, call: Call) -> Call:
        """``call`` without a graph; or, for gradients, followed by them."""
        if not self.gradients:
            return torch.no_grad()(call)
        return GradientsOf(self.inputs, call, again=self.gradients == "too")


class GradientsOf(Wrapped):
    """Run a call and send fixed gradients back through its results to q, k and v; gives the results.

    Args:
        again: Whether the call runs every time; otherwise once, at first, and what is timed is its backward alone.
    """

    def __init__(self, inputs: AttentionInputs, call: Call, again: bool) -> None:
        self.leaves = [x.requires_grad_() for x in (inputs.q, inputs.k, inputs.v)]
        self.call = call
        self.again = again
        self.results: tuple[Any, ...] = ()
        self.arriving: list[Tensor] = []

    def __call__(self) -> tuple[Any, ...]:
        results = self.results or self.call()
        if not self.again:
            self.results = results
        given = [x for x in results if x is not None]
        if not self.arriving:
            self.arriving = [torch.randn_like(x) for x in given]
        torch.autograd.grad(given, self.leaves, self.arriving, retain_graph=not self.again)
        return results


def make_problem(shape: Shape, dtype: torch.dtype, mode: Mode, device: str = "cpu", seed: int = 0) -> Problem:
    """Inputs as a processor has them: [B, N, H, D] views of the projections, tables and labels shared by the batch.

    A cross-attention gives every token its own label; a self-attention labels keys like queries.
    """
    sizes, work = shape.sizes, WORK[mode.name]
    case = AttentionCase(
        samples=sizes["B"],
        seqlen_q=sizes["Nq"],
        seqlen_k=sizes["Nk"],
        heads=sizes["H"],
        head_dim=sizes["D"],
        dtype=dtype,
        tables=work.tables,
        query_labels=work.regions,
        key_labels=work.regions if shape.kind == "self" else "own",
        readout="none" if work.readout == "text" else work.readout,
        columns=COLUMNS,
        shared=("tables", "labels", "readout"),
    )
    inputs = make_attention_inputs(case, seed, device)
    if work.tables and shape.kind == "self":
        inputs = replace(inputs, key_labels=inputs.query_labels)
    if work.readout == "text":
        inputs = replace(inputs, readout=_text_readout(shape, inputs.q))
    return Problem(inputs, one_hot=work.readout in ("one_hot", "text"), gradients=work.gradients)


def _text_readout(shape: Shape, q: Tensor) -> Tensor:
    """One-hot columns of text keys spread evenly over the prompt, [1, Nk, M]."""
    start, stop = TEXT_KEYS[shape.name]
    keys = torch.linspace(start, stop - 1, COLUMNS).long()
    readout = torch.zeros(1, shape.sizes["Nk"], COLUMNS)
    readout[0, keys, torch.arange(COLUMNS)] = 1.0
    return readout.to(q.device)


def result_bytes(problem: Problem) -> int:
    """Size of what is returned: (out, maps), or the gradients of q, k and v."""
    x = problem.inputs
    if problem.gradients:
        return sum(t.numel() * t.element_size() for t in (x.q, x.k, x.v))
    maps = 0 if x.readout is None else x.q.shape[0] * x.q.shape[1] * x.readout.shape[2] * 4
    return x.q.numel() * x.q.element_size() + maps


def costs(shape: Shape, dtype: torch.dtype, mode: Mode) -> Costs:
    """Each input read once, each result written once; the products of q, k, v and their gradients, unpadded.

    The logits are formed again in a backward, as every fused kernel does: five products after a forward's two. Tables,
    labels and the read-out weigh nothing beside these and are left out; maps are counted.
    """
    b, h, nq, nk, d = (shape.sizes[axis] for axis in ("B", "H", "Nq", "Nk", "D"))
    work = WORK[mode.name]
    queries, keys = (b * n * h * d * dtype.itemsize for n in (nq, nk))
    maps = 0 if work.readout == "none" else b * nq * COLUMNS * 4
    product = 2 * b * h * nq * nk * d
    forward = Costs(2 * queries + 2 * keys + maps, 2 * product)
    # q, out and dout are read and dq written; k and v read, dk and dv written; dmaps read
    backward = Costs(4 * queries + 4 * keys + maps, 5 * product)
    parts = {"": (forward,), "too": (forward, backward), "alone": (backward,)}[work.gradients]
    return Costs(sum(part.size_bytes for part in parts), sum(part.flops for part in parts))
