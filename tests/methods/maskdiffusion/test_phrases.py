"""What ``find_phrases`` finds: the objects of every caption of the shapes world, and of prompts that people write."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.methods.maskdiffusion import phrases as _phrases
from weft.methods.maskdiffusion.phrases import Phrase, find_phrases
from weft.shapes.captions import RELATION_TEMPLATES, TEMPLATES, caption, phrase, prompts
from weft.shapes.vocabulary import COLOURS, SHAPES
from weft.shapes.world import scene


def texts(prompt: str, parser: str = "rules") -> list[str]:
    return [found.text for found in find_phrases(prompt, parser)]


# --- the shapes world ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize(("objects", "relations"), [(1, False), (2, False), (2, True), (3, False)])
def test_prompts_for_evaluation(objects: int, relations: bool, held_out: bool) -> None:
    for prompt in prompts(500, objects, held_out=held_out, relations=relations):
        found = find_phrases(prompt.text, "rules")
        assert [one.text for one in found] == [phrase(*pair) for pair in prompt.objects]
        assert [one.head for one in found] == [shape for _, shape in prompt.objects]


def test_training_captions() -> None:
    """Every wording that training draws: shapes alone, colours alone, relations, introductions, backgrounds."""
    endings = (*SHAPES, "shape")
    for seed in range(3000):
        shown = scene(0, seed).objects
        text = caption(scene(0, seed), np.random.default_rng(seed))
        found = find_phrases(text, "rules")
        assert len(found) == len(shown), text
        named = {phrase(item.colour, item.shape) for item in shown}
        if len(found) > 1:
            assert {one.text for one in found} == named, text
        for one in found:
            assert one.head in endings and one.text.split()[0] in ("a", "an"), text


TEMPLATES_BY_COUNT = [
    *((template, count) for count, templates in TEMPLATES.items() for template in sorted(set(templates))),
    *((template, 2) for templates in RELATION_TEMPLATES.values() for template in templates),
]


@pytest.mark.parametrize(("template", "count"), TEMPLATES_BY_COUNT)
def test_every_template_with_every_pair(template: str, count: int) -> None:
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    for i in range(len(pairs)):
        names = [phrase(*pairs[(i + 7 * k) % len(pairs)]) for k in range(count)]
        assert texts(template.format(*names)) == names


def test_twins_are_two_objects() -> None:
    prompt = "a red circle and a red circle"
    first, second = find_phrases(prompt, "rules")
    assert first == Phrase("a red circle", 0, 12, "circle")
    assert second == Phrase("a red circle", 17, 29, "circle")


# --- prompts that people write ------------------------------------------------------------------------------------

PROMPTS: dict[str, list[str]] = {
    # attributes
    "a red car and a pink sheep": ["a red car", "a pink sheep"],
    "a black and white cat and an orange": ["a black and white cat", "an orange"],
    "an orange and white cat next to an apple": ["an orange and white cat", "an apple"],
    "a small, fluffy dog and a big smiling woman": ["a small, fluffy dog", "a big smiling woman"],
    "a dog wearing a red, white and blue scarf": ["a dog", "a red, white and blue scarf"],
    "a glass bottle and a golden fork": ["a glass bottle", "a golden fork"],
    # numbers and other determiners
    "three dogs, 2 cats and some birds": ["three dogs", "2 cats", "some birds"],
    "a few apples and another pear": ["a few apples", "another pear"],
    "the two dogs and her red hat": ["the two dogs", "her red hat"],
    "a red circle and a green one": ["a red circle", "a green one"],
    "a group of people and a pair of red shoes": ["a group of people", "a pair of red shoes"],
    # what stands between objects
    "a dog with a hat": ["a dog", "a hat"],
    "a cat on top of a box in front of the house": ["a cat", "a box", "the house"],
    "a fork on the left side of a plate": ["a fork", "a plate"],
    "an elephant behind a zebra, in the background a mountain": ["an elephant", "a zebra", "a mountain"],
    "(a red circle:1.3) and [a blue square]": ["a red circle", "a blue square"],
    "a red circle. A blue square": ["a red circle", "A blue square"],
    # verbs
    "a dog sitting on a red bench": ["a dog", "a red bench"],
    "a man riding a horse while holding an umbrella": ["a man", "a horse", "an umbrella"],
    "a boy playing football in a park": ["a boy", "a park"],
    "the dog is red and the cat is blue": ["the dog", "the cat"],
    "a robot that holds a flower": ["a robot", "a flower"],
    "a car parked near a tree": ["a car", "a tree"],
    "a flying bird and the crying baby": ["a flying bird", "the crying baby"],
    # nouns that look like verbs
    "a red ring and a gold earring on a bed": ["a red ring", "a gold earring", "a bed"],
    "a painting above a sofa": ["a painting", "a sofa"],
    # introductions, places, times, style
    "A photo of a dog": ["a dog"],
    "an oil painting of an astronaut riding a horse on the moon, in the style of Van Gogh": [
        "an astronaut",
        "a horse",
        "the moon",
    ],
    "a close-up photo of a frog wearing a tiny crown": ["a frog", "a tiny crown"],
    "a red circle on a plain background": ["a red circle"],
    "a house on a sunny day": ["a house"],
    "a dog on a bench, 4k, highly detailed, oil painting": ["a dog", "a bench"],
    "a majestic lion, highly detailed and sharp focus, a digital painting": ["a majestic lion"],
    # bare lists
    "red circle and blue square": ["red circle", "blue square"],
    "photo of red car and pink sheep": ["red car", "pink sheep"],
    "red circle, blue square and green star": ["red circle", "blue square", "green star"],
    "red circle, blue square": ["red circle", "blue square"],
    "cat, bird, and dog, trending on artstation": ["cat", "bird", "dog"],
    "red circle left of blue square": ["red circle", "blue square"],
    "corgi, sunny day, trending on artstation, 8k": ["corgi"],
    "a cat and dog": ["a cat", "dog"],
    "a cat, dog and bird": ["a cat", "dog", "bird"],
    # nothing to find
    "": [],
    "red": [],
    "...": [],
    "4k, highly detailed": [],
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompt(prompt: str) -> None:
    assert texts(prompt) == PROMPTS[prompt]


# what the docstring says the rules cannot do, so that it stays true or is changed with them
LIMITS: dict[str, list[str]] = {
    "a cat in a forest": ["a cat", "a forest"],
    "a dog with sunglasses": ["a dog"],
    "a wizard casts a spell": ["a wizard casts", "a spell"],
}


@pytest.mark.parametrize("prompt", LIMITS)
def test_limit(prompt: str) -> None:
    assert texts(prompt) == LIMITS[prompt]


def test_heads_are_nouns() -> None:
    heads = [found.head for found in find_phrases("a group of People with the red T-shirt and a dog's face", "rules")]
    assert heads == ["People", "T-shirt", "face"]


_PIECES = (
    *("a", "the", "two", "red", "black", "circle", "dog", "ring", "photo", "group", "day", "4k", "one", "her"),
    *("and", "of", "with", "next", "to", "left", "in", "front", ",", ".", "(", "\n", "sitting", "is", "wearing"),
)


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(_PIECES), max_size=25).map(" ".join)))
def test_phrases_lie_in_the_prompt_in_order(prompt: str) -> None:
    for parser in ("rules", "and"):
        end = 0
        for found in find_phrases(prompt, parser):
            assert prompt[found.start : found.end] == found.text != ""
            assert found.start >= end and found.text.endswith(found.head)
            end = found.end


# --- the released split -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red car and a pink sheep", [("a red car", "car"), ("a pink sheep", "sheep")]),
        ("a dog and a cat and a bird", [("a dog", "dog"), ("a cat and a bird", "bird")]),
        ("a brand new sandcastle", [("a brand new sandcastle", "sandcastle")]),
        (" a dog  and  a cat ", [("a dog", "dog"), ("a cat", "cat")]),
        ("", []),
    ],
)
def test_split_at_the_first_and(prompt: str, expected: list[tuple[str, str]]) -> None:
    assert [(found.text, found.head) for found in find_phrases(prompt, "and")] == expected


# --- spaCy --------------------------------------------------------------------------------------------------------

SENTENCE = "a photo of a red circle to the left of a blue square on it , oil painting"
# word, part of speech, arc, head
PARSE = tuple(
    (word, tag, arc, head)
    for word, (tag, arc, head) in zip(
        SENTENCE.split(),
        (
            *(("DET", "det", 1), ("NOUN", "ROOT", 1), ("ADP", "prep", 1)),
            *(("DET", "det", 5), ("ADJ", "amod", 5), ("NOUN", "pobj", 2), ("ADP", "prep", 5)),
            *(("DET", "det", 8), ("NOUN", "pobj", 6), ("ADP", "prep", 8)),
            *(("DET", "det", 12), ("ADJ", "amod", 12), ("NOUN", "pobj", 9)),
            *(("ADP", "prep", 5), ("PRON", "pobj", 13), ("PUNCT", "punct", 1)),
            *(("NOUN", "compound", 17), ("NOUN", "appos", 1)),
        ),
        strict=True,
    )
)
# first word, one past the last, head, part of speech of the head: the chunks that spaCy makes of a correct parse
CHUNKS = ((0, 2, 1, "NOUN"), (3, 6, 5, "NOUN"), (7, 9, 8, "NOUN"), (10, 13, 12, "NOUN"), (14, 15, 14, "PRON"))
STYLE_CHUNK = (16, 18, 17, "NOUN")


@dataclass
class StubSpan:
    """As much of spaCy's Span as is read."""

    doc: list[Any]
    tokens: list[Any]
    root: Any
    end: int

    @property
    def start_char(self) -> int:
        return int(self.tokens[0].idx)

    @property
    def end_char(self) -> int:
        return int(self.tokens[-1].idx) + len(self.tokens[-1].text)

    @property
    def text(self) -> str:
        return SENTENCE[self.start_char : self.end_char]

    def __iter__(self) -> Any:
        return iter(self.tokens)


def stub_pipeline(text: str) -> Any:
    assert text == SENTENCE
    starts = [i for i in range(len(text)) if i == 0 or text[i - 1] == " "]
    tokens = [SimpleNamespace(text=text[i:].split()[0], idx=i, pos_="X") for i in starts]
    for *_, head, pos in (*CHUNKS, STYLE_CHUNK):
        tokens[head].pos_ = pos
    spans = [StubSpan(tokens, tokens[a:b], tokens[head], b) for a, b, head, _ in (*CHUNKS, STYLE_CHUNK)]
    return SimpleNamespace(noun_chunks=iter(spans))


@pytest.fixture
def installed_models(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A module named spacy with these pipelines installed, which all answer as ``stub_pipeline``."""
    models: list[str] = []
    loaded: list[str] = []

    def load(name: str, exclude: list[str]) -> Any:
        loaded.append(name)
        assert name in models
        return stub_pipeline

    spacy = ModuleType("spacy")
    spacy.util = SimpleNamespace(get_installed_models=lambda: list(models))  # type: ignore[attr-defined]
    spacy.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    _phrases._spacy_pipeline.cache_clear()
    yield models
    _phrases._spacy_pipeline.cache_clear()


@pytest.mark.parametrize("parser", ["spacy", "auto"])
def test_spacy_chunks_become_phrases(installed_models: list[str], parser: str) -> None:
    installed_models += ["de_core_news_sm", "en_core_web_sm"]
    assert find_phrases(SENTENCE, parser) == find_phrases(SENTENCE, "rules")
    assert texts(SENTENCE, parser) == ["a red circle", "a blue square"]


def test_without_an_english_pipeline(installed_models: list[str]) -> None:
    installed_models += ["de_core_news_sm"]
    assert texts("a red circle", "auto") == ["a red circle"]
    with pytest.raises(ImportError, match="needs an English pipeline; none is installed; run `python -m spacy"):
        find_phrases("a red circle", "spacy")


def test_without_spacy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    _phrases._spacy_pipeline.cache_clear()
    assert texts("a red circle", "auto") == ["a red circle"]
    with pytest.raises(ImportError, match=r"parser 'spacy' needs spaCy; .* pip install spacy, or use parser='rules'"):
        find_phrases("a red circle", "spacy")


def test_chunks_of_spacy_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """spaCy's own Doc and chunks over a parse written down here, so that no pipeline is needed."""
    spacy = pytest.importorskip("spacy", reason="spaCy is an extra, weft[nlp]")
    words, tags, arcs, heads = zip(*PARSE, strict=True)
    vocab = spacy.blank("en").vocab
    doc = spacy.tokens.Doc(vocab, words=list(words), pos=list(tags), heads=list(heads), deps=list(arcs))
    monkeypatch.setattr(_phrases, "_spacy_pipeline", lambda: lambda text: doc)
    assert find_phrases(SENTENCE, "spacy") == find_phrases(SENTENCE, "rules")


# --- messages -----------------------------------------------------------------------------------------------------


def test_unknown_parser_lists_the_known() -> None:
    with pytest.raises(ValueError, match="`parser` must be one of 'auto', 'spacy', 'rules', 'and'; got 'stanza'"):
        find_phrases("a dog", "stanza")


def test_text_must_be_one_prompt() -> None:
    with pytest.raises(TypeError, match="`text` must be one prompt; got list"):
        find_phrases(["a dog"])  # type: ignore[arg-type]
