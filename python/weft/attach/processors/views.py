"""An attention module as its processor sees it, with projections that do more than the module's own.

A processor asks its module for ``to_k`` and the like, so that keys from a cache, or keys of further tokens, need no
change of the module: the processor is given a view of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from weft.attach.processors.text_cache import TextCache, project
from weft.attach.records import ExtraText

# (text [B, Nk, C]) -> keys and values, each [B, Nk, H * D]
Project = Callable[[Tensor], tuple[Tensor, Tensor]]


class CrossView:
    """A cross-attention whose keys and values of the text come from ``project``."""

    def __init__(self, attn: Any, project: Project) -> None:
        if not torch.compiler.is_compiling():
            self.__dict__.update(vars(attn))  # most of what a processor asks for, without a call for each
        self._attn = attn
        self._project = project
        self._value: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attn, name)

    def norm_encoder_hidden_states(self, text: Tensor) -> Tensor:
        return text  # ``project`` does it, since it knows the text by identity

    def to_k(self, text: Tensor) -> Tensor:
        key, self._value = self._project(text)
        return key

    def to_v(self, text: Tensor) -> Tensor:
        value = self._value
        assert value is not None  # every processor asks for keys first
        return value

    def to_kv(self, text: Tensor) -> Tensor:
        return torch.cat(self._project(text), -1)


class JointView:
    """A joint attention whose text has further ``tokens`` [B, m, C] behind it, as keys and values alone.

    Fused projections give queries in the same product, which the caller leaves out.
    """

    def __init__(self, attn: Any, tokens: Tensor) -> None:
        self._attn = attn
        self._tokens = tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attn, name)

    def add_k_proj(self, text: Tensor) -> Tensor:
        return self._both(self._attn.add_k_proj, text)

    def add_v_proj(self, text: Tensor) -> Tensor:
        return self._both(self._attn.add_v_proj, text)

    def to_added_qkv(self, text: Tensor) -> Tensor:
        return self._both(self._attn.to_added_qkv, text)

    def _both(self, projection: Any, text: Tensor) -> Tensor:
        return torch.cat([projection(text), projection(self._tokens)], 1)


def projecting(attn: Any, layer: str, fused: bool, cache: TextCache | None, extra: ExtraText | None) -> Project:
    """Keys and values of a text, from ``cache`` where there is one, with those of ``extra`` behind them."""

    def projected(text: Tensor) -> tuple[Tensor, Tensor]:
        # a bound cache would be guarded by a compiler, which has no use for it
        key, value = project(attn, text, fused) if cache is None else cache.project(layer, attn, text, fused)
        if extra is None:
            return key, value
        more = _project_extra(extra, layer, attn, fused, cache)
        return _append(key, more[0]), _append(value, more[1])

    return projected


def _project_extra(
    extra: ExtraText, layer: str, attn: Any, fused: bool, cache: TextCache | None
) -> tuple[Tensor, Tensor]:
    """Keys and values of the set in use, each [1, m, H * D]; computed every time without a cache."""
    if cache is None:
        return project(attn, extra.bank.index_select(0, extra.row), fused)
    key, value = cache.project(f"{layer} extra", attn, extra.bank, fused)
    return key.index_select(0, extra.row), value.index_select(0, extra.row)


def _append(states: Tensor, extra: Tensor) -> Tensor:
    """Keys or values [B, Nk, H * D] with those of ``extra`` [1, m, H * D] behind them."""
    # keys carry no position, so that the end is as good a place as any
    return torch.cat([states, extra.expand(len(states), -1, -1)], 1)
