"""From words to token positions, and which prompt a generation draws."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch

import weft
from weft.attach.text.prompt import Prompt
from weft.attach.text.tokenized import TokenizedText
from weft.testing import assert_differs


def prompt_of(text: str, folder: Path, *others: str) -> Prompt:
    tokenized = tuple(TokenizedText(one, tiny.tokenizer(folder), lambda phrase: phrase) for one in (text, *others))
    return Prompt((tokenized,), 1, True, torch.zeros(1, 16, 32))


@pytest.mark.parametrize(
    ("text", "phrase", "positions"),
    [
        ("a red circle", "circle", (3,)),
        ("a red circle", "red circle", (2, 3)),
        ("a red circle", "Red  Circle", (2, 3)),  # CLIP lowers case and joins blanks
        ("a zebra", "zebra", (2, 3)),
        ("a football and a ball", "ball", (6,)),  # not the tail of football, whose last piece is the same token
        ("a football and a ball", "football", (2, 3)),
        ("circle and circle", "circle#1", (1,)),
        ("circle and circle", "circle#2", (3,)),
        ("red circle and red circle", "red circle#2", (4, 5)),
        ("red circle, blue", "circle", (2,)),
        ("red circle, blue", ",", (3,)),
    ],
)
def test_words_are_found(text: str, phrase: str, positions: tuple[int, ...], tmp_path: Path) -> None:
    assert prompt_of(text, tmp_path).find(phrase, 0) == positions


@pytest.mark.parametrize(
    ("text", "phrase", "error", "message"),
    [
        ("a red circle", "square", LookupError, "'square' is not in the prompt 'a red circle'; its words are a, red"),
        ("a football", "ball", LookupError, "'ball' is not in the prompt"),
        (
            "a circle and a circle",
            "circle",
            ValueError,
            r"occurs 2 times; write 'circle#1' \(position 2\), 'circle#2'",
        ),
        ("circle and circle", "circle#3", ValueError, "more than the 2 occurrences"),
        ("red " * 14 + "circle", "circle", ValueError, "cut off: it ends at position 15 and .* first 15"),
    ],
    ids=["missing", "tail-of-a-word", "ambiguous", "third-of-two", "cut-off"],
)
def test_words_that_cannot_be_found(
    text: str, phrase: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=message):
            prompt_of(text, tmp_path).find(phrase, 0)


def test_the_last_position_before_the_end_is_not_cut_off(tmp_path: Path) -> None:
    assert prompt_of("red " * 13 + "circle", tmp_path).find("circle", 0) == (14,)


def test_tokenizers_must_agree(tmp_path: Path) -> None:
    prompt = prompt_of("a red circle", tmp_path, "circle")
    with pytest.raises(ValueError, match=r"different positions for the pipeline's tokenizers: \[1\] and \[3\]"):
        prompt.find("circle", 0)
    with pytest.raises(LookupError, match="'red' is not in the prompt 'circle'"):
        prompt.find("red", 0)


def test_a_second_prompt_of_sdxl_must_hold_the_word_at_the_same_place(tmp_path: Path) -> None:
    pipe = tiny.sdxl(tmp_path)
    with weft.attach(pipe, weft.AttentionMaps("circle")) as attachment:
        tiny.generate(pipe, "sdxl", "a red circle", prompt_2="a blue circle")
        assert attachment.maps["circle"].shape == (1, 16, 16)
        with pytest.raises(ValueError, match="different positions for the pipeline's tokenizers"):
            tiny.generate(pipe, "sdxl", "a red circle", prompt_2="a circle")


def test_a_learnt_token_of_several_vectors(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    pipe.load_textual_inversion({"<toy>": torch.randn(2, 32)})
    with weft.attach(pipe, maps := weft.AttentionMaps(["<toy>", 2, 3, "circle"], layers=16)):
        tiny.generate(pipe, prompt="a <toy> circle")
        torch.testing.assert_close(maps.maps["<toy>"], (maps.maps[2] + maps.maps[3]) / 2)
        assert maps.maps["circle"].amin() > 0


def test_embeddings_made_by_the_user_keep_their_words(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe, maps := weft.AttentionMaps("circle")):
        tiny.generate(pipe, prompt="a blue circle")
        expected = maps.maps["circle"]
        with torch.no_grad():
            known = [pipe.encode_prompt(text, "cpu", 1, True) for text in ("a blue circle", "circle and ball")]
        for positive, negative in known:
            tiny.generate(pipe, prompt=None, prompt_embeds=positive, negative_prompt_embeds=negative)
            if positive is known[0][0]:
                assert torch.equal(maps.maps["circle"], expected)
        assert_differs(maps.maps["circle"], expected)

        positive, negative = known[0]
        call = {"prompt": None, "prompt_embeds": positive, "negative_prompt_embeds": negative}
        tiny.generate(pipe, num_images_per_prompt=2, **call)
        assert maps.maps["circle"].shape == (2, 16, 16)


def test_embeddings_without_a_text(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with torch.no_grad():
        positive, negative = pipe.encode_prompt("a blue circle", "cpu", 1, True)
    call: dict[str, Any] = {"prompt": None, "prompt_embeds": positive, "negative_prompt_embeds": negative}
    with (
        weft.attach(pipe, weft.AttentionMaps("circle")),
        pytest.raises(ValueError, match=r"given `prompt_embeds` without their text; take them from `pipe\.encode"),
    ):
        tiny.generate(pipe, **call)
    with weft.attach(pipe, maps := weft.AttentionMaps([3])):
        tiny.generate(pipe, **call)
        by_position = maps.maps[3]
    with weft.attach(pipe, maps := weft.AttentionMaps("circle")):
        tiny.generate(pipe, prompt="a blue circle")
        assert torch.equal(maps.maps["circle"], by_position)


def test_another_pipeline_that_shares_the_unet_does_not_borrow_the_words(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    other = type(pipe)(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    with weft.attach(pipe, weft.AttentionMaps("circle")):
        tiny.generate(pipe)
        with pytest.raises(ValueError, match="attach the pipeline that you call"):
            tiny.generate(other, prompt="a green ball and a circle")
        tiny.generate(other)  # the very same conditioning: the words still hold


def test_encode_prompt_keeps_its_signature(tmp_path: Path) -> None:
    import inspect

    pipe = tiny.sd1(tmp_path)
    stock = inspect.signature(pipe.encode_prompt)
    with weft.attach(pipe):
        assert inspect.signature(pipe.encode_prompt) == stock
        assert pipe.encode_prompt.__doc__ == type(pipe).encode_prompt.__doc__


@pytest.mark.parametrize("before", [12, 13, 14])
def test_occurrences_end_where_the_prompt_is_cut_off(before: int, tmp_path: Path) -> None:
    """A phrase of two tokens, whole or not at all: 15 of 16 positions hold words."""
    occurrences = prompt_of("red " * before + "zebra", tmp_path).occurrences("zebra", 0)
    assert occurrences == (((before + 1, before + 2),) if before + 2 < 15 else ())
