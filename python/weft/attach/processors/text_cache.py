"""Keys and values of the text, computed once per conditioning tensor instead of once per step.

A sampler passes the same conditioning tensor to every step, and the projections of a cross-attention see nothing
else. A hit returns the very tensors that were computed, so results are bit-identical.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# exactly these compute the same from the same input; a subclass (peft, quantised, parametrised) may not
_PLAIN_MODULES = (nn.Linear, nn.LayerNorm, nn.GroupNorm)
# a sampler that runs its two guidance halves apart alternates between two tensors
_ENTRIES_PER_LAYER = 2


@dataclass(frozen=True)
class _Entry:
    text: weakref.ref[Tensor]
    stamp: tuple[Any, ...]
    weights: tuple[Tensor, ...]
    key: Tensor
    value: Tensor

    def matches(self, text: Tensor, stamp: tuple[Any, ...], weights: tuple[Tensor, ...]) -> bool:
        return (
            self.text() is text
            and self.stamp == stamp
            and len(self.weights) == len(weights)
            and all([kept is given for kept, given in zip(self.weights, weights, strict=True)])
            # made under inference_mode, they could not serve autograd later
            and (torch.is_inference_mode_enabled() or not self.key.is_inference())
        )


class TextCache:
    """Projected text of every cross-attention of one model.

    Known by the identity of the conditioning tensor and of every weight involved, by their version counters, which
    any operation in place raises, and by the address of the weights. Writing through ``.data`` raises no counter;
    a new generation starts from an empty cache for that reason.

    Attributes:
        hits, misses: Calls served from the cache, and computed and kept.
        bypassed: Calls computed and not kept, because they could not be known again (``can_keep``).
    """

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0
        self.bypassed = 0
        self._entries: dict[str, list[_Entry]] = {}

    def __repr__(self) -> str:
        return f"TextCache(hits={self.hits}, misses={self.misses}, bypassed={self.bypassed})"

    def clear(self) -> None:
        """Forget all tensors; the counts stay."""
        self._entries.clear()

    def project(self, layer: str, attn: Any, text: Tensor, fused: bool) -> tuple[Tensor, Tensor]:
        """Keys and values of ``text`` [B, Nk, C], each [B, Nk, H * D], before any per-head norm.

        Args:
            layer: Name of the layer, unique in the model.
            attn: The attention module that owns the projections.
            text: The conditioning as it reached the layer.
            fused: Read ``to_kv`` instead of ``to_k`` and ``to_v``.
        """
        modules = _modules(attn, fused)
        weights = _weights(modules)
        if not can_keep(text, modules, weights):
            self.bypassed += 1
            return project(attn, text, fused)
        stamp = _stamp(text, fused, weights)
        entries = self._entries.setdefault(layer, [])
        for entry in entries:
            if entry.matches(text, stamp, weights):
                self.hits += 1
                return entry.key, entry.value
        self.misses += 1
        key, value = project(attn, text, fused)
        others = [entry for entry in entries if (known := entry.text()) is not None and known is not text]
        newest = _Entry(weakref.ref(text), stamp, weights, key, value)
        self._entries[layer] = [*others[-(_ENTRIES_PER_LAYER - 1) :], newest]
        return key, value


def project(attn: Any, text: Tensor, fused: bool) -> tuple[Tensor, Tensor]:
    """Keys and values of ``text`` as the model itself computes them, each [B, Nk, H * D]."""
    if attn.norm_cross is not None:
        text = attn.norm_encoder_hidden_states(text)
    if fused:
        key, value = attn.to_kv(text).chunk(2, dim=-1)
        return key, value
    return attn.to_k(text), attn.to_v(text)


def can_keep(text: Tensor, modules: tuple[nn.Module, ...], weights: tuple[Tensor, ...]) -> bool:
    """Whether the projection is a function of things whose every change can be seen.

    Not so for modules of another class, with hooks or with a ``forward`` on the instance (accelerate), for tensors
    without a version counter (made under inference_mode) or of a subclass, where gradients are wanted, and in a
    compiled region, whose guards would have to hold the cache.
    """
    tensors = (text, *weights)
    return (
        not torch.compiler.is_compiling()
        and all([type(module) in _PLAIN_MODULES and not _is_hooked(module) for module in modules])
        and all([type(tensor) in (Tensor, nn.Parameter) and not tensor.is_inference() for tensor in tensors])
        and not (torch.is_grad_enabled() and any([tensor.requires_grad for tensor in tensors]))
    )


def _modules(attn: Any, fused: bool) -> tuple[nn.Module, ...]:
    projections = (attn.to_kv,) if fused else (attn.to_k, attn.to_v)
    return projections if attn.norm_cross is None else (attn.norm_cross, *projections)


def _weights(modules: tuple[nn.Module, ...]) -> tuple[Tensor, ...]:
    # of modules that are plain these are all, and the dicts take a tenth of the calls that ``parameters`` takes
    return tuple([weight for module in modules for weight in module._parameters.values() if weight is not None])


def _is_hooked(module: nn.Module) -> bool:
    return bool("forward" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks)


def _stamp(text: Tensor, fused: bool, weights: tuple[Tensor, ...]) -> tuple[Any, ...]:
    device = text.device.type
    # torch refuses to answer of a device that autocast does not know, such as "meta"
    is_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    autocast = torch.get_autocast_dtype(device) if is_autocast else None
    return (fused, autocast, text._version, *[(weight._version, weight.data_ptr()) for weight in weights])
