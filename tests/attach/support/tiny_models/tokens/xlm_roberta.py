"""XLM-RoBERTa's tokenizer: a unigram model, ``<s>`` and ``</s>`` around a text."""

from __future__ import annotations

from transformers import XLMRobertaTokenizerFast

from .t5 import unigram


def xlm_roberta(max_length: int = 77) -> XLMRobertaTokenizerFast:
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    return XLMRobertaTokenizerFast(vocab=[*special, *unigram(), ("<mask>", 0.0)], model_max_length=max_length)
