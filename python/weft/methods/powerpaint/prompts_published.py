"""Task prompts in the files of others: the released ones, their copy in diffusers' layout, and those that are neither.

The names of its tensors and tokens say what a file is, never the name of its folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from weft.methods.powerpaint.recipes import (
    COUNT,
    DIALECTS,
    NAMES,
    PUBLISHED_NAMES,
    Dialect,
    PromptName,
    token_names,
)
from weft.methods.tensor_file import TensorFile

WHO = "TaskPrompts.load"
OWN = "task_prompts.safetensors"  # of weft, in the folder of a model
TABLE, WRAPPED, ADDED = "token_embedding.weight", "token_embedding.wrapped.weight", "trainable_embeddings"
TEXT_ENCODERS = ("text_encoder.safetensors", "model.safetensors", "model.fp16.safetensors")  # in their folder
UNETS = ("unet.safetensors", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
BRANCH_FOLDERS = ("PowerPaint_Brushnet", "brushnet")  # as released, and as copied
BRANCH = ("conv_in_condition.weight", "brushnet_mid_block.weight")  # tensors of PowerPaint v2 alone
RELEASES = {key: dialect for key, dialect in DIALECTS.items() if key != "weft"}
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_EXPECTED = (
    "a file of weft, the released folder of PowerPaint v1 (text_encoder/text_encoder.safetensors and "
    "unet/unet.safetensors), or a folder in diffusers' layout whose tokenizer has the 30 tokens"
)


@dataclass(frozen=True, eq=False)
class Published:
    """What was read from a released file.

    Attributes:
        dialect: One of those that were looked for.
        vectors: Prompt -> [10, C] fp32.
        words: Rows of the table of embeddings that are the vocabulary itself.
    """

    dialect: str
    vectors: Mapping[PromptName, Tensor]
    words: int


def find(path: Path) -> TensorFile:
    """The file with task prompts that ``path`` is or holds.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is something else, which is named.
    """
    if path.is_file():
        _refuse_pickled(path)
        return _checked_kind(TensorFile(path, who=WHO))
    if not path.is_dir():
        raise FileNotFoundError(f"{WHO}: there is nothing at {path}; needs {_EXPECTED}")
    if any((path / folder).is_dir() for folder in BRANCH_FOLDERS):
        raise ValueError(_is_branch(path))
    if (path / OWN).is_file():
        return TensorFile(path / OWN, who=WHO)
    folder = path / "text_encoder"
    for name in TEXT_ENCODERS:
        if (folder / name).is_file():
            return _checked_kind(TensorFile(folder / name, who=WHO))
    alone = sorted(path.glob("*.safetensors"))
    if len(alone) == 1:
        return _checked_kind(TensorFile(alone[0], who=WHO))
    raise FileNotFoundError(f"{WHO}: {path} holds no task prompts; needs {_EXPECTED}")


def read(
    found: TensorFile, dialect: str | None, *, dialects: Mapping[str, Dialect] = RELEASES, who: str = WHO
) -> Published:
    """The prompts of a text encoder.

    Args:
        found: As ``find`` gives it.
        dialect: One of ``dialects``, where the file does not say; None to infer it from its tokens.
        dialects: Those that there are, the released one first.

    Raises:
        ValueError: A prompt is missing, has another shape, or nothing says which is which.
    """
    released = next(iter(dialects))
    if dialect is not None and dialect not in dialects:
        raise ValueError(f"{who}: `dialect` must be {' or '.join(map(repr, dialects))}; got {dialect!r}")
    if found.ending_in(WRAPPED):
        if dialect not in (None, released):
            raise ValueError(f"{who}: {found.path} is of the dialect {released!r}, by its tensors; not {dialect!r}")
        words = found.shapes[found.ending_in(WRAPPED)[0]][0]
        return Published(released, {name: _wrapped(found, name, who) for name in NAMES}, words)
    return _of_table(found, dialect, dialects, who)


def _wrapped(found: TensorFile, name: PromptName, who: str) -> Tensor:
    """A prompt that is a tensor of its own beside the table."""
    key = f"{ADDED}.{PUBLISHED_NAMES[name]}"
    named = found.ending_in(key)
    if len(named) != 1:
        raise ValueError(
            f"{who}: {found.path} must have one tensor that ends in {key!r}; it has {len(named)}; is the file whole?"
        )
    width = found.shapes[found.ending_in(WRAPPED)[0]][1]
    if found.shapes[named[0]] != (COUNT, width):
        raise ValueError(
            f"{who}: {named[0]} of {found.path} must be [{COUNT}, {width}]; it is {list(found.shapes[named[0]])}"
        )
    return found.tensor(named[0]).float()


def _of_table(found: TensorFile, dialect: str | None, dialects: Mapping[str, Dialect], who: str) -> Published:
    """Prompts that are rows of a table which was made longer."""
    tables = found.ending_in(TABLE)
    if len(tables) != 1:
        raise ValueError(
            f"{who}: {found.path} is no text encoder with task prompts: it has no tensor that ends in {WRAPPED!r} or "
            f"{TABLE!r}"
        )
    rows = found.shapes[tables[0]][0]
    ids = added_tokens(found.path.parent.parent, who=who)
    inferred = next((key for key, known in dialects.items() if _all_tokens(known) <= ids.keys()), None)
    if inferred is not None and dialect not in (None, inferred):
        raise ValueError(f"{who}: {found.path} is of the dialect {inferred!r}, by its tokens; not {dialect!r}")
    chosen = inferred or dialect
    if chosen is None:
        orders = " or ".join(f"{key!r} ({', '.join(known.order)})" for key, known in dialects.items())
        raise ValueError(
            f"{who}: nothing beside {found.path} says which of its {rows} rows are task prompts: the tokenizer folder "
            "has no tokens such as 'P_ctxt_0'; give the whole folder; or, if the last 30 rows are they, say in which "
            f"order by `dialect`: {orders}"
        )
    style = dialects[chosen]
    if inferred is None:
        ordered = [token for name in style.order for token in token_names(style, name)]
        ids = {token: rows - len(ordered) + place for place, token in enumerate(ordered)}
    table = found.tensor(tables[0]).float()
    vectors: dict[PromptName, Tensor] = {}
    words = rows
    for name in NAMES:
        places = [ids[token] for token in token_names(style, name)]
        if min(places) < 0 or max(places) >= rows:
            raise ValueError(
                f"{who}: {found.path} must have a row for every task token, up to row {max(places)}; it has {rows} "
                "rows: tokenizer and text encoder are not of the same model"
            )
        vectors[name] = table[places].clone()
        words = min(words, *places)
    return Published(chosen, vectors, words)


def added_tokens(folder: Path, *, who: str = WHO) -> dict[str, int]:
    """Token -> id of what the tokenizer of a diffusers folder was given beyond its vocabulary; empty if unknown."""
    listed, whole = folder / "tokenizer" / "added_tokens.json", folder / "tokenizer" / "tokenizer.json"
    try:
        if listed.is_file():
            return {str(token): int(number) for token, number in json.loads(listed.read_text()).items()}
        if whole.is_file():
            entries = json.loads(whole.read_text())["added_tokens"]
            return {str(entry["content"]): int(entry["id"]) for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{who}: the tokenizer in {folder / 'tokenizer'} is damaged ({error!r})") from error
    return {}


def is_branch(found: TensorFile) -> bool:
    """Whether a file is the BrushNet branch of PowerPaint v2."""
    return any(found.ending_in(name) for name in BRANCH)


def _all_tokens(dialect: Dialect) -> set[str]:
    return {token for name in NAMES for token in token_names(dialect, name)}


def _checked_kind(found: TensorFile) -> TensorFile:
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
        "picture and 1 where to keep. Its prompts do not work in an inpainting UNet; load it with weft.TaskBranch, or "
        "use PowerPaint v1"
    )


def _refuse_pickled(path: Path) -> None:
    if path.suffix in _PICKLED:
        raise ValueError(
            f"{WHO}: {path} is a pickled file, which can run code when it is read (the text encoder of PowerPaint v2 "
            f"is one, for weft.TaskBranch); only safetensors are read: needs {_EXPECTED}"
        )
