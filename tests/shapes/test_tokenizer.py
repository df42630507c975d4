"""The tokenizer: one token a word, any text at all, padded as in SD1.x."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.shapes.captions import prompts
from weft.shapes.fitting.captioned import token_ids_of
from weft.shapes.tokenizer import END, MAX_LENGTH, START, WORDS, build_tokenizer
from weft.shapes.vocabulary import SPARE_WORDS

TOKENIZER = build_tokenizer()


@pytest.mark.parametrize("word", WORDS)
def test_every_word_is_one_token(word):
    start, _, end = TOKENIZER(word).input_ids
    assert (start, end) == (TOKENIZER.bos_token_id, TOKENIZER.eos_token_id)


def test_words_are_distinct_and_spare_ones_are_enough():
    assert len(set(WORDS)) == len(WORDS)
    assert len(SPARE_WORDS) >= 64


def test_special_tokens_are_those_of_clip():
    assert (TOKENIZER.bos_token, TOKENIZER.eos_token, TOKENIZER.pad_token) == (START, END, END)
    assert TOKENIZER.model_max_length == MAX_LENGTH


@given(st.text())
def test_any_text_tokenizes_without_unknowns(text):
    ids = TOKENIZER(text).input_ids
    # END is also the unknown token, so a second one would mean a lost character
    assert ids.count(TOKENIZER.eos_token_id) == 1 + text.lower().count(END)
    assert max(ids) < len(TOKENIZER)


def test_capitals_and_commas_change_no_word():
    assert TOKENIZER("A Red Circle, a ring").input_ids == TOKENIZER("a red circle , a ring").input_ids


def test_padding_fills_with_end_and_cuts_at_the_limit():
    short, long = token_ids_of(TOKENIZER, ["a red circle", "red " * 100])
    assert short.shape == long.shape == (MAX_LENGTH,)
    assert set(short[4:].tolist()) == {TOKENIZER.eos_token_id}
    assert long[-1] == TOKENIZER.eos_token_id


def test_decoding_gives_the_text_back():
    for prompt in prompts(20, 3):
        ids = TOKENIZER(prompt.text).input_ids
        assert TOKENIZER.decode(ids, skip_special_tokens=True).replace(" ,", ",") == prompt.text
