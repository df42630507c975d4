"""Names for weights: one that says which model made a number, and those by which training knows an encoder."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from weft.train.core import digest_of_weights


def digest_of(module: nn.Module) -> str:
    """Eight digits that change with the weights."""
    sha = hashlib.sha256()
    for name, values in module.state_dict().items():
        sha.update(name.encode())
        sha.update(values.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if values.ndim else b"")
        sha.update(str(values.item()).encode() if not values.ndim else b"")
    return sha.hexdigest()[:8]


def digests_of(module: nn.Module) -> frozenset[str]:
    """``digest_of_weights`` of a module and of each of its parts: an encoder may be one tower, or be wrapped."""
    parts = [part for part in module.modules() if next(part.parameters(), None) is not None]
    return frozenset(digest_of_weights([part]) for part in [*parts, *_text_towers(module)])


def _text_towers(module: nn.Module) -> list[nn.Module]:
    """That of CLIP as transformers 4 names it where it comes alone, as in a diffusion pipeline."""
    text, projection = (getattr(module, name, None) for name in ("text_model", "text_projection"))
    if not isinstance(text, nn.Module):
        return []
    alone = nn.ModuleDict({"text_model": text})
    if not isinstance(projection, nn.Module):
        return [alone]
    return [alone, nn.ModuleDict({"text_model": text, "text_projection": projection})]
