"""Words in what every kind of tokenizer makes of a prompt: the located ids decode to the word."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_tokenizers as tiny
import torch
from diffusers import QwenImagePipeline
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from weft.attach.text.pieces import cut, spell
from weft.attach.text.prompt import Prompt
from weft.attach.text.tokenized import CutOffError, TokenizedText, UnplacedError
from weft.attach.text.words import Folded, find_phrase

LETTERS = {
    "clip": "abcdeilrtz",
    "t5": "abcdeilré",
    "llama": "abdeilrzéA猫",
    "qwen": "abdeilrzéA猫",
    "chatglm": "abdeilré猫",
}
KINDS = sorted(LETTERS)
quick = settings(max_examples=25, deadline=None)


def decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)).strip()


@st.composite
def prompts(draw: st.DrawFn, kind: str) -> tuple[str, str]:
    """A prompt, and a word that occurs in it once."""
    words = st.text(LETTERS[kind], min_size=1, max_size=6)
    listed = draw(st.lists(words, min_size=1, max_size=6, unique=True))
    word = draw(st.sampled_from(listed))
    joints = draw(st.lists(st.sampled_from([" ", ", ", "  ", "-"]), min_size=len(listed), max_size=len(listed)))
    text = "".join(map(str.__add__, listed, joints))
    # a word of Chinese may be found within another
    assume(sum(word in other for other in listed) == 1)
    return text, word


@pytest.mark.parametrize(
    ("kind", "side"),
    # ChatGLM's pads on the left alone
    [(kind, side) for kind in KINDS for side in ("right", "left") if (kind, side) != ("chatglm", "right")],
)
@given(data=st.data())
@quick
def test_the_ids_at_a_word_decode_to_it(kind: str, side: str, data: st.DataObject) -> None:
    """Of a row that was recorded with its mask, without, and made by the rule; the start token is counted."""
    text, word = data.draw(prompts(kind))
    tokenizer = tiny.KINDS[kind]()
    row = tokenizer(text, padding="max_length", max_length=60, padding_side=side)
    ids = row.input_ids
    start, dropped = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 1))
    kept = {"start": start, "dropped": dropped if side == "left" else 0}
    for tokenized in (
        TokenizedText.recorded(text, tokenizer, ids, row.attention_mask, **kept),
        TokenizedText.recorded(text, tokenizer, torch.tensor(ids), **kept),
        TokenizedText(text, tokenizer, max_length=60, padding_side=side, **kept),
    ):
        try:
            positions = tokenized.place(word)
        except UnplacedError:
            assert "猫" in text, "only pieces of Chinese reach over words"
            continue
        found = decoded(tokenizer, [ids[place - start + kept["dropped"]] for place in positions])
        assert found == (word.lower() if kind == "clip" else word)
        real = [place - start + kept["dropped"] for place in tokenized.real]
        assert real == [place for place, is_real in enumerate(row.attention_mask) if is_real]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "chatglm"])
@given(data=st.data())
@quick
def test_pieces_that_are_spelt_out_cover_what_the_offsets_say(kind: str, data: st.DataObject) -> None:
    text, _ = data.draw(prompts(kind))
    tokenizer = tiny.KINDS[kind]()
    by_offsets = cut(tokenizer, text)
    by_letters = spell(tokenizer, by_offsets.ids, text)
    # the offsets give the mark of the first word its first letter, too
    passed_over = tokenizer.convert_tokens_to_ids(["\u2581", "<unk>"])
    covered = [
        dict.fromkeys(
            span
            for one, span in zip(made.ids, made.spans, strict=True)
            if span and span[0] < span[1] and one not in passed_over
        )
        for made in (by_letters, by_offsets)
    ]
    assert list(covered[0]) == list(covered[1])


def in_template(text: str, **others: Any) -> TokenizedText:
    """A prompt as Qwen-Image encodes it, its system message dropped."""
    template = QwenImagePipeline(None, None, None, None, None).prompt_template_encode
    tokenizer = tiny.qwen()
    dropped = len(tokenizer(template.split("{}")[0]).input_ids)
    full = template.format(text)
    row = tokenizer(full, padding="max_length", max_length=dropped + 40, truncation=True)
    return TokenizedText.recorded(
        text, tokenizer, row.input_ids, row.attention_mask, full=full, dropped=dropped, **others
    )


@pytest.mark.parametrize(
    "text", ["an image of a circle", "circle", "assistant circle user", "the objects and background circle"]
)
def test_a_template_shifts_nothing(text: str) -> None:
    """Words of the template are none of the prompt's, and the first token of the prompt is at 0."""
    found = in_template(text)
    bare = TokenizedText(text, tiny.qwen())
    for word in text.split():
        assert found.place(word) == bare.place(word)
    assert found.own == bare.own == tuple(range(len(bare.own)))
    assert len(found.real) > len(found.own), "the end of the template"
    with pytest.raises(LookupError, match="'system' is not in the prompt"):
        found.place("system")


def test_what_a_template_leaves_space_for() -> None:
    found = in_template("a " + "red " * 38 + "circle and ball")
    assert found.place("circle") == (39,)
    with pytest.raises(
        CutOffError, match="'ball' is cut off: it ends at position 41 and the text encoder sees the first 40"
    ):
        found.place("ball")
    assert found.length == 40


@given(text=prompts("qwen"))
@quick
def test_a_chat_template(text: tuple[str, str]) -> None:
    prompt, word = text
    tokenizer = tiny.qwen()
    full = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    ids = tokenizer(full, padding="max_length", max_length=200).input_ids
    try:
        positions = TokenizedText.recorded(prompt, tokenizer, ids, full=full).place(word)
    except UnplacedError:
        assert "猫" in prompt
    else:
        assert decoded(tokenizer, [ids[place] for place in positions]) == word


def test_padding_between_prompt_and_template() -> None:
    """Krea 2 puts the end of its template behind the padding."""
    tokenizer = tiny.qwen()
    prefix, suffix = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    first = tokenizer(prefix + "a red circle", padding="max_length", max_length=30)
    last = tokenizer(suffix)
    found = TokenizedText.recorded(
        "a red circle",
        tokenizer,
        first.input_ids + last.input_ids,
        first.attention_mask + last.attention_mask,
        full=prefix + "a red circle" + suffix,
    )
    (place,) = found.place("circle")
    assert decoded(tokenizer, [first.input_ids[place]]) == "circle"
    assert found.real[-1] == 30 + len(last.input_ids) - 1 and found.own == tuple(range(place - 2, place + 1))


def test_tokens_of_several_calls() -> None:
    """LongCat cuts quoted text into single characters, so no one call explains the row."""
    tokenizer = tiny.qwen()
    prefix, suffix = "<|im_start|>user\n", "<|im_end|>\n"
    parts = [prefix, "a red circle says ", *"'apple'", " and a ball", suffix]
    ids = [one for part in parts for one in tokenizer(part, add_special_tokens=False).input_ids]
    padded = [*ids, *[tokenizer.pad_token_id] * 7]
    text = "".join(parts[1:-1])
    dropped = len(tokenizer(prefix).input_ids)
    found = TokenizedText.recorded(text, tokenizer, padded, full="".join(parts), dropped=dropped)
    for word in ("circle", "apple", "ball", "'apple'"):
        assert decoded(tokenizer, [padded[place + dropped] for place in found.place(word)]) == word
    assert len(found.place("apple")) == 5 and len(found.place("ball")) == 1
    short = TokenizedText.recorded(text, tokenizer, ids[: dropped + 4], full="".join(parts), dropped=dropped)
    with pytest.raises(CutOffError, match="'apple' is cut off"):
        short.place("apple")


def test_kolors_pads_on_the_left() -> None:
    found = TokenizedText("a red ball", tiny.chatglm(), max_length=20, padding_side="left")
    assert found.place("ball") == (19,) and found.real == (15, 16, 17, 18, 19) and found.own == (17, 18, 19)
    assert found.length == 20


@pytest.mark.parametrize(
    ("kind", "text", "phrase", "error", "message"),
    [
        (
            "qwen",
            "一只红色的猫",
            "猫",
            UnplacedError,
            "no tokens of its own in the prompt .*: position 0, 1 reads '一只红色的猫'",
        ),
        ("t5", "一只红色的猫", "色", UnplacedError, "position 3 reads '色的'; ask for that, or give positions"),
        (
            "t5",
            "a football",
            "ball",
            LookupError,
            "as a word of its own, only within 'football', at position [0-9, ]+; give pos",
        ),
        ("llama", "cafe\u0301", "cafe", LookupError, "only within 'cafe\u0301'"),
        (
            "llama",
            "a red ball",
            "square",
            LookupError,
            "'square' is not in the prompt 'a red ball'; its words are a, red, ball",
        ),
    ],
)
def test_what_has_no_tokens_of_its_own(
    kind: str, text: str, phrase: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TokenizedText(text, tiny.KINDS[kind]()).place(phrase)


@pytest.mark.parametrize(
    ("kind", "text", "phrase", "wanted"),
    [
        ("t5", "一只红色的猫", "猫", "猫"),
        ("llama", "一只红色的猫", "红色", "红色"),  # six bytes
        ("chatglm", "赤い猫とball", "猫", "猫"),
        ("chatglm", "赤い猫とball", "ball", "ball"),
        ("clip", "A  RED circle,ball", "red  Circle", "red circle"),
        ("llama", "a cafe\u0301 and a ball", "caf\u00e9", "cafe\u0301"),  # composed or not
    ],
)
def test_phrases(kind: str, text: str, phrase: str, wanted: str) -> None:
    tokenizer = tiny.KINDS[kind]()
    positions = TokenizedText(text, tokenizer).place(phrase)
    ids = tokenizer(text).input_ids
    assert decoded(tokenizer, [ids[place] for place in positions]) == wanted


def test_a_text_that_the_pipeline_changed_is_searched_as_it_is() -> None:
    """PixArt and Sana clean captions: what was given to the tokenizer counts."""
    tokenizer = tiny.t5()
    found = TokenizedText.recorded("a &amp; b", tokenizer, tokenizer("a & b").input_ids, full="a & b")
    assert found.place("&") and found.place("b")


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="must have the 2 entries of `input_ids`; got 1"):
        TokenizedText.recorded("a", tiny.t5(), [4, 5], [1])


def test_a_processor_in_the_tokenizers_place() -> None:
    class Processor:
        tokenizer = tiny.qwen()

    assert TokenizedText("a ball", Processor()).place("ball") == (1,)


def test_prompts_that_differ_are_named() -> None:
    texts = tuple(
        TokenizedText(text, tiny.clip(), name=name)
        for text, name in (("a red circle", "tokenizer"), ("a circle", "tokenizer_2"))
    )
    prompt = Prompt((texts,), 1, False, torch.zeros(1, 77, 4))
    differ = "`prompt` and `prompt_2` differ: `tokenizer` reads 'a red circle', `tokenizer_2` reads 'a circle'"
    with pytest.raises(ValueError, match=rf"\[2\] and \[3\]; .*{differ}"):
        prompt.find("circle", 0)
    with pytest.raises(LookupError, match=rf"'red' is not in the prompt 'a circle'; .*{differ}"):
        prompt.find("red", 0)
    assert prompt.find("a", 0) == (1,)


def test_padding_and_template_of_a_prompt() -> None:
    t5 = TokenizedText("red ball", tiny.t5(), start=77)
    prompt = Prompt(((TokenizedText("red ball", tiny.clip()), t5),), 1, False, torch.zeros(1, 141, 4))
    assert prompt.own(0) == (1, 2, *t5.own) and prompt.real(0) == (0, 1, 2, 3, *t5.real)
    assert t5.real == (*t5.own, t5.own[-1] + 1) and t5.own[0] == 77
    assert prompt.length(0) == 4


@pytest.mark.parametrize(
    ("text", "phrase", "whole", "parts"),
    [
        ("football ball", "ball", ["ball"], ["ball"]),
        ("dog's dog", "dog", ["dog", "dog"], []),
        ("2dogs", "dogs", [], ["dogs"]),
        ("red\n circle", "red circle", ["red\n circle"], []),
        ("redcircle", "red circle", [], []),
        ("ball , ball", "ball,", ["ball ,"], []),
        ("a a a", "a a", ["a a", "a a"], []),
        ("猫と犬", "犬", ["犬"], []),
        ("red猫", "red", ["red"], []),
        ("a\u0301", "a", [], ["a"]),
        ("a", " ", [], []),
    ],
)
def test_whole_words_by_characters(text: str, phrase: str, whole: list[str], parts: list[str]) -> None:
    found = find_phrase(phrase, Folded.of(text, minds_case=True))
    assert tuple([text[slice(*span)] for span in spans] for spans in found) == (whole, parts)
