"""CLIP's tokenizer: lower case, pieces that end a word marked ``</w>``, START and END around a text."""

from __future__ import annotations

from transformers import CLIPTokenizer

from .byte_pairs import alphabet, merges_of, vocabulary
from .words import ENDINGS, WORDS

START, END = "<|startoftext|>", "<|endoftext|>"
CLOSE = "</w>"
PARTS = ("foot", "ze")  # go on within a word: those of WORDS close it


def clip(max_length: int = 77) -> CLIPTokenizer:
    closed = [[*word[:-1], word[-1] + CLOSE] for word in (*WORDS, *ENDINGS)]
    merges = merges_of([*closed, *PARTS])
    symbols = [*alphabet(), *(letter + CLOSE for letter in alphabet())]
    tokens = vocabulary(symbols, merges, (START, END))
    return CLIPTokenizer(vocab=tokens, merges=merges, model_max_length=max_length)
