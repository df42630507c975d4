"""Names, comments, messages and pages are in the words of the field: a look-up for "returns" must not need "tells"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("python", "kernels", "csrc", "tests", "benchmarks", "docs")
SUFFIXES = {".py", ".pyi", ".md", ".cpp", ".h", ".cu", ".cuh"}
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "setup.py", "pyproject.toml", "Makefile")

# pattern, in any case -> what to write instead; a name with underscores counts as its words
INSTEAD = {
    r"told|tells?": "say, report, show, get; of two things: distinguish",
    r"hears?|heard": "read, get",
    r"rooms?": "space, memory; of code: package",
    r"doors?": "interface, entry point, public function",
    r"whoever": "the caller, code that",
    r"nobody": "no caller, no code, never",
    r"stood|stands?(?!( in)? for\b|[-_]ins?\b)": "is, is in, is beside, is written",
    r"at hand": "here, available",
    r"anew|afresh": "again",
    r"lest": "so that ... not",
    r"reckon(s|ed)?": "compute",
    r"mend(s|ed)?": "fix, repair",
    r"seldom": "rarely",
    r"lets? (no|nothing)": "does not allow",
    r"(comes?|came) to nothing": "fails, has no effect",
    r"asks? (nothing|anything)|nobody asks|asked in one": "name the argument or the request",
    r"ha(s|ve) not(?= *[;,.:)\"'`])": "does not have",
    r"_said": "what it holds: message, value, differences",
}
# what they may keep, and why
KEPT = {
    "python/weft/shapes/vocabulary.py": "words of captions",
    "python/weft/methods/maskdiffusion/phrase_words.py": "words of prompts",
    "tests/methods/maskdiffusion/test_phrases.py": "prompts",
    "kernels/attention/fwd_short.py": "a name in the record of planted faults",
    "tests/mutation/support/mutation/triton.py": "a name in the record of planted faults",
    "tests/structure/test_plain_words.py": "this list",
}
# what comes before a word is checked afterwards: a look-behind at every letter takes twice the time
WORDS = re.compile(f"(?:{'|'.join(INSTEAD)})(?![a-z])")


def odd_words(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, word and what to write instead, for each word of ``INSTEAD`` in ``text``."""
    lower = text.lower()
    for found in WORDS.finditer(lower):
        start, end = found.span()
        if not lower[start - 1 : start].isalpha():
            instead = next(plain for pattern, plain in INSTEAD.items() if re.match(pattern, lower[start:]))
            yield text.count("\n", 0, start) + 1, text[start:end], instead


def files() -> Iterator[Path]:
    """Everything that people write and read."""
    for folder in FOLDERS:
        yield from (path for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES)
    yield from (ROOT / name for name in PAGES)


def test_plain_words() -> None:
    found = [
        f"{name}:{line}: {word!r}; write instead: {instead}"
        for path in files()
        if (name := str(path.relative_to(ROOT))) not in KEPT
        for line, word, instead in odd_words(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(["use the words of the field:", *found])


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("\n# the model is told its task", 2, "told"),
        ('raise ValueError("it has factors for q, which this model has not")', 1, "has not"),
        ("def check_told_apart() -> None:", 1, "told"),
        ("NOBODY = Teachers()", 1, "NOBODY"),
        ("the file stands\nbeside it", 1, "stands"),
        ("// checked at the public door", 1, "door"),
        ("What rows hear", 1, "hear"),
    ],
)
def test_an_odd_word_is_found(text: str, line: int, word: str) -> None:
    assert [found[:2] for found in odd_words(text)] == [(line, word)]


@pytest.mark.parametrize(
    "text",
    [
        "headroom outdoor bathroom doorway heart shear foretold",
        "it has not run on a GPU; CUDA has not been timed",
        "a stand-in for the processor; a name stands for the object; it stands in for torch; stand_ins; class StandIn",
        "lets concepts act",
        "recommended, determined, theirselves",
    ],
)
def test_usual_words_are_not(text: str) -> None:
    assert not list(odd_words(text))


def test_exceptions_exist() -> None:
    for name in KEPT:
        assert list(odd_words((ROOT / name).read_text(encoding="utf-8"))), f"{name} needs no exception"
