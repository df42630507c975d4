"""The rows of token ids that text encoders read while a pipeline encodes prompts: templates, padding and all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class ReadRows:
    """What one encoder has read.

    Attributes:
        ids: Rows of token ids, each [n], in the order in which they were read.
        masks: For each of them what is no padding, [n]; None where the encoder was given no mask.
    """

    ids: list[Tensor] = field(default_factory=list)
    masks: list[Tensor | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Any, mask: Any) -> None:
        """Take the arguments of a call; anything but rows of ids is passed over."""
        if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
            return
        has_mask = isinstance(mask, Tensor) and mask.shape == ids.shape
        self.ids += ids.detach().unbind(0)
        self.masks += mask.detach().unbind(0) if has_mask else [None] * len(ids)


@contextmanager
def recording(encoders: Mapping[str, Any]) -> Iterator[dict[str, ReadRows]]:
    """Record what ``encoders``, modules by name, read until the end of the block."""
    read = {name: ReadRows() for name in encoders}

    def hook(rows: ReadRows) -> Any:
        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            rows.add(kwargs.get("input_ids", args[0] if args else None), kwargs.get("attention_mask"))

        return before

    with ExitStack() as hooks:
        for name, encoder in encoders.items():
            hooks.callback(encoder.register_forward_pre_hook(hook(read[name]), with_kwargs=True).remove)
        yield read
