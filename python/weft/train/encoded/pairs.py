"""Pairs encoded beforehand, in a folder that any number of runs reads.

It holds ``index.json``, ``latents-00000.safetensors`` and so on, and where asked for ``text-00000.safetensors``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from weft.attach import Host, TextStates, base_model, resolve
from weft.train.diffusion import Latents, caption_fits, check_denoiser, picture_size
from weft.train.encoded.index import check_same, read_index, write_index
from weft.train.encoded.rows import rows_of_pictures, rows_of_texts
from weft.train.encoded.shard_writing import Job, check_free_space, explain_full_disk, remove_leftovers, write_missing
from weft.train.encoded.shards import Shards
from weft.train.pictures import SMALLEST_SHARE, Pair, read_pairs

SHARD_SIZE = 256 * 2**20  # bytes


@dataclass(frozen=True)
class StoredLatents:
    """Used in place of ``Latents`` that are not in memory."""

    shards: Shards

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shards.layout.tensors["mean"].shape

    def part(self, places: Sequence[int]) -> Latents:
        """Those of some pairs, in memory."""
        return Latents(**self.shards.part(places))


@dataclass(frozen=True)
class StoredText:
    """Every text of every pair.

    Attributes:
        first: Row of the first text of each pair.
        device, dtype: Where and as what they are wanted.
    """

    shards: Shards
    first: Sequence[int]
    device: torch.device
    dtype: torch.dtype

    def part(self, texts: Sequence[tuple[int, int]]) -> TextStates:
        """Some of them, each given as the place of its pair and its number in ``Pair.texts``."""
        found = self.shards.part([self.first[place] + number for place, number in texts])
        moved = {name: part.to(self.device, self.dtype) for name, part in found.items()}
        return TextStates(moved["states"], moved.get("pooled"))


def encode_pairs(
    pipe: Any,
    pairs: Any,
    folder: str | Path,
    *,
    resolution: int | None = None,
    text_length: int | None = None,
    text: bool | torch.dtype = False,
    shard_size: int = SHARD_SIZE,
    most_missing: float = 0.01,
    accelerator: Accelerator | None = None,
) -> Path:
    """Encode pictures, and captions if asked, into a folder for ``fit_soft_tokens(..., encoded=folder)``.

    A run that was cut off goes on at the file where it stopped; a complete folder is only checked. A file stays good
    for as long as its own pairs do: more pairs may come after the last, where a last file that was not full must be
    deleted first, and a picture that proves to be damaged on the way can be repaired or removed. One run at a time may
    write to a folder.

    Args:
        pipe: The pipeline that will be trained on, on its device; its autoencoder and text encoders are used.
        pairs: As of ``fit_soft_tokens``.
        folder: Made if it is not there.
        resolution: Pixels; None for the model's own.
        text_length: Tokens of T5's text, with Stable Diffusion 3; None for what its pipeline has, 256.
        text: Also keep the encoded captions and negatives: True in the dtype of the model, or in ``torch.float16`` or
            ``torch.bfloat16``. They take far more memory than latents (a caption of Stable Diffusion 1.5 takes 115 KiB
            in 16 bit, a picture of 512 pixels 128 KiB, but there are five captions to a picture of COCO), and encoding
            a caption again is cheap beside a training step, but for text encoders of billions of parameters.
        shard_size: Most bytes in a file; about three times that is needed in memory meanwhile. A folder keeps the one
            that it was begun with.
        most_missing: The share of pairs that may be passed over, with a warning, before it is an error.
        accelerator: Its processes share the work; None is one process.

    Returns:
        ``folder``.

    Raises:
        TypeError: Not a pipeline, pairs that are none, or a ``text`` of another kind.
        FileNotFoundError: Pairs that are not there.
        OSError: The disk is full, or will be. What was written is kept; running again goes on.
        ValueError: Too few pairs or too many that cannot be used, a picture that is damaged, a folder of other pairs,
            another model or resolution, or a file in it that cannot be used.
    """
    who = "encode_pairs"
    host = resolve(pipe)
    check_denoiser(host, who=who)
    size = picture_size(host, resolution, who=who)
    if shard_size < 1:
        raise ValueError(f"{who}: `shard_size` must be at least 1 byte; got {shard_size}")
    if not isinstance(text, bool) and text not in (torch.float16, torch.bfloat16, torch.float32):
        raise TypeError(f"{who}: `text` must be True, False, or torch.float16, bfloat16 or float32; got {text!r}")
    found = read_pairs(
        pairs,
        smallest=-(-size // SMALLEST_SHARE),
        fits=lambda caption: caption_fits(host, caption, text_length),
        most_missing=most_missing,
        who=who,
    )
    open_encoded(
        host,
        found,
        Path(folder),
        size,
        text=text,
        text_length=text_length,
        shard_size=shard_size,
        accelerator=accelerator,
        base_name=base_model(host).name,
        who=who,
    )
    return Path(folder)


def open_encoded(
    host: Host,
    pairs: Sequence[Pair],
    folder: Path,
    size: int,
    *,
    text: bool | torch.dtype | None = None,
    text_length: int | None = None,
    shard_size: int = SHARD_SIZE,
    accelerator: Accelerator | None,
    base_name: str,
    who: str,
) -> tuple[StoredLatents, StoredText | None]:
    """What ``folder`` holds of ``pairs``, once what it lacks is encoded; no text if it was begun without.

    Args:
        text: As of ``encode_pairs``; None for what is there.
        base_name: Of the model, for people who read the index.

    Raises:
        OSError, ValueError: As ``encode_pairs``.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{who}: encoded pairs need a folder; {folder} is a file; choose another place")
    folder.mkdir(parents=True, exist_ok=True)
    index = read_index(folder, who=who)
    wanted = [rows_of_pictures(host, pairs, size)]
    if text is None and "text" in index:
        text = getattr(torch, next(iter(index["text"].tensors.values())).dtype)
    if text:
        wanted.append(rows_of_texts(host, pairs, None if text is True else text, text_length))
    jobs = []
    for rows in wanted:
        layout = rows.layout(shard_size)
        if rows.name in index:
            layout = check_same(index[rows.name], layout, folder, who=who)
        jobs.append(Job(layout, layout.shards(folder, rows.source), rows.make))
    check_free_space(folder, jobs, who=who)
    if accelerator is None or accelerator.is_main_process:
        # a complete folder may be on a disk that cannot be written to
        if any(job.layout != index.get(job.layout.name) for job in jobs):
            with explain_full_disk(folder, jobs, who=who):
                write_index(folder, {**index, **{job.layout.name: job.layout for job in jobs}}, base_name)
        remove_leftovers(folder, jobs)
    if accelerator is not None:
        accelerator.wait_for_everyone()
    write_missing(folder, jobs, accelerator=accelerator, who=who)
    stored = [Shards(job.layout, job.shards) for job in jobs]
    if not text:
        return StoredLatents(stored[0]), None
    first = [0, *accumulate(len(pair.texts) for pair in pairs)]
    *_, (_, encoder) = host.text_encoders()
    return StoredLatents(stored[0]), StoredText(stored[1], first, host.pipeline.device, encoder.dtype)
