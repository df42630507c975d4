"""Files of soft tokens: weft's own, the published ones, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import weft


def published(folder: Path, tokens: Any, offsets: Any = None) -> Path:
    """A folder as the authors' repository has it."""
    torch.save(tokens, folder / "dc_tokens.pth")
    if offsets is not None:
        torch.save(offsets, folder / "dc_t_tokens.pth")
    return folder


def test_a_set_for_every_block(tmp_path: Path) -> None:
    tokens, offsets, blocks = torch.randn(2, 4, 6), torch.randn(10, 2, 6), ("transformer_blocks.0", "mid_block")
    soft = weft.SoftTokens(tokens, offsets, blocks, "some/model", "block", 512)
    assert soft.width == 6 and soft.buckets == 10 and not soft.is_shared
    assert torch.equal(soft.bank()[3, 1], tokens[1] + offsets[3, 1]) and soft.bank().shape == (10, 2, 4, 6)
    soft.save(tmp_path / "soft.safetensors")
    again = weft.SoftTokens.load(tmp_path)
    assert torch.equal(again.tokens, tokens) and again.offsets is not None and torch.equal(again.offsets, offsets)
    assert (again.blocks, again.space, again.text_length) == (blocks, "block", 512)


def test_files_from_before_there_were_spaces(tmp_path: Path) -> None:
    path = tmp_path / "soft.safetensors"
    record = {"kind": "soft tokens", "format": 1, "blocks": ["down_blocks"], "base_name": "some/model"}
    save_file({"tokens": torch.zeros(4, 6)}, path, metadata={"format": "pt", "weft": json.dumps(record)})
    soft = weft.SoftTokens.load(path)
    assert (soft.blocks, soft.base_name) == (("down_blocks",), "some/model")
    assert (soft.space, soft.text_length) == ("conditioning", None)


@pytest.mark.parametrize("offsets", [None, torch.randn(100, 6)])
def test_round_trip(offsets: torch.Tensor | None, tmp_path: Path) -> None:
    soft = weft.SoftTokens(torch.randn(4, 6), offsets, ("down_blocks", "mid_block"), "some/model")
    soft.save(tmp_path / "soft.safetensors")
    for path in (tmp_path / "soft.safetensors", tmp_path):
        again = weft.SoftTokens.load(path)
        assert torch.equal(again.tokens, soft.tokens)
        assert (again.offsets is None) if offsets is None else torch.equal(again.offsets, offsets)
        assert (again.blocks, again.base_name) == (soft.blocks, soft.base_name)
    with safe_open(tmp_path / "soft.safetensors", "pt") as opened:
        assert set(opened.keys()) == ({"tokens"} if offsets is None else {"tokens", "t_offsets.weight"})


def test_half_the_size(tmp_path: Path) -> None:
    soft = weft.SoftTokens(torch.randn(4, 6))
    soft.save(tmp_path / "soft.safetensors", dtype=torch.float16)
    again = weft.SoftTokens.load(tmp_path / "soft.safetensors")
    assert again.tokens.dtype == torch.float32 and torch.equal(again.tokens, soft.tokens.half().float())


@pytest.mark.parametrize(
    ("width", "with_offsets", "numbers", "blocks"),
    [(768, True, 79_872, ("down_blocks",)), (2048, False, 8_192, ("down_blocks", "mid_block"))],
    ids=["sd1.5", "sdxl"],
)
def test_published_sets(width: int, with_offsets: bool, numbers: int, blocks: tuple[str, ...], tmp_path: Path) -> None:
    """A pickled parameter, and a pickled embedding as a whole module."""
    tokens, offsets = nn.Parameter(torch.randn(4, width)), nn.Embedding(100, width) if with_offsets else None
    soft = weft.SoftTokens.load(published(tmp_path, tokens, offsets))
    assert torch.equal(soft.tokens, tokens) and soft.blocks == blocks
    assert soft.tokens.numel() + (0 if soft.offsets is None else soft.offsets.numel()) == numbers
    if offsets is not None:
        assert soft.offsets is not None and torch.equal(soft.offsets, offsets.weight)
    assert weft.SoftTokens.load(tmp_path / "dc_tokens.pth", blocks=("mid_block",)).blocks == ("mid_block",)


def test_the_published_set_of_a_joint_model(tmp_path: Path) -> None:
    """Every block has its own, and a row of the table is those of all blocks in a row."""
    tokens, table = nn.Parameter(torch.randn(5, 4, 1536)), nn.Embedding(100, 7680)
    soft = weft.SoftTokens.load(published(tmp_path, tokens, table))
    assert soft.offsets is not None and soft.offsets.shape == (100, 5, 1536)
    assert torch.equal(soft.offsets[7, 2], table.weight[7, 2 * 1536 : 3 * 1536])
    assert soft.tokens.numel() + soft.offsets.numel() == 798_720
    assert soft.blocks == tuple(f"transformer_blocks.{block}" for block in range(5))
    assert (soft.space, soft.text_length) == ("block", 512)
    others = tuple(f"transformer_blocks.{block}" for block in range(6, 11))
    assert weft.SoftTokens.load(tmp_path, blocks=others).blocks == others
    with pytest.raises(ValueError, match=r"a set for each of `blocks`; got 5 for 4"):
        weft.SoftTokens.load(tmp_path, blocks=others[1:])


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), r"it asks for posix\.system; only tensors"),
        ({"tokens": Evil()}, r"it asks for posix\.system"),
        (nn.Linear(2, 2), r"it asks for torch\.nn\.modules\.linear\.Linear"),
        ({"tokens": torch.zeros(2, 2)}, "must hold a tensor of floats or an embedding; it holds a dict"),
        (torch.zeros(2, 2, dtype=torch.int64), "must hold a tensor of floats"),
        (torch.zeros(4, 7), r"published set, \[m, 768\], \[m, 2048\], \[5, m, 1536\]; got \[4, 7\]"),
        (torch.zeros(768), r"must hold the tokens of a published set.*got \[768\]"),
        (torch.zeros(4, 4, 1536), r"got \[4, 4, 1536\]"),
        (torch.full((4, 768), torch.nan), "must be finite"),
    ],
    ids=["code", "code inside", "module", "dict", "integers", "width", "vector", "blocks", "nan"],
)
def test_anything_else_in_a_pth_is_refused_by_name(
    content: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        weft.SoftTokens.load(published(tmp_path, content))
    assert not (tmp_path / "pwned").exists()


def test_an_embedding_that_carries_more(tmp_path: Path) -> None:
    embedding = nn.Embedding(100, 768)
    embedding.more = Evil()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"dc_t_tokens.pth is not read: it asks for posix\.system"):
        weft.SoftTokens.load(published(tmp_path, torch.zeros(4, 768), embedding))


def test_a_pth_that_is_cut_short_or_none(tmp_path: Path) -> None:
    folder = published(tmp_path, torch.zeros(4, 768))
    path = folder / "dc_tokens.pth"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", pickle.dumps(Evil())):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is cut short, or no file of torch\.save"):
            weft.SoftTokens.load(folder)


def test_safetensors_that_are_none_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    with pytest.raises(FileNotFoundError, match=r"there is no file .*other\.safetensors"):
        weft.SoftTokens.load(path)
    save_file({"tokens": torch.zeros(4, 6)}, path)
    with pytest.raises(ValueError, match="is not soft tokens of weft; train some"):
        weft.SoftTokens.load(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        weft.SoftTokens.load(path)


def test_a_folder_must_be_of_one_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold one .safetensors file or dc_tokens.pth; it holds 0"):
        weft.SoftTokens.load(tmp_path)
    for name in ("one", "two"):
        weft.SoftTokens(torch.zeros(1, 2)).save(tmp_path / f"{name}.safetensors")
    with pytest.raises(FileNotFoundError, match="it holds 2"):
        weft.SoftTokens.load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0]],), TypeError, "`tokens` must be a float tensor"),
        ((torch.zeros(2, 3, dtype=torch.int32),), TypeError, "`tokens` must be a float tensor; got torch.int32"),
        ((torch.zeros(0, 3),), ValueError, r"none of its sides 0; got \[0, 3\]"),
        ((torch.zeros(3),), ValueError, r"`tokens` must be \[m, C\] or \[L, m, C\]; got \[3\]"),
        ((torch.zeros(2, 4, 3),), ValueError, "a set for each of `blocks`; got 2 for 1"),
        ((torch.zeros(2, 3), torch.zeros(100, 4)), ValueError, r"must be \[buckets, 3\] .* got \[100, 4\]"),
        (
            (torch.zeros(1, 2, 3), torch.zeros(100, 3)),
            ValueError,
            r"must be \[buckets, 1, 3\] to go with tokens \[1, 2, 3\]; got \[100, 3\]",
        ),
        ((torch.zeros(2, 3), torch.zeros(1001, 3)), ValueError, "at most 1000 rows"),
        ((torch.zeros(2, 3), torch.full((2, 3), torch.inf)), ValueError, "`offsets` must be finite"),
        ((torch.zeros(2, 3), None, "down_blocks"), TypeError, "`blocks` must be a sequence of paths"),
        ((torch.zeros(2, 3), None, ("up.",)), ValueError, r"`blocks` must be paths of modules.*got 'up\.'"),
        ((torch.zeros(2, 3), None, ()), ValueError, "`blocks` must name at least one"),
        ((torch.zeros(2, 3), None, ("up", "down", "up.1")), ValueError, r"'up\.1' is in 'up'; leave one out"),
        ((torch.zeros(2, 3), None, ("up", "up")), ValueError, "'up' is in 'up'"),
        ((torch.zeros(2, 3), None, ("up",), "a", "pixels"), ValueError, "'conditioning' or 'block'; got 'pixels'"),
        ((torch.zeros(2, 3), None, ("up",), "a", "block", 0), ValueError, "`text_length` must be None or a number"),
    ],
)
def test_arguments(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        weft.SoftTokens(*arguments)


def test_another_model(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with pytest.raises(ValueError, match=r"have 64 channels and do not fit .*, whose text has 32"):
        weft.attach(pipe, weft.SoftTokens(torch.zeros(4, 64)))
    weft.attach(pipe).detach()
