"""What the tiny vocabularies know."""

from __future__ import annotations

import re

# one token each, at the beginning of a text and after a space
WORDS = ("a", "red", "blue", "green", "circle", "square", "and", "ball", "of", "on", "the", "foot", "ze", ",", ".")

# one token each only where it goes on with a word: "zebra" is "ze" and "bra", "football" is "foot" and "ball"
ENDINGS = ("bra", "ball")


def words_of(text: str) -> tuple[str, ...]:
    """The words and marks of ``text``, each once."""
    return tuple(dict.fromkeys(re.findall(r"\w+|[^\w\s]", text)))
