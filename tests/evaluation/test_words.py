"""A word of ours and a folder of the same name are distinguished."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from weft.evaluation import open_extractor
from weft.evaluation.words import given_folder, is_word


def test_a_word_is_taken_and_the_folder_beside_it_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_word("shapes", ["shapes"], option="--data")
    (tmp_path / "shapes").mkdir()
    with pytest.warns(UserWarning, match=r"--data shapes is taken as that word; give \./shapes for the folder"):
        assert is_word("shapes", ["shapes"], option="--data")
    for folder in ("./shapes", "shapes/", Path("shapes")):
        assert not is_word(folder, ["shapes"], option="--data")
        assert given_folder(folder, ["shapes"], option="--data", what="pictures").is_dir()
        with pytest.raises(FileNotFoundError, match=r"shapes has no config\.json"):
            open_extractor(folder)


def test_what_is_neither_gets_both_in_the_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    for said, found in (("~/shape", "not there"), ("~/file", "a file")):
        place = Path(said).expanduser()
        want = (
            f"must be 'shapes' or 'scenes' or a folder of pictures; '{said}' is no such word, and as a folder {place}"
        )
        with pytest.raises(FileNotFoundError, match=f"{want} is {found}"):
            given_folder(said, ["shapes", "scenes"], option="--data", what="pictures")
