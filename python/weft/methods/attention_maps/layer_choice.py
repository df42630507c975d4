"""Which layers and which steps a control acts on, as its user wrote them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from weft.attach import LayerInfo


class LayerChoice:
    """None for all; a regular expression searched in names, a resolution, a predicate, or a sequence of these."""

    def __init__(self, layers: Any) -> None:
        self.given = layers
        listed = list(layers) if isinstance(layers, (list, tuple, set, frozenset)) else [layers]
        if layers is not None and not listed:
            raise ValueError("layers: must choose something; got an empty sequence; leave it out for every layer")
        self._all = layers is None
        self._patterns: list[re.Pattern[str]] = []
        self._resolutions: list[int] = []
        self._predicates: list[Callable[[LayerInfo], bool]] = []
        for choice in [] if self._all else listed:
            self._take(choice)

    def chooses(self, layer: LayerInfo, latent_size: tuple[int, int]) -> bool:
        """Whether ``layer`` is one of them, for a latent of this size."""
        return (
            self._all
            or any(pattern.search(layer.name) for pattern in self._patterns)
            or max(layer.grid(latent_size)) in self._resolutions
            or any(predicate(layer) for predicate in self._predicates)
        )

    def check_layers(self, layers: Iterable[LayerInfo]) -> None:
        """Refuse names and predicates that choose none of ``layers``.

        Raises:
            ValueError: There are no layers, or one choice fits none of them.
        """
        layers = list(layers)
        if not layers:
            raise ValueError("layers: the model has no cross-attention that weft could take over; see `.skipped`")
        names = ", ".join(layer.name for layer in layers)
        for pattern in self._patterns:
            if not any(pattern.search(layer.name) for layer in layers):
                raise ValueError(f"layers: {pattern.pattern!r} fits no cross-attention layer; there are {names}")
        for predicate in self._predicates:
            if not any(predicate(layer) for layer in layers):
                raise ValueError(f"layers: {predicate!r} chooses no cross-attention layer; there are {names}")

    def check_resolutions(self, layers: Iterable[LayerInfo], latent_size: tuple[int, int]) -> None:
        """Refuse resolutions that no layer has, for a latent of this size.

        Raises:
            ValueError: One of them fits none of ``layers``.
        """
        present = sorted({max(layer.grid(latent_size)) for layer in layers}, reverse=True)
        for resolution in self._resolutions:
            if resolution not in present:
                raise ValueError(
                    f"layers: no cross-attention has resolution {resolution} for a latent of {latent_size[0]} x "
                    f"{latent_size[1]}; there are {', '.join(map(str, present))}"
                )

    def _take(self, choice: Any) -> None:
        if isinstance(choice, bool):
            raise TypeError(f"layers: must be names, resolutions or predicates; got {choice!r}")
        if isinstance(choice, int):
            self._resolutions.append(choice)
        elif isinstance(choice, str):
            try:
                self._patterns.append(re.compile(choice))
            except re.error as error:
                raise ValueError(f"layers: {choice!r} is not a regular expression: {error}") from None
        elif isinstance(choice, re.Pattern):
            self._patterns.append(choice)
        elif callable(choice):
            self._predicates.append(choice)
        else:
            raise TypeError(f"layers: must be names, resolutions or predicates; got {choice!r}")


class StepChoice:
    """None for all, an index, a range, a slice, or an iterable of indices; a call says whether an index is chosen.

    Attributes:
        given: As the user wrote it; of an iterator what it gave.

    Raises:
        TypeError: Something else.
        ValueError: No step at all, or a negative one: how many there will be is not known beforehand.
    """

    def __init__(self, steps: Any) -> None:
        if isinstance(steps, Iterator):
            steps = tuple(steps)
        self.given = steps
        self._listed: frozenset[int] = frozenset()
        if steps is None:
            return
        if isinstance(steps, slice):
            start, stop, stride = steps.start or 0, steps.stop, steps.step or 1
            if start < 0 or stride < 0 or (stop is not None and stop <= start):
                raise ValueError(
                    f"steps: must be counted from the first step, forwards, and not be empty; got {steps!r}"
                )
            return
        if isinstance(steps, bool) or not isinstance(steps, (int, Iterable)) or isinstance(steps, str):
            raise TypeError(f"steps: must be an index, a range, a slice or an iterable of indices; got {steps!r}")
        self._listed = frozenset([steps] if isinstance(steps, int) else steps)
        if not self._listed or not all(isinstance(index, int) and index >= 0 for index in self._listed):
            raise ValueError(f"steps: must be at least one index, each 0 or more; got {steps!r}")

    def __call__(self, index: int) -> bool:
        if self.given is None:
            return True
        if isinstance(self.given, slice):
            start, stop, stride = self.given.start or 0, self.given.stop, self.given.step or 1
            return index >= start and (stop is None or index < stop) and (index - start) % stride == 0
        return index in self._listed
