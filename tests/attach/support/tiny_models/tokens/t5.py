"""T5's tokenizer: a unigram model whose pieces begin a word with ``▁``; ``</s>`` ends a text, nothing begins it."""

from __future__ import annotations

from transformers import T5TokenizerFast

from .words import ENDINGS, WORDS

BEGIN = "\u2581"
SENTINELS = 100  # <extra_id_0> and on


def unigram() -> list[tuple[str, float]]:
    """Pieces with their log probabilities: words, then what goes on with a word, then letters."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    scores = {BEGIN + word: -1.0 for word in WORDS}
    scores |= dict.fromkeys(ENDINGS, -2.0)
    scores |= dict.fromkeys((BEGIN, *letters), -8.0)
    return list(scores.items())


def t5(max_length: int = 512) -> T5TokenizerFast:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    sentinels = [(f"<extra_id_{number}>", 0.0) for number in reversed(range(SENTINELS))]
    return T5TokenizerFast(vocab=[*special, *unigram(), *sentinels], extra_ids=SENTINELS, model_max_length=max_length)
