"""A CLIP tokenizer whose vocabulary is the world's: one token a word, bytes for everything else.

The byte-pair merges are grown word by word, so the stock ``CLIPTokenizer`` needs no code of ours.
"""

from __future__ import annotations

from itertools import pairwise

from transformers import CLIPTokenizer

from .vocabulary import CAPTION_WORDS, COLOURS, SHAPES, SPARE_WORDS, TASK_WORDS

MAX_LENGTH = 77  # tokens, as in SD1.x
SHORT_LENGTH = 32  # tokens of the MM-DiT, which pays for each in every block; captions have 16 at most
START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"

WORDS: tuple[str, ...] = (*CAPTION_WORDS, *COLOURS, *SHAPES, *SPARE_WORDS, *TASK_WORDS)


def build_tokenizer(max_length: int = MAX_LENGTH) -> CLIPTokenizer:
    """The tokenizer of the shapes models, padded with END to ``max_length`` as in SD1.x.

    Token ids are, in this order: 256 bytes, the same 256 ending a word, the results of the merges, START, END.
    """
    merges = _merges(WORDS)
    characters = _byte_characters()
    tokens = [*characters, *(c + END_OF_WORD for c in characters), *("".join(pair) for pair in merges), START, END]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        model_max_length=max_length,
    )


def _byte_characters() -> list[str]:
    """The printable character that byte-level BPE writes for each byte value.

    Printable bytes are themselves; the others take the code points from 256 on, in order.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Merges under which every word becomes one token.

    Each word is split by the merges found so far, then joined left to right. A new merge ranks behind all
    older ones, so it can never change how an earlier word is put together.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = _split(word, ranks)
        while len(pieces) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
            pieces = _split(word, ranks)
    return list(ranks)


def _split(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of one ASCII word: join the best ranked neighbours until none is ranked."""
    pieces = [*word[:-1], word[-1] + END_OF_WORD]
    while True:
        ranked = [(ranks[pair], i) for i, pair in enumerate(pairwise(pieces)) if pair in ranks]
        if not ranked:
            return pieces
        _, i = min(ranked)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
