"""What the tiny vocabularies know."""

from __future__ import annotations

# one token each, at the beginning of a text and after a space
WORDS = ("a", "red", "blue", "green", "circle", "square", "and", "ball", "of", "on", "the", "foot", "ze", ",", ".")

# one token each only where it goes on with a word: "zebra" is "ze" and "bra", "football" is "foot" and "ball"
ENDINGS = ("bra", "ball")
