"""Tokenizers of the text encoders of diffusers' pipelines, of their own classes, over a vocabulary that is made here.

Each cuts text as the real one does (its normalizer, its cut before the pieces, its special tokens, its chat template);
only the vocabulary is small: ``WORDS`` and the words a pipeline adds are one token each, any other text falls into
pieces and bytes.
"""

from __future__ import annotations

from .chatglm import chatglm
from .clip import clip
from .mistral import mistral
from .qwen import qwen
from .t5 import t5
from .words import words_of
from .xlm_roberta import xlm_roberta

__all__ = ["chatglm", "clip", "mistral", "qwen", "t5", "words_of", "xlm_roberta"]
