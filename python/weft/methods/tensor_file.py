"""A safetensors file of others, looked into without reading it: names and shapes first, single tensors when asked."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


class TensorFile:
    """Names, shapes and metadata of a safetensors file; tensors are read one at a time.

    Attributes:
        path: The file.
        shapes: Tensor -> its shape.
        metadata: Texts of the file's header.
    """

    def __init__(self, path: Path, *, who: str) -> None:
        """
        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is cut short, damaged, or of another kind.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{who}: there is no file {path}")
        self.path = path
        try:
            with safe_open(path, framework="pt") as opened:
                names = list(opened.keys())
                self.shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in names}
                self.metadata: dict[str, str] = opened.metadata() or {}
        except SafetensorError as error:
            raise ValueError(
                f"{who}: {path} is no whole safetensors file: it is cut short, damaged or of another kind ({error})"
            ) from error

    def tensor(self, name: str) -> Tensor:
        """One tensor, in the file's dtype, on the CPU."""
        with safe_open(self.path, framework="pt") as opened:
            found: Tensor = opened.get_tensor(name)
            return found

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All of them, one after the other."""
        with safe_open(self.path, framework="pt") as opened:
            for name in self.shapes:
                yield name, opened.get_tensor(name)

    def ending_in(self, end: str) -> list[str]:
        """Names whose last parts are ``end``: another program may have put something before them."""
        return [name for name in self.shapes if name == end or name.endswith(f".{end}")]


class PickledFile(TensorFile):
    """The same of a file of ``torch.save``, read whole; nothing but tensors is taken, and no code of it runs."""

    def __init__(self, path: Path, *, who: str) -> None:
        """
        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is cut short, damaged, or holds something else than tensors.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{who}: there is no file {path}")
        self.path, self.metadata = path, {}
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{who}: {path} is no whole file of tensors: it is cut short, damaged or of another kind "
                f"({first_line})"
            ) from error
        if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
            raise ValueError(f"{who}: {path} must hold tensors by name, as a state dict; it holds something else")
        self._tensors: dict[str, Tensor] = found
        self.shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}

    def tensor(self, name: str) -> Tensor:
        """One tensor, in the file's dtype, on the CPU."""
        return self._tensors[name]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All of them, one after the other."""
        yield from self._tensors.items()
