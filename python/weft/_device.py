"""Where and in what numbers a model computes: what a user types, checked before anything is loaded."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# the first diffusers whose ``from_pretrained`` takes ``dtype``: older ones ignore it, and it warns of ``torch_dtype``
_TAKES_DTYPE = (0, 40)


def choose_device(device: str) -> torch.device:
    """``device`` itself, or for "auto" the first GPU if there is one.

    Raises:
        ValueError: It is not a device, or torch does not see it here.
    """
    import torch  # here, since a refusal of anything else shall not wait for it

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"--device must be auto, cpu or cuda[:index]; got {device!r}") from error
    there = _devices(chosen.type)
    if not there:
        raise ValueError(
            f"--device {device}: torch {torch.__version__} sees no device {chosen.type} here; use --device cpu"
        )
    if (chosen.index or 0) >= there:
        last = f"{chosen.type}:{there - 1}" if there > 1 else chosen.type
        raise ValueError(f"--device {device}: the last device of this kind here is {last}; use that")
    return chosen


def _devices(kind: str) -> int:
    """How many devices of a kind torch can compute on here; "meta" and the like are none."""
    import torch

    if kind == "cpu":
        return 1
    if not torch.accelerator.is_available():
        return 0
    accelerator = torch.accelerator.current_accelerator()
    return torch.accelerator.device_count() if accelerator is not None and accelerator.type == kind else 0


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of that name, or for "auto" float16 on a GPU and float32 elsewhere."""
    import torch

    if dtype == "auto":
        dtype = "float16" if device.type == "cuda" else "float32"
    found: torch.dtype = getattr(torch, dtype)
    return found


def dtype_argument(dtype: torch.dtype, diffusers: str | None = None) -> dict[str, Any]:
    """``dtype`` as the keyword of ``from_pretrained`` of a diffusers pipeline.

    Args:
        diffusers: Version of diffusers; the installed one if not given.
    """
    installed = tuple(int(part) for part in (diffusers or version("diffusers")).split(".")[:2])
    return {"dtype" if installed >= _TAKES_DTYPE else "torch_dtype": dtype}
