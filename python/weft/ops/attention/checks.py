"""What ``attention`` asks of its arguments: one message for each way they can be wrong."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from weft.ops._tensors import FLOAT_DTYPES, check_tensor, readable
from weft.ops._tensors import INTEGER_DTYPES as LABEL_DTYPES
from weft.ops._tensors import dtype_name as _name
from weft.ops._transforms import is_transformed

MAX_HEAD_DIM = 256


def check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Types, ranks, sizes, dtypes, layouts and devices of the three main tensors."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_tensor("attention", name, x)
        if x.ndim != 4:
            axes = "[B, Nq, H, D]" if name == "q" else "[B, Nk, Hk, D]"
            raise ValueError(f"attention: `{name}` must be {axes}; got {list(x.shape)}, {x.ndim} axes")
    samples, _, heads, head_dim = q.shape
    if k.shape[0] != samples or k.shape[3] != head_dim or (heads and not is_multiple(heads, k.shape[2])):
        expected = f"[B, Nk, Hk, D] = [{samples}, Nk, {heads} or a divisor, {head_dim}]"
        raise ValueError(f"attention: `k` must be {expected} to match q; got {list(k.shape)}")
    if v.shape != k.shape:
        raise ValueError(f"attention: `v` must have the shape of k, {list(k.shape)}; got {list(v.shape)}")
    if not 1 <= head_dim <= MAX_HEAD_DIM:
        raise ValueError(f"attention: head width D must be 1 to {MAX_HEAD_DIM}; got {head_dim} in q {list(q.shape)}")
    if heads < 1:
        raise ValueError(f"attention: needs at least one head; got H = 0 in q {list(q.shape)}")
    if q.dtype not in FLOAT_DTYPES:
        raise TypeError(f"attention: `q` must be float32, bfloat16, float16 or float64; got {_name(q.dtype)}")
    for name, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype:
            raise TypeError(
                f"attention: `{name}` must have the dtype of q, {_name(q.dtype)}; got {_name(x.dtype)}; "
                f"convert it with .to(q.dtype)"
            )
    # the definition takes any strides, and a transform may put its own axis last
    for name, x in () if is_transformed() else (("q", q), ("k", k), ("v", v)):
        # a length-one or empty last axis has no stride that matters
        if x.stride(-1) != 1 and head_dim > 1 and x.numel():
            raise ValueError(
                f"attention: `{name}` must have unit stride along D; got strides {x.stride()}; "
                f"make it so with .contiguous()"
            )
    for name, x in (("k", k), ("v", v)):
        check_device(name, x, q)


def is_multiple(heads: int, key_heads: int) -> bool:
    """Whether as many heads of q read each of ``key_heads``."""
    return key_heads > 0 and heads % key_heads == 0


def check_scale(scale: float | None, head_dim: int) -> float:
    """The logit factor in force: ``scale``, or 1 / sqrt(D) for None."""
    if scale is None:
        return 1.0 / math.sqrt(head_dim)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise TypeError(f"attention: `scale` must be a number or None; got {type(scale).__name__}")
    if not math.isfinite(scale):
        raise ValueError(f"attention: `scale` must be finite; got {scale}")
    return float(scale)


def check_table(name: str, table: Tensor, q: Tensor) -> None:
    """Batch, dtype and device of one table or of the read-out against ``q``."""
    if table.shape[0] not in (1, q.shape[0]):
        raise ValueError(f"attention: `{name}` must have batch 1 or B = {q.shape[0]}; got {list(table.shape)}")
    expected = torch.float64 if q.dtype == torch.float64 else torch.float32
    if table.dtype != expected:
        raise TypeError(
            f"attention: `{name}` must be {_name(expected)} for {_name(q.dtype)} q; got {_name(table.dtype)}; "
            f"convert it with .to(torch.{_name(expected)})"
        )
    check_device(name, table, q)


def check_readout(readout: Tensor, q: Tensor, seqlen_k: int) -> None:
    """Shape, dtype and device of the read-out columns."""
    check_tensor("attention", "readout", readout, "a tensor or None")
    if readout.ndim != 3 or readout.shape[1] != seqlen_k:
        raise ValueError(
            f"attention: `readout` must be [B or 1, Nk, M] = [{q.shape[0]} or 1, {seqlen_k}, M]; "
            f"got {list(readout.shape)}"
        )
    check_table("readout", readout, q)


def check_labels(name: str, labels: Tensor, q: Tensor, length: int) -> None:
    """Shape, dtype and device of query or key labels; their range is checked by the code that reads them."""
    axis = "Nq" if name == "query_labels" else "Nk"
    check_tensor("attention", name, labels, "a tensor or None")
    if labels.dtype not in LABEL_DTYPES:
        raise TypeError(f"attention: `{name}` must be an integer tensor; got {_name(labels.dtype)}")
    _check_per_token(name, labels, q, length, axis)


def check_key_padding(key_padding: Tensor, q: Tensor, seqlen_k: int) -> None:
    """Shape, dtype and device of the padding mask."""
    check_tensor("attention", "key_padding", key_padding, "a tensor or None")
    if key_padding.dtype != torch.bool:
        raise TypeError(
            f"attention: `key_padding` must be bool, True where a key is padding; got {_name(key_padding.dtype)}"
        )
    _check_per_token("key_padding", key_padding, q, seqlen_k, "Nk")


def check_label_range(name: str, labels: Tensor | None, count: int) -> None:
    """Every label lies in [0, count). Reads the values where there are any, so it is for CPU tensors."""
    values = None if labels is None else readable(labels)
    if values is None or not values.numel():
        return
    smallest, largest = (int(bound) for bound in torch.aminmax(values))
    if smallest < 0 or largest >= count:
        axis = "Lq" if name == "query_labels" else "Lk"
        raise ValueError(
            f"attention: `{name}` must lie in [0, {axis}) = [0, {count}), the size of the edit's tables; "
            f"got values from {smallest} to {largest}"
        )


def check_device(name: str, x: Tensor, q: Tensor) -> None:
    """``x`` lies where ``q`` does."""
    if x.device != q.device:
        raise ValueError(f"attention: `{name}` must be on the device of q, {q.device}; got {x.device}")


def _check_per_token(name: str, x: Tensor, q: Tensor, length: int, axis: str) -> None:
    if x.ndim != 2 or x.shape[0] not in (1, q.shape[0]) or x.shape[1] != length:
        raise ValueError(
            f"attention: `{name}` must be [B or 1, {axis}] = [{q.shape[0]} or 1, {length}]; got {list(x.shape)}"
        )
    check_device(name, x, q)
