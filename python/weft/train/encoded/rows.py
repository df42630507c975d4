"""What the autoencoder and the text encoders make of pairs, as rows that can be stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from weft.attach import Host
from weft.train.core import digest_of_weights
from weft.train.diffusion import encode_views
from weft.train.encoded.shards import Layout, RowTensor
from weft.train.pictures import Pair, digest_of_pictures, views

AT_ONCE = 16  # pictures or texts between two looks at the progress


@dataclass(frozen=True)
class Rows:
    """Rows that are made when they are asked for.

    Attributes:
        identity: Names and values of all that they depend on beside ``source``.
        count: How many there are.
        source: A name for the pictures or texts of some rows.
        make: From a range of rows to their tensors [k, ...] on the CPU, a few rows at a time and in order.
    """

    name: str
    identity: Mapping[str, Any]
    count: int
    source: Callable[[range], str]
    make: Callable[[range], Iterator[dict[str, Tensor]]]

    def layout(self, shard_size: int) -> Layout:
        """In files of at most ``shard_size`` bytes. Makes the first row, to see what a row is."""
        first = next(self.make(range(1)))
        tensors = {name: RowTensor(_name(part.dtype), tuple(part.shape[1:])) for name, part in first.items()}
        whole = Layout(self.name, self.identity, self.count, self.count, tensors)
        return replace(whole, rows_per_shard=max(1, shard_size // whole.row_bytes))


def rows_of_pictures(host: Host, pairs: Sequence[Pair], size: int) -> Rows:
    """The posterior of every picture, as ``Latents`` has it."""
    vae = host.pipeline.vae

    def make(rows: range) -> Iterator[dict[str, Tensor]]:
        for some in _few(rows):
            latents = encode_views(host.pipeline, (views([pairs[place].read()], size)[0] for place in some))
            yield {"mean": latents.mean, "std": latents.std, "time_ids": latents.time_ids}

    identity = {
        "resolution": size,
        "autoencoder": digest_of_weights([vae]),
        "autoencoder_dtype": _name(vae.dtype),
        "scaling_factor": vae.config.scaling_factor,
        "shift_factor": vae.config.get("shift_factor"),
    }
    return Rows("latents", identity, len(pairs), lambda rows: digest_of_pictures(pairs[rows.start : rows.stop]), make)


def rows_of_texts(
    host: Host, pairs: Sequence[Pair], dtype: torch.dtype | None, text_length: int | None = None
) -> Rows:
    """The states of every caption and negative, padded as the pipeline pads them.

    Args:
        dtype: To keep them in; None for the model's.
        text_length: As of ``Host.encode_captions``.
    """
    encoders = [encoder for _, encoder in host.text_encoders()]
    texts, default = [text for pair in pairs for text in pair.texts], host.family.text_length

    def make(rows: range) -> Iterator[dict[str, Tensor]]:
        for some in _few(rows):
            encoded = host.encode_captions(texts[some.start : some.stop], text_length)
            parts = {"states": encoded.states, "pooled": encoded.pooled}
            yield {name: part.to("cpu", dtype) for name, part in parts.items() if part is not None}

    identity = {
        "text_encoders": digest_of_weights(encoders),
        "text_encoder_dtype": _name(encoders[-1].dtype),
        "text": _name(dtype or encoders[-1].dtype),
        **({} if default is None else {"text_length": text_length or default}),
    }
    return Rows("text", identity, len(texts), lambda rows: repr(texts[rows.start : rows.stop]), make)


def _few(rows: range) -> Iterator[range]:
    return (rows[first : first + AT_ONCE] for first in range(0, len(rows), AT_ONCE))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
