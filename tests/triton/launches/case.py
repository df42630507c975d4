"""What every op says of a call whose launches are compiled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case(ABC):
    """One call, of the shape of a real layer."""

    name: str

    @abstractmethod
    def run(self) -> None:
        """Launch everything this call would launch, on tensors without memory."""

    def row(self, kernel: str, arch: int) -> int | None:
        """Place in the launch table of the row that ``kernel`` is launched by; None if rows need not all be taken."""
        return None


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")
