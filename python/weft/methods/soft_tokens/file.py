"""Files of soft tokens: weft's own, and the two ``.pth`` files that the method's authors published."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from weft.methods.files import Artefact

FILE = Artefact("SoftTokens", "soft tokens", "soft tokens", instead="train some by weft.train.fit_soft_tokens")
TOKENS, OFFSETS = "tokens", "t_offsets.weight"  # keys of the tensors
PUBLISHED_TOKENS, PUBLISHED_OFFSETS = "dc_tokens.pth", "dc_t_tokens.pth"

Space = Literal["conditioning", "block"]

# what a pickled embedding is made of, beside tensors; nothing of it runs code of the file's choosing
_HARMLESS: list[Any] = [nn.Embedding, nn.Parameter, set]


@dataclass(frozen=True)
class Published:
    """How a published set is used, which its file does not say.

    Attributes:
        model: Name of the model it was trained on.
        width: Channels of its tokens, by which it is recognised, along with whether blocks have tokens of their own.
        blocks: Where the tokens are added.
        space: What ``SoftTokens`` calls by that name.
        text_length: Likewise.
        own: Whether every one of ``blocks`` has tokens of its own.
    """

    model: str
    width: int
    blocks: tuple[str, ...]
    space: Space = "conditioning"
    text_length: int | None = None
    own: bool = False

    @property
    def shape(self) -> str:
        """Of its tokens, for a message."""
        return f"[{len(self.blocks)}, m, {self.width}]" if self.own else f"[m, {self.width}]"

    def offsets(self, table: Tensor) -> Tensor:
        """The published table of offsets, [buckets, C] or [buckets, L * C], as an artefact has it."""
        blocks = len(self.blocks)
        fits = self.own and table.shape[-1] == blocks * self.width
        return table.reshape(-1, blocks, self.width) if fits else table


_FIRST_FIVE = tuple(f"transformer_blocks.{block}" for block in range(5))

PUBLISHED = (
    Published("stable-diffusion-v1-5", 768, ("down_blocks",)),
    Published("stable-diffusion-xl-base-1.0", 2048, ("down_blocks", "mid_block")),
    Published("stable-diffusion-3-medium", 1536, _FIRST_FIVE, "block", 512, own=True),
)


def recognised(path: Path, tokens: Tensor) -> Published:
    """The published set that ``tokens``, read from ``path``, are of.

    Raises:
        ValueError: None.
    """
    for published in PUBLISHED:
        own = tokens.ndim == 3 and len(tokens) == len(published.blocks)
        if tokens.shape[-1:] == (published.width,) and (own if published.own else tokens.ndim == 2):
            return published
    raise ValueError(
        f"SoftTokens: {path} must hold the tokens of a published set, "
        f"{', '.join(published.shape for published in PUBLISHED)}; got {list(tokens.shape)}"
    )


def find(path: Path) -> tuple[Path, Path | None]:
    """The file of the tokens and that of their offsets, from a file or the folder of a published set.

    Raises:
        FileNotFoundError: There is none.
    """
    if path.is_dir():
        folder, found = path, sorted(path.glob("*.safetensors"))
        if len(found) == 1:
            return found[0], None
        path = folder / PUBLISHED_TOKENS
        if not path.is_file():
            raise FileNotFoundError(
                f"SoftTokens: the folder {folder} must hold one .safetensors file or {PUBLISHED_TOKENS}; it holds "
                f"{len(found)} and no {PUBLISHED_TOKENS}"
            )
    if not path.is_file():
        raise FileNotFoundError(f"SoftTokens: there is no file {path}")
    offsets = path.with_name(PUBLISHED_OFFSETS)
    return path, offsets if path.name == PUBLISHED_TOKENS and offsets.is_file() else None


def read_pth(path: Path) -> Tensor:
    """The one tensor of a published file, a pickled parameter or a pickled embedding, fp32 on the CPU.

    Nothing but tensors and an embedding is ever built from the file.

    Raises:
        ValueError: It is damaged, or holds anything else; what that is, is named.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"SoftTokens: {path} is cut short, or no file of torch.save")
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"SoftTokens: {path} is not read: {_what_it_is(path)}") from error
    if type(found) is nn.Embedding:
        found = found.__dict__.get("_parameters", {}).get("weight")
    if not isinstance(found, Tensor) or not found.is_floating_point():
        raise ValueError(
            f"SoftTokens: {path} must hold a tensor of floats or an embedding; it holds a {type(found).__name__}"
        )
    return found.detach().float()


def _what_it_is(path: Path) -> str:
    """What a file has that is refused."""
    try:
        names = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # whatever the scan stumbles over, the file is refused
        return "it is damaged"
    names -= {f"{kind.__module__}.{kind.__qualname__}" for kind in _HARMLESS}
    if not names:
        return "it is damaged"
    return f"it asks for {', '.join(sorted(names))}; only tensors and a torch.nn.Embedding are read"
