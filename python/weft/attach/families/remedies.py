"""How a user takes a processor off again that weft cannot stand in for."""

from __future__ import annotations

# part of a processor's name -> the call that puts the model's own processor back
_CALLS = {
    "Sliced": "`pipe.disable_attention_slicing()`",
    "XFormers": "`pipe.disable_xformers_memory_efficient_attention()`",
    "IPAdapter": "`pipe.unload_ip_adapter()`",
}


def remedy(processor: str) -> str | None:
    """What to call where layers have a processor of this class name; None where it is the model's own."""
    return next((call for part, call in _CALLS.items() if part in processor), None)
