"""Noun phrases by rule: cut a prompt into runs of words, then keep the runs that name objects.

A run ends at punctuation, a conjunction, a preposition or a verb, and where the next determiner opens another. Nothing
here knows grammar beyond the word lists and the two endings that make a verb an adjective or the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from weft.methods.maskdiffusion import phrase_words as known

_TOKEN = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*|[^\w\s]|\n")
_WORD = re.compile(r"\w")
_NO_OTHER_VOWEL = re.compile(r"[^aeiouy]+ing")
# a fragment of a sentence is longer than an item listed without determiners
_LONGEST_BARE = 4


@dataclass(frozen=True)
class Word:
    """One token of the prompt, ``text`` in lower case, at characters [start, end)."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Run:
    """Adjacent words.

    Attributes:
        words: At least one.
        before, after: What parts it from its neighbours: a preposition or conjunction; "," for commas and semicolons,
            "." for other punctuation; "verb"; "determiner" where only the next determiner does; "" at both ends.
    """

    words: tuple[Word, ...]
    before: str
    after: str

    @property
    def content(self) -> tuple[str, ...]:
        """The words after the determiners."""
        texts = [word.text for word in self.words]
        while texts and texts[0] in known.DETERMINERS:
            texts.pop(0)
        return tuple(texts)

    @property
    def is_determined(self) -> bool:
        return self.words[0].text in known.DETERMINERS and bool(self.content)

    @property
    def is_bare(self) -> bool:
        """Whether it may name an object without a determiner: it ends in a noun and does not speak of style."""
        texts = [word.text for word in self.words]
        if texts[0] in known.DETERMINERS or len(texts) > _LONGEST_BARE or texts[-1].isdigit():
            return False
        return not (_is_adjective(texts[-1]) or texts[-1].endswith("ly") or self.is_style)

    @property
    def is_style(self) -> bool:
        return not known.STYLE.isdisjoint(word.text for word in self.words)

    @property
    def introduces(self) -> bool:
        """Whether it only says that a picture of something follows."""
        return bool(self.content) and self.content[-1] in known.PICTURES and self.after in known.SHOWING


def object_runs(text: str) -> list[tuple[Word, ...]]:
    """The words of every object that ``text`` names, in order."""
    words = [Word(match[0].lower(), *match.span()) for match in _TOKEN.finditer(text)]
    runs = _without_introductions(_runs(words))
    keeps = [run.is_determined and _is_thing(run) for run in runs]
    is_list = not any(keeps)
    for i, run in enumerate(runs):
        if not run.is_bare or not _is_thing(run):
            continue
        follows = i > 0 and keeps[i - 1]
        keeps[i] = follows and (run.before in known.CONJUNCTIONS or (run.before == "," and _leads_to_and(runs, i)))
        if is_list:
            keeps[i] |= i == 0 or (follows and (_places(run.before) or _is_plain_list(runs, i)))
    return [run.words for run, keep in zip(runs, keeps, strict=True) if keep]


def _is_thing(run: Run) -> bool:
    head = run.content[-1]
    # ", a digital painting" behind a comma is how the picture is made
    return head not in known.NOT_OBJECTS and not (head in known.PICTURES and run.before == ",")


def _places(before: str) -> bool:
    return tuple(before.split()) in known.PLACING


def _leads_to_and(runs: Sequence[Run], i: int) -> bool:
    """Whether a conjunction closes the list of commas that run ``i`` is in: "a cat, dog and bird"."""
    while i < len(runs) and runs[i].after == "," and runs[i].is_bare:
        i += 1
    return i < len(runs) and runs[i].after in known.CONJUNCTIONS


def _is_plain_list(runs: Sequence[Run], i: int) -> bool:
    """Whether run ``i`` is between commas and no style is described."""
    return runs[i].before == "," and (_leads_to_and(runs, i) or not any(run.is_style for run in runs))


def _without_introductions(runs: list[Run]) -> list[Run]:
    """Leave out "a photo of", so that what follows takes its place."""
    kept: list[Run] = []
    before: str | None = None
    for run in runs:
        if before is not None:
            run = Run(run.words, before, run.after)
        before = run.before if run.introduces else None
        if before is None:
            kept.append(run)
    return kept


# --- cutting ------------------------------------------------------------------------------------------------------


def _runs(words: Sequence[Word]) -> list[Run]:
    groups: list[list[Word]] = [[]]
    cuts = [""]  # before each group
    i = 0
    while i < len(words):
        cut, length = _cut(words, i, groups[-1])
        if not cut:
            groups[-1].append(words[i])
        elif groups[-1]:
            groups.append([])
            cuts.append(cut)
        else:
            cuts[-1] = cut  # of several cuts in a row the last stays: ", and"
        i += length
    parts = zip(groups, cuts, [*cuts[1:], ""], strict=True)
    return [Run(tuple(group), before, after) for group, before, after in parts if group]


def _cut(words: Sequence[Word], i: int, current: Sequence[Word]) -> tuple[str, int]:
    """What cuts the prompt at word ``i``, behind the run ``current``, and how many words it takes; "" for nothing."""
    word = words[i].text
    following = words[i + 1].text if i + 1 < len(words) else "."
    content = [w.text for w in current if w.text not in known.DETERMINERS]
    if _joins_adjectives(words, i, current):
        return "", 1
    if word in known.CONJUNCTIONS:
        return word, 1
    if not _WORD.match(word):
        return "," if word in ",;" else ".", 1
    for length in range(known.LONGEST_PREPOSITION, 0, -1):
        term = tuple(w.text for w in words[i : i + length])
        if term in known.PREPOSITIONS:
            inside = term == ("of",) and bool(content) and content[-1] in known.COLLECTIONS
            return ("", 1) if inside else (" ".join(term), length)
    if word in known.SHOWING and content and content[-1] in known.PICTURES:
        return word, 1
    if word in known.BREAKING or (content and _is_verb(word, following, content[-1])):
        return "verb", 1
    # "a green one" goes on
    opens = word in known.DETERMINERS and (following in known.DETERMINERS or _goes_on(following))
    if opens and content and content[-1] != "of":
        return "determiner", 0
    return "", 1


def _joins_adjectives(words: Sequence[Word], i: int, current: Sequence[Word]) -> bool:
    """Whether word ``i``, "and" or a comma, is between adjectives of one noun that follows."""
    described = [w.text for w in current if _WORD.match(w.text)]
    if "of" in described:  # "a row of tall, old houses"
        described = described[described.index("of") + 1 :]
    adjectives = [text for text in described if text not in known.DETERMINERS | known.CONJUNCTIONS]
    is_open = bool(current) and current[0].text in known.DETERMINERS
    if not is_open or not adjectives or not all(map(_is_adjective, adjectives)):
        return False
    following, next_but_one = (words[k].text if k < len(words) else "." for k in (i + 1, i + 2))
    if words[i].text in ("and", "&"):
        return _is_adjective(following) and _goes_on(next_but_one)
    return words[i].text == "," and _goes_on(following)


def _goes_on(word: str) -> bool:
    """Whether a noun phrase may go on with this word."""
    ends = known.DETERMINERS | known.CONJUNCTIONS | known.BREAKING
    return bool(_WORD.match(word)) and word not in ends and (word,) not in known.PREPOSITIONS


def _is_verb(word: str, following: str, previous: str) -> bool:
    """Whether an -ing or -ed word behind ``previous`` begins an action or a state."""
    ended = not _goes_on(following) or following.endswith("ly")
    if word.endswith("ing") and word not in known.ING_NOUNS and not _NO_OTHER_VOWEL.fullmatch(word):
        # "a woman smiling", "a boy playing football" against "a big smiling woman"
        return ended or not _is_adjective(previous)
    if word.endswith("ed") and len(word) > 3 and word not in known.ED_NOUNS:
        return not _is_adjective(previous) and (following,) in known.PREPOSITIONS
    return False


def _is_adjective(word: str) -> bool:
    return word in known.ADJECTIVES or word.endswith(known.ADJECTIVE_ENDINGS)
