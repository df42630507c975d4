"""The attention processor that stands in for one of diffusers' own.

It answers to three needs, cheapest first: the model's own processor, untouched; the same attention with text keys
and values from the cache; weft's attention, with an edit or a read-out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.attach.control import Control, LayerInfo, LayerRequest
from weft.attach.extra_text import PassedOver, append
from weft.attach.text_cache import TextCache, project
from weft.attach.unet import ProcessorRule
from weft.ops import attention

# diffusers turns a mask of ones and zeros into 0 and -10000; anything below this bias is a masked key
_PADDING_BIAS = -5000.0


@dataclass(frozen=True, eq=False)
class Plan:
    """What one layer does in a pass: the requests of all controls, joined.

    Attributes:
        request: The joined request.
        sources: The requests it was joined from, with their controls.
        columns: Per source the columns of ``request.readout`` that are its own; None when it reads nothing.
        is_read: Whether maps are kept for ``Control.read``: not where every source has a sink for them.
        passed_over: The edit beside extra tokens; None where there is not both.
    """

    request: LayerRequest
    sources: tuple[tuple[Control, LayerRequest], ...]
    columns: tuple[slice | None, ...]
    is_read: bool
    passed_over: PassedOver | None = None

    @property
    def needs_attention(self) -> bool:
        """Whether attention itself is to do anything, not merely to see other keys."""
        return self.request.edit is not None or self.request.readout is not None

    def joins(self, sources: Sequence[tuple[Control, LayerRequest]]) -> bool:
        """Whether it is the plan of exactly these requests."""
        return len(sources) == len(self.sources) and all(
            mine[0] is theirs[0] and mine[1] is theirs[1] for mine, theirs in zip(self.sources, sources, strict=True)
        )


def join(layer: LayerInfo, sources: Sequence[tuple[Control, LayerRequest]]) -> Plan:
    """Make one request of several: at most one edit, at most one with further tokens, read-outs side by side.

    Raises:
        ValueError: Two controls edit this layer at once or add tokens to it, or one adds tokens to self-attention.
    """
    editor = _only([source for source in sources if source[1].edit is not None], "edit", layer)
    extra = _only([source for source in sources if source[1].extra is not None], "add tokens to", layer).extra
    if extra is not None and not layer.is_cross:
        raise ValueError(f"attach: tokens can be added to cross-attention alone; {layer.name} sees no text")
    columns: list[slice | None] = []
    readouts: list[Tensor] = []
    start = 0
    for _, request in sources:
        if request.readout is None:
            columns.append(None)
            continue
        columns.append(slice(start, start + request.readout.shape[2]))
        readouts.append(request.readout)
        start += request.readout.shape[2]
    batch = max((readout.shape[0] for readout in readouts), default=1)
    readout = torch.cat([r.expand(batch, -1, -1) for r in readouts], dim=2) if len(readouts) > 1 else None
    readout = readouts[0] if len(readouts) == 1 else readout
    passed_over = None
    if extra is not None:
        tokens = extra.bank.shape[1]
        readout = None if readout is None else F.pad(readout, (0, 0, 0, tokens))
        passed_over = None if editor.edit is None else PassedOver(editor.edit, editor.key_labels, tokens)
    joined = LayerRequest(
        edit=editor.edit,
        query_labels=editor.query_labels,
        key_labels=editor.key_labels,
        readout=readout,
        extra=extra,
    )
    is_read = any(request.readout is not None and request.sink is None for _, request in sources)
    return Plan(joined, tuple(sources), tuple(columns), is_read, passed_over)


def _only(sources: Sequence[tuple[Control, LayerRequest]], does: str, layer: LayerInfo) -> LayerRequest:
    """The request of the one control that ``does`` something; an empty one where there is none."""
    if len(sources) > 1:
        names = " and ".join(type(control).__name__ for control, _ in sources)
        raise ValueError(
            f"attach: one control at most may {does} a layer at a step; {names} both {does} {layer.name}; "
            "give them different layers or steps"
        )
    return sources[0][1] if sources else LayerRequest()


class WeftAttnProcessor:
    """Processor of one attention layer.

    diffusers builds new processors by the class of those it finds (``set_default_attn_processor``, loading and
    unloading an IP-Adapter), and must then get its own class: ``__class__`` is that of the processor stood in for,
    and a copy or a pickle of this object is one of that processor.

    Attributes:
        original: The processor it stands in for.
        layer: The layer it serves.
        plan: What to do in the coming pass; None leaves the model to itself.
        maps: The maps of the last pass, [B, Nq, M], until they are collected.
    """

    def __init__(
        self, original: Any, rule: ProcessorRule, layer: LayerInfo, cache: TextCache, backend: str | None
    ) -> None:
        self.original = original
        self.layer = layer
        self.plan: Plan | None = None
        self.maps: Tensor | None = None
        self._rule = rule
        self._cache = cache
        self._backend = backend

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self.original)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return type(self.original)()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.original.__reduce_ex__(protocol)

    # every argument by name: Attention.forward drops what it does not find in this signature
    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        plan = self.plan
        keeps_text = self._rule.keeps_text and encoder_hidden_states is not None and not torch.compiler.is_compiling()
        # a text for several rows of pixels is known to this processor alone
        is_shared = encoder_hidden_states is not None and len(encoder_hidden_states) != len(hidden_states)
        if plan is None and not keeps_text and not is_shared:
            return self.original(
                attn,
                hidden_states,
                encoder_hidden_states=encoder_hidden_states,
                attention_mask=attention_mask,
                temb=temb,
            )

        # from here on the steps of diffusers' AttnProcessor2_0, in its order
        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        image_shape = hidden_states.shape if hidden_states.ndim == 4 else None
        if image_shape is not None:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)  # [B, h * w, C]
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)

        query, key, value = self._project(attn, hidden_states, encoder_hidden_states)
        extra = 0 if plan is None or plan.request.extra is None else plan.request.extra.bank.shape[1]
        if plan is not None and plan.request.extra is not None:
            cache = self._cache if keeps_text else None
            more = plan.request.extra.project(self.layer.name, attn, self._rule.fused, cache)
            key, value = append(key, more[0]), append(value, more[1])
        samples = key.shape[0]
        query, key, value = (x.view(samples, -1, attn.heads, self.layer.head_dim) for x in (query, key, value))
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)

        if attention_mask is not None and extra:
            attention_mask = F.pad(attention_mask, (0, extra))  # extra tokens are always seen
        if plan is None or not (plan.needs_attention or self._rule.uses_layer_scale):
            out = attention_without_control(query, key, value, self._bias(attn, attention_mask, key))
        else:
            out = self._controlled(plan, attn, query, key, value, attention_mask)
        # a text for several rows of pixels in a row has served them as one
        hidden_states = out.reshape(*hidden_states.shape[:2], attn.heads * self.layer.head_dim).to(query.dtype)

        hidden_states = attn.to_out[0](hidden_states)
        hidden_states = attn.to_out[1](hidden_states)
        if image_shape is not None:
            hidden_states = hidden_states.transpose(-1, -2).reshape(image_shape)
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        return hidden_states / attn.rescale_output_factor

    def _project(self, attn: Any, pixels: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, N, H * D]."""
        if text is not None:
            query = attn.to_q(pixels)
            # a bound cache would be guarded by a compiler, which has no use for it
            if self._rule.keeps_text and not torch.compiler.is_compiling():
                return query, *self._cache.project(self.layer.name, attn, text, self._rule.fused)
            return query, *project(attn, text, self._rule.fused)
        if self._rule.fused:
            query, key, value = attn.to_qkv(pixels).chunk(3, dim=-1)
            return query, key, value
        return attn.to_q(pixels), attn.to_k(pixels), attn.to_v(pixels)

    def _controlled(
        self, plan: Plan, attn: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        request = plan.request
        edit, key_labels = request.edit, request.key_labels
        if plan.passed_over is not None:
            edit = plan.passed_over.edit()
            key_labels = plan.passed_over.key_labels(key)
        arguments: dict[str, Any] = {
            "scale": attn.scale if self._rule.uses_layer_scale else None,
            "edit": edit,
            "query_labels": request.query_labels,
            "key_labels": key_labels,
            "key_padding": self._padding(mask),
            "backend": self._backend,
        }
        if request.readout is None:
            return attention(query, key, value, **arguments)
        out, maps = attention(query, key, value, readout=request.readout, **arguments)
        for (_, source), columns in zip(plan.sources, plan.columns, strict=True):
            if source.sink is not None and columns is not None:
                source.sink(maps[..., columns])
        if plan.is_read:
            self.maps = maps
        return out

    def _bias(self, attn: Any, mask: Tensor | None, key: Tensor) -> Tensor | None:
        """The mask as SDPA wants it, [B, H, 1, Nk]."""
        if mask is None:
            return None
        samples, seqlen_k = key.shape[:2]
        mask = attn.prepare_attention_mask(mask, seqlen_k, samples)
        return mask.view(samples, attn.heads, -1, mask.shape[-1])

    def _padding(self, mask: Tensor | None) -> Tensor | None:
        """The mask as weft's attention wants it, bool [B, Nk], True for padding."""
        if mask is None:
            return None
        if mask.ndim != 3 or mask.shape[1] != 1:
            raise ValueError(
                f"attach: a controlled layer takes a mask over keys, [B, 1, Nk]; got {list(mask.shape)} in "
                f"{self.layer.name}; detach, or leave the mask out"
            )
        return mask[:, 0] < _PADDING_BIAS


def attention_without_control(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of a layer that nobody asks anything of, [B, N, H, D] in and out.

    The decision point: SDPA, called exactly as diffusers calls it, keeps every bit of the stock pipeline. Another
    kernel would go here, and only here.
    """
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=0.0, is_causal=False).transpose(
        1, 2
    )
