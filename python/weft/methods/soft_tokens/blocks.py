"""Blocks of a model, named by where their modules are, and which of them a layer lies in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from weft.attach import LayerInfo

_PATH = re.compile(r"\w+(\.\w+)*")


def block_of(name: str, blocks: Sequence[str]) -> int | None:
    """Place among ``blocks`` of the one that the module ``name`` lies in; None where it lies in none."""
    return next((place for place, block in enumerate(blocks) if _is_in(name, block)), None)


def check_blocks(blocks: Any, *, who: str) -> tuple[str, ...]:
    """``blocks`` as a tuple.

    Raises:
        TypeError: A string, or no sequence of strings.
        ValueError: None, one that is no path, or one that lies in another.
    """
    if isinstance(blocks, str) or not all(isinstance(block, str) for block in blocks):
        raise TypeError(f"{who}: `blocks` must be a sequence of paths such as ('down_blocks',); got {blocks!r}")
    blocks = tuple(blocks)
    if not blocks:
        raise ValueError(f"{who}: `blocks` must name at least one part of a model; got none")
    for place, block in enumerate(blocks):
        if not _PATH.fullmatch(block):
            raise ValueError(
                f"{who}: `blocks` must be paths of modules, such as 'down_blocks' or 'transformer_blocks.0'; "
                f"got {block!r}"
            )
        other = next((other for other in blocks[:place] + blocks[place + 1 :] if _is_in(block, other)), None)
        if other is not None:
            raise ValueError(f"{who}: `blocks` must not lie in each other; {block!r} is in {other!r}; leave one out")
    return blocks


def check_served(layers: Iterable[LayerInfo], blocks: Sequence[str], *, who: str) -> None:
    """Refuse blocks in which no layer among ``layers`` sees the text.

    Raises:
        ValueError: There is one.
    """
    seen = {block_of(layer.name, blocks) for layer in layers if layer.is_cross}
    for place, block in enumerate(blocks):
        if place not in seen:
            raise ValueError(
                f"{who}: weft serves no attention to the text in {block} of this model, so no layer there would see "
                "the tokens; see `.skipped` of an attachment"
            )


def check_place_for_tokens(layers: Iterable[LayerInfo], blocks: Sequence[str], *, who: str) -> None:
    """Refuse layers in ``blocks`` whose text cannot be made longer.

    Raises:
        ValueError: There is one.
    """
    refused = [layer.name for layer in layers if not layer.takes_tokens and block_of(layer.name, blocks) is not None]
    if refused:
        raise ValueError(
            f"{who}: {refused[0]} takes no further tokens: its text has positions in the image's attention and a "
            "stream of its own in every block; soft tokens are served on Stable Diffusion 1.x, 2.x, XL and 3"
        )


def _is_in(name: str, block: str) -> bool:
    return name == block or name.startswith(f"{block}.")
