"""The attention layers of a model that weft serves: taken over, planned before a pass, read after it, given back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from weft.attach.control import Control
from weft.attach.families.family import attention_layers, set_processor, stored_processors
from weft.attach.families.host import Host
from weft.attach.families.remedies import remedy
from weft.attach.processors.plan import join
from weft.attach.processors.seam import Seam
from weft.attach.processors.text_cache import TextCache
from weft.attach.records import LayerInfo, Step


class StandIns:
    """The processors that stand in for a model's own.

    Attributes:
        names: Paths of the served layers; they stay when the layers are given back.
        skipped: (name, reason) of the attention layers that kept their own processor.
        text_cache: The keys and values of the text.
    """

    def __init__(self, host: Host, backend: str | None) -> None:
        self.names: list[str] = []
        self.skipped: list[tuple[str, str]] = []
        self.text_cache = TextCache()
        self._host: Any = host
        self._backend = backend
        self._served: dict[str, Seam] = {}
        self._refused: dict[str, str] = {}  # layers that would be served with another processor -> its class

    def __len__(self) -> int:
        return len(self._served)

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The served layers."""
        return tuple(seam.layer for seam in self._served.values())

    def install(self) -> tuple[int, int]:
        """Serve every layer that can be served. Returns how many were gained and lost since last time."""
        model, family = self._host.model, self._host.family
        served: dict[str, Seam] = {}
        self.skipped, self._refused = [], {}
        for name, attn in attention_layers(model):
            processor = attn.processor
            if isinstance(processor, Seam):
                served[name] = processor
            elif (reason := family.refuse_layer(model, name, attn)) is not None:
                self.skipped.append((name, reason))
            elif (reason := family.refuse_processor(attn, type(processor))) is not None:
                self.skipped.append((name, reason))
                self._refused[name] = type(processor).__name__
            else:
                info = family.layer_info(model, name, attn)
                served[name] = seam = family.stand_in(processor, info, self.text_cache, self._backend)
                set_processor(attn, seam)
        gained, lost = served.keys() - self._served.keys(), self._served.keys() - served.keys()
        self._served, self.names = served, list(served)
        return len(gained), len(lost)

    def give_back(self) -> None:
        """Put every processor back, and let the model go."""
        model, self._host = self._host.model, None
        for _, attn in attention_layers(model):
            if isinstance(attn.processor, Seam):
                set_processor(attn, attn.processor.original)
        stored = stored_processors(model)
        for name, processor in stored.items():
            if isinstance(processor, Seam):
                stored[name] = processor.original
        self._served = {}
        self.text_cache.clear()

    def before_pass(self, controls: Sequence[Control], step: Step) -> None:
        """Plan what every layer does in the coming pass. Raises as ``join``."""
        for seam in self._served.values():
            seam.maps = None
            seam.ranges = step.ranges if seam.layer.is_joint else None
            asked = ((control, control.request_layer(seam.layer, step)) for control in controls)
            sources = [(control, request) for control, request in asked if request is not None]
            if not sources:
                seam.plan = None
            elif seam.plan is None or not seam.plan.joins(sources):
                seam.plan = join(seam.layer, sources)

    def after_pass(self, step: Step) -> None:
        """Give every control the maps that it asked for."""
        for seam in self._served.values():
            maps, seam.maps = seam.maps, None
            if maps is None or seam.plan is None:
                continue
            for (control, request), columns in zip(seam.plan.sources, seam.plan.columns, strict=True):
                if columns is not None and request.sink is None:
                    control.read_maps(seam.layer, step, maps[..., columns])

    def counted(self) -> Counter[str]:
        """How many layers of each kind are served."""
        return Counter(_kind(layer) for layer in self.layers)

    def refusals(self) -> str | None:
        """Which processors keep layers from being served, how many, and what to call; None where none does."""
        if not self._refused and self._served:
            return None
        model = type(self._host.model).__name__
        if not self._refused:
            reasons = "; ".join(f"{reason} ({count} layers)" for reason, count in self._reasons().items())
            return f"weft serves no attention layer of this {model}: {reasons or 'it has none'}"
        classes = Counter(self._refused.values())
        listed = ", ".join(f"{name} ({count} layers)" for name, count in classes.items())
        remedies = " and ".join(dict.fromkeys(call for name in classes if (call := remedy(name)) is not None))
        return (
            f"weft serves {len(self._served)} of {len(self._served) + len(self._refused)} attention layers of this "
            f"{model}; the others keep the processor {listed}, "
            + (
                f"call {remedies} to have them served"
                if remedies
                else "which weft cannot stand in for (see `.skipped`)"
            )
        )

    def _reasons(self) -> Counter[str]:
        return Counter(reason for _, reason in self.skipped)


def _kind(layer: LayerInfo) -> str:
    return "joint-attention" if layer.is_joint else "cross-attention" if layer.is_cross else "self-attention"
