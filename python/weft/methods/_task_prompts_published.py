"""Task prompts in the files of others: the released ones, their copy in diffusers' layout, and those that are neither.

What a file is, is told by the names of its tensors and of its tokens, never by the name of its folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from weft.methods._task_prompts_recipes import (
    COUNT,
    DIALECTS,
    NAMES,
    PUBLISHED_NAMES,
    PromptName,
    token_names,
)
from weft.methods._tensor_file import TensorFile

WHO = "TaskPrompts.load"
OWN = "task_prompts.safetensors"  # of weft, in the folder of a model
TABLE, WRAPPED, ADDED = "token_embedding.weight", "token_embedding.wrapped.weight", "trainable_embeddings"
TEXT_ENCODERS = ("text_encoder.safetensors", "model.safetensors", "model.fp16.safetensors")  # in their folder
UNETS = ("unet.safetensors", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
BRANCH = ("conv_in_condition.weight", "brushnet_mid_block.weight")  # tensors of PowerPaint v2 alone
_BRANCH_FOLDER = "PowerPaint_Brushnet"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_EXPECTED = (
    "a file of weft, the released folder of PowerPaint v1 (text_encoder/text_encoder.safetensors and "
    "unet/unet.safetensors), or a folder in diffusers' layout whose tokenizer has the 30 tokens"
)


@dataclass(frozen=True, eq=False)
class Published:
    """What was read from somebody else's file.

    Attributes:
        dialect: A key of ``DIALECTS``.
        vectors: Prompt -> [10, C] fp32.
    """

    dialect: str
    vectors: Mapping[PromptName, Tensor]


def find(path: Path) -> TensorFile:
    """The file with task prompts that ``path`` is or holds.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is something else, which is named.
    """
    if path.is_file():
        _refuse_pickled(path)
        return _told_apart(TensorFile(path, who=WHO))
    if not path.is_dir():
        raise FileNotFoundError(f"{WHO}: there is nothing at {path}; needs {_EXPECTED}")
    if (path / _BRANCH_FOLDER).is_dir():
        raise ValueError(_is_branch(path))
    if (path / OWN).is_file():
        return TensorFile(path / OWN, who=WHO)
    folder = path / "text_encoder"
    for name in TEXT_ENCODERS:
        if (folder / name).is_file():
            return _told_apart(TensorFile(folder / name, who=WHO))
    alone = sorted(path.glob("*.safetensors"))
    if len(alone) == 1:
        return _told_apart(TensorFile(alone[0], who=WHO))
    raise FileNotFoundError(f"{WHO}: {path} holds no task prompts; needs {_EXPECTED}")


def read(found: TensorFile, dialect: str | None) -> Published:
    """The prompts of a text encoder.

    Args:
        found: As ``find`` gives it.
        dialect: "main-v1" or "dev", where the file does not tell; None to tell by its tokens.

    Raises:
        ValueError: A prompt is missing, has another shape, or nothing tells which is which.
    """
    if found.ending_in(WRAPPED):
        if dialect not in (None, "main-v1"):
            raise ValueError(f"{WHO}: {found.path} is of the dialect 'main-v1', by its tensors; not {dialect!r}")
        return Published("main-v1", {name: _wrapped(found, name) for name in NAMES})
    return _of_table(found, dialect)


def _wrapped(found: TensorFile, name: PromptName) -> Tensor:
    """A prompt that is a tensor of its own beside the table."""
    key = f"{ADDED}.{PUBLISHED_NAMES[name]}"
    named = found.ending_in(key)
    if len(named) != 1:
        raise ValueError(
            f"{WHO}: {found.path} must have one tensor that ends in {key!r}; it has {len(named)}; is the file whole?"
        )
    width = found.shapes[found.ending_in(WRAPPED)[0]][1]
    if found.shapes[named[0]] != (COUNT, width):
        raise ValueError(
            f"{WHO}: {named[0]} of {found.path} must be [{COUNT}, {width}]; it is {list(found.shapes[named[0]])}"
        )
    return found.tensor(named[0]).float()


def _of_table(found: TensorFile, dialect: str | None) -> Published:
    """Prompts that are rows of a table which was made longer."""
    tables = found.ending_in(TABLE)
    if len(tables) != 1:
        raise ValueError(
            f"{WHO}: {found.path} is no text encoder with task prompts: it has no tensor that ends in {WRAPPED!r} or "
            f"{TABLE!r}; needs {_EXPECTED}"
        )
    rows = found.shapes[tables[0]][0]
    ids = added_tokens(found.path.parent.parent)
    told = next((key for key, known in DIALECTS.items() if key != "weft" and _all_tokens(key) <= ids.keys()), None)
    if told is not None and dialect not in (None, told):
        raise ValueError(f"{WHO}: {found.path} is of the dialect {told!r}, by its tokens; not {dialect!r}")
    if told is None and dialect is None:
        raise ValueError(
            f"{WHO}: nothing beside {found.path} says which of its {rows} rows are task prompts: the tokenizer folder "
            "has no tokens such as 'P_ctxt_0'; give the whole folder; or, if the last 30 rows are they, say in which "
            "order by `dialect`: 'main-v1' (context, shape, object) or 'dev' (object, context, shape)"
        )
    chosen = told or dialect
    assert chosen is not None
    if chosen not in DIALECTS or chosen == "weft":
        raise ValueError(f"{WHO}: `dialect` must be 'main-v1' or 'dev'; got {dialect!r}")
    if told is None:
        ordered = [token for name in DIALECTS[chosen].order for token in token_names(DIALECTS[chosen], name)]
        ids = {token: rows - len(ordered) + place for place, token in enumerate(ordered)}
    table = found.tensor(tables[0]).float()
    vectors: dict[PromptName, Tensor] = {}
    for name in NAMES:
        places = [ids[token] for token in token_names(DIALECTS[chosen], name)]
        if min(places) < 0 or max(places) >= rows:
            raise ValueError(
                f"{WHO}: {found.path} must have a row for every task token, up to row {max(places)}; it has {rows} "
                "rows: tokenizer and text encoder are not of the same model"
            )
        vectors[name] = table[places].clone()
    return Published(chosen, vectors)


def added_tokens(folder: Path) -> dict[str, int]:
    """Token -> id of what the tokenizer of a diffusers folder was given beyond its vocabulary; empty if unknown."""
    listed, whole = folder / "tokenizer" / "added_tokens.json", folder / "tokenizer" / "tokenizer.json"
    try:
        if listed.is_file():
            return {str(token): int(number) for token, number in json.loads(listed.read_text()).items()}
        if whole.is_file():
            entries = json.loads(whole.read_text())["added_tokens"]
            return {str(entry["content"]): int(entry["id"]) for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{WHO}: the tokenizer in {folder / 'tokenizer'} is damaged ({error!r})") from error
    return {}


def is_branch(found: TensorFile) -> bool:
    """Whether a file is the BrushNet branch of PowerPaint v2."""
    return any(found.ending_in(name) for name in BRANCH)


def _all_tokens(dialect: str) -> set[str]:
    return {token for name in NAMES for token in token_names(DIALECTS[dialect], name)}


def _told_apart(found: TensorFile) -> TensorFile:
    """``found``, unless it is a file of another kind that users have lying beside."""
    if is_branch(found):
        raise ValueError(_is_branch(found.path))
    if "conv_in.weight" in found.shapes:
        raise ValueError(
            f"{WHO}: {found.path} is a UNet with {found.shapes['conv_in.weight'][1]} input channels, without task "
            "prompts; give the folder above it, which has the text encoder too"
        )
    return found


def _is_branch(path: Path) -> str:
    return (
        f"{WHO}: {path} is PowerPaint v2: a BrushNet branch beside a frozen UNet, with the mask after the masked "
        "picture and 1 where to keep. Its prompts do not work in an inpainting UNet; use PowerPaint v1"
    )


def _refuse_pickled(path: Path) -> None:
    if path.suffix in _PICKLED:
        raise ValueError(
            f"{WHO}: {path} is a pickled file, which can run code when it is read (the text encoder of PowerPaint v2 "
            f"is one); only safetensors are read: needs {_EXPECTED}"
        )
