"""ChatGLM's tokenizer as Kolors has it: written in Python, without offsets, padding on the left.

The stock class reads its vocabulary by sentencepiece, which need not be installed: a model of the same pieces takes
the place of that one class.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from .t5 import unigram


class _Pieces:
    """What the stock tokenizer calls of ``sentencepiece.SentencePieceProcessor``, by its names."""

    def __init__(self, model_file: str) -> None:
        special = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
        self._tokenizer = Tokenizer(models.Unigram([*special, *unigram()], unk_id=0))
        self._tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        self._tokenizer.decoder = decoders.Metaspace()

    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size()

    get_piece_size = vocab_size

    def unk_id(self) -> int:
        return 0

    def bos_id(self) -> int:
        return 1

    def eos_id(self) -> int:
        return 2

    def EncodeAsPieces(self, text: str) -> list[str]:
        return self._tokenizer.encode(text).tokens

    def PieceToId(self, piece: str) -> int:
        found = self._tokenizer.token_to_id(piece)
        return self.unk_id() if found is None else found

    def IdToPiece(self, index: int) -> str:
        return self._tokenizer.id_to_token(index)

    def DecodePieces(self, pieces: list[str]) -> str:
        return self._tokenizer.decoder.decode(pieces)


def chatglm() -> Any:
    from diffusers.pipelines.kolors import tokenizer as stock

    with (
        mock.patch.dict(sys.modules, sentencepiece=SimpleNamespace(SentencePieceProcessor=_Pieces)),
        mock.patch.object(stock, "is_sentencepiece_available", lambda: True),
    ):
        return stock.ChatGLMTokenizer(vocab_file=__file__)  # it must be a file, which is never read
