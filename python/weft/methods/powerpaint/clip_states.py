"""What CLIP's text encoder makes of vectors, from a file of its weights: for texts that are always the same.

So a model with a text encoder of its own, which says one of a few constants to it, can do without that encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

TABLE = "embeddings.token_embedding.weight"
_POSITIONS = "embeddings.position_embedding.weight"
_COUNTED = "position_ids"
_PREFIX = "text_model."  # of a tensor's name, depending on the version of transformers
_HEAD = 64  # channels of a head, in every CLIP
_ENDS = 2  # the last words of CLIP's vocabulary start and end a text


def bare_name(name: str) -> str:
    """A tensor's name without what depends on versions."""
    return name.removeprefix(_PREFIX)


@torch.no_grad()
def states_of(
    weights: Mapping[str, Tensor], texts: Sequence[Tensor], known: Mapping[str, Any] | None = None
) -> Tensor:
    """Encode texts that are nothing but learnt vectors.

    Args:
        weights: Of a CLIP text encoder, bare names; its table has the words of the vocabulary alone.
        texts: Of every text the vectors [n, C], between start and end; n may be 0.
        known: Of its configuration, if known: ``num_attention_heads``, ``hidden_act``, ``layer_norm_eps``.

    Returns:
        [texts, Nk, C] fp32, padded with the end token as CLIP does.

    Raises:
        KeyError: A tensor is missing.
        ValueError: Vectors do not fit.
    """
    words, width = weights[TABLE].shape
    length = len(weights[_POSITIONS])
    longest = max(map(len, texts))
    if longest + _ENDS > length:
        raise ValueError(f"weft: {longest} vectors, start and end must fit {length} tokens")
    layers = {name.split(".")[2] for name in weights if name.startswith("encoder.layers.")}
    settings = {
        "num_attention_heads": max(width // _HEAD, 1),
        "hidden_act": "quick_gelu" if width == 768 else "gelu",  # of OpenAI's CLIP, and of its successors
        "layer_norm_eps": 1e-5,
    }
    config = CLIPTextConfig(
        vocab_size=words + sum(map(len, texts)),
        hidden_size=width,
        intermediate_size=len(weights["encoder.layers.0.mlp.fc1.bias"]),
        num_hidden_layers=len(layers),
        max_position_embeddings=length,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
        **{name: (known or {}).get(name, value) for name, value in settings.items()},
    )
    with torch.device("meta"):
        encoder = CLIPTextModel(config).eval()
    tensors = {name: tensor.float() for name, tensor in weights.items()}
    tensors[TABLE] = torch.cat([tensors[TABLE], *(text.float() for text in texts)])
    names = {bare_name(name): name for name in encoder.state_dict()}
    # positions are counted, not learnt: older versions keep them as a tensor, which not every file has
    counted = torch.arange(length)[None]
    tensors |= {bare: counted for bare in names if bare.endswith(_COUNTED)}
    missing = sorted(names.keys() - tensors.keys())
    if missing:
        raise KeyError(missing[0])
    encoder.load_state_dict({name: tensors[bare] for bare, name in names.items()}, assign=True)
    for module in encoder.modules():
        if _COUNTED in dict(module.named_buffers(recurse=False)):
            module.register_buffer(_COUNTED, counted, persistent=False)
    ids = torch.full((len(texts), length), words - 1)
    ids[:, 0] = words - 2
    first = words
    for row, text in enumerate(texts):
        ids[row, 1 : 1 + len(text)] = torch.arange(first, first + len(text))
        first += len(text)
    states: Tensor = encoder(input_ids=ids).last_hidden_state
    return states
