"""Rows of files: every kind of artefact as it was saved when the record was made, and what is in it."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

import weft
from golden import internals, models, store, training
from golden.models import RED, residual
from weft.train import Generator, encode_pairs

SHARD_SIZE = 20_000  # bytes: two shards of pictures, and some of text
Content = dict[str, str]  # a place in what was loaded -> what is there


@dataclass(frozen=True)
class FileRow:
    """One artefact in a folder of its own.

    Attributes:
        name: Also the path of the folder.
        write: Makes and saves it. Only the command that records calls this.
        load: Reads it, with today's code.
        content: What of it must stay as it was, down to the bits of its tensors.
        save_again: Saves what was loaded; None where nothing saves it but a run.
    """

    name: str
    write: Callable[[Path], None]
    load: Callable[[Path], Any]
    content: Callable[[Any], Mapping[str, Any]]
    save_again: Callable[[Any, Path], None] | None = None

    def described(self, folder: Path) -> Content:
        """The content of a folder, as it is stored beside it."""
        return described(self.content(self.load(folder)))


FILES: dict[str, FileRow] = {}


def described(content: Any, place: str = "") -> Content:
    """Nested content by place: tensors by dtype, shape and a digest of their bytes, the rest as it prints."""
    if isinstance(content, Tensor):
        raw = content.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        kind = f"{str(content.dtype).removeprefix('torch.')} {list(content.shape)}"
        return {place: f"{kind} {hashlib.sha256(raw).hexdigest()[:32]}"}
    if isinstance(content, Mapping):
        pairs = [(str(key), value) for key, value in content.items()]
    elif isinstance(content, (list, tuple)):
        pairs = [(str(number), value) for number, value in enumerate(content)]
    else:
        return {place: repr(content)}
    if not pairs:
        return {place: "empty"}
    found: Content = {}
    for key, value in pairs:
        found |= described(value, f"{place}.{key}" if place else key)
    return found


def differences(row: FileRow, found: Content, stored: Content) -> list[str]:
    """What is not as stored, one line a place."""
    return [
        f"{row.name}: {place}: is {found.get(place, 'absent')}, was {stored.get(place, 'absent')}"
        for place in sorted({*found, *stored})
        if found.get(place) != stored.get(place)
    ]


def _enter(name: str, *parts: Any, **more: Any) -> None:
    FILES[f"files/{name}"] = FileRow(f"files/{name}", *parts, **more)


def _fields(*names: str) -> Callable[[Any], Mapping[str, Any]]:
    return lambda found: {name: getattr(found, name) for name in names}


# --- residuals and their LoRA layouts ------------------------------------------------------------------------------

FACTORS = ("down", "up", "identifier", "class_word", "text_width", "is_convolution")


def _small_residual() -> weft.Residual:
    return residual(rank=2)


def _lora(layout: str) -> None:
    file = "lora.safetensors"
    _enter(
        f"lora-{layout}",
        lambda folder: _small_residual().save_lora(folder / file, layout),
        lambda folder: weft.Residual.from_lora(folder / file, models.pipeline("sd1"), RED[1], RED[0]),
        _fields(*FACTORS),
        lambda found, folder: found.save_lora(folder / file, layout),
    )


_enter(
    "residual",
    lambda folder: _small_residual().save(folder / "residual.safetensors"),
    lambda folder: weft.Residual.load(folder / "residual.safetensors"),
    _fields(*FACTORS, "base_name"),
    lambda found, folder: found.save(folder / "residual.safetensors"),
)
_enter(
    "residual-bf16",
    lambda folder: _small_residual().save(folder / "residual.safetensors", torch.bfloat16),
    lambda folder: weft.Residual.load(folder / "residual.safetensors"),
    _fields(*FACTORS, "base_name"),
    lambda found, folder: found.save(folder / "residual.safetensors", torch.bfloat16),
)
_lora("kohya")
_lora("diffusers")


# --- soft tokens, task prompts, task branch ------------------------------------------------------------------------


def _soft_tokens(model: str) -> None:
    _enter(
        f"soft-tokens-{model}",
        lambda folder: models.soft_tokens(model).save(folder / "tokens.safetensors"),
        lambda folder: weft.SoftTokens.load(folder / "tokens.safetensors"),
        _fields("tokens", "offsets", "blocks", "base_name", "space", "text_length"),
        lambda found, folder: found.save(folder / "tokens.safetensors"),
    )


_soft_tokens("sd1")
_soft_tokens("sd3")
_enter(
    "task-prompts",
    lambda folder: models.task_prompts().save(folder / "prompts.safetensors"),
    lambda folder: weft.TaskPrompts.load(folder / "prompts.safetensors"),
    _fields("vectors", "placement", "dialect", "base_name", "init"),
    lambda found, folder: found.save(folder / "prompts.safetensors"),
)


def _narrow_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
    )


_enter(
    "task-branch",
    lambda folder: models.task_branch(_narrow_unet(), 16).save(folder / "branch.safetensors"),
    lambda folder: weft.TaskBranch.load(folder / "branch.safetensors"),
    lambda found: {
        "network": found.network.state_dict(),
        "config": found.network.config,
        **_fields("states", "dialect", "base_name")(found),
    },
    lambda found, folder: found.save(folder / "branch.safetensors"),
)


# --- generators, checkpoints, encoded pairs ------------------------------------------------------------------------


def _generator(baseline: str) -> None:
    _enter(
        f"generator-{baseline}",
        lambda folder: training.trained_generator(baseline).save(folder / "generator"),
        lambda folder: Generator.load(folder / "generator"),
        lambda found: {
            "record": found.record,
            **{name: module.state_dict() for name, module in internals.generator_modules(found).items()},
        },
        lambda found, folder: found.save(folder / "generator"),
    )


_generator("ssa")
_generator("attn")


def _without_clock(state: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in state.items() if name != "seconds"}


def _run(kind: str) -> None:
    _enter(
        f"run-{kind}",
        lambda folder: training.begin(kind, folder),
        lambda folder: internals.read_checkpoint(folder / "checkpoint.pt"),
        _without_clock,
    )


for _kind in training.RUNS:
    _run(_kind)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != store.CONTENT}


def _read_encoded(folder: Path) -> Mapping[str, Any]:
    """Rows of a copy, since what does not fit its pairs would be encoded again in place."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        found = internals.read_encoded(models.pipeline("sd1"), training.pairs(), Path(copy))
        # clones, because the rows are views of mapped files
        rows = {name: value.clone() for name, value in found.items()}
        return {"files were kept": _bytes(Path(copy)) == _bytes(folder), **rows}


def _write_encoded(folder: Path) -> None:
    pipe = models.pipeline("sd1")
    encode_pairs(pipe, training.pairs(), folder, text=torch.float16, shard_size=SHARD_SIZE)


_enter("encoded-pairs", _write_encoded, _read_encoded, lambda found: found)
