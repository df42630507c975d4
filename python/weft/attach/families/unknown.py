"""What weft could do with a model of a family that it does not know, for the message that refuses it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from weft.attach.families.family import attention_layers
from weft.attach.processors.rebinding import refusal


def describe_attentions(model: Any) -> str:
    """The attention modules of ``model`` with their processors, and whether these can be run by positions."""
    found = Counter((type(attn).__name__, type(attn.processor)) for _, attn in attention_layers(model))
    if not found:
        return "which has no attention module with a processor of diffusers, so weft cannot reach its attention"
    listed = ", ".join(f"{count} x {module} with {kind.__name__}" for (module, kind), count in found.items())
    reasons = dict.fromkeys(reason for (_, kind) in found if (reason := refusal(kind)) is not None)
    if reasons:
        return f"whose attentions are {listed}; not all can be replaced: {'; '.join(reasons)}"
    return (
        f"whose attentions are {listed}; all of them can be replaced: if text and image attend to each other in "
        "one sequence, describe it with `family=weft.attach.Joint(...)` and give tokens by position"
    )
