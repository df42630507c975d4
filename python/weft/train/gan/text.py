"""Captions as words and a sentence: a small recurrent encoder of our own, or any text encoder of transformers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from weft.train.gan.drawn import Text

PADDING, UNKNOWN = 0, 1  # numbers of no word, and of a word that no caption of the training data has
_WORD = re.compile(r"[a-z0-9]+")


class Vocabulary:
    """Words of captions, by number.

    Args:
        words: All known, most frequent first; numbers begin at 2.
        length: Words of a caption that are read; the rest is left out.
    """

    def __init__(self, words: Sequence[str], length: int) -> None:
        self.words, self.length = tuple(words), length
        self._number = {word: number for number, word in enumerate(self.words, UNKNOWN + 1)}

    @classmethod
    def of(cls, captions: Iterable[str], length: int) -> Vocabulary:
        """Every word of ``captions``, and at most as many words a caption as the longest has."""
        counts: dict[str, int] = {}
        longest = 1
        for caption in captions:
            found = words_of(caption)
            longest = max(longest, len(found))
            for word in found:
                counts[word] = counts.get(word, 0) + 1
        return cls(sorted(counts, key=lambda word: (-counts[word], word)), min(length, longest))

    def __len__(self) -> int:
        return len(self.words) + UNKNOWN + 1

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """int64 [B, length]; a caption without a word counts as one unknown word."""
        rows = torch.full((len(captions), self.length), PADDING)
        for row, caption in zip(rows, captions, strict=True):
            numbers = [self._number.get(word, UNKNOWN) for word in words_of(caption)[: self.length]] or [UNKNOWN]
            row[: len(numbers)] = torch.tensor(numbers)
        return rows


def words_of(caption: str) -> list[str]:
    """Lower case, without punctuation."""
    return _WORD.findall(caption.lower())


class Recurrent(nn.Module):
    """A bidirectional LSTM: its outputs are the words, its last states the sentence.

    Source:
        The text encoder of AttnGAN (arXiv:1711.10485).
    """

    def __init__(self, vocabulary: Vocabulary, *, width: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(len(vocabulary), embedding, padding_idx=PADDING)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(embedding, width // 2, batch_first=True, bidirectional=True)
        self.width = width

    def numbers(self, captions: Sequence[str]) -> Tensor:
        """Captions as the forward takes them, int64 [B, T]."""
        return self.vocabulary(captions)

    def forward(self, numbers: Tensor) -> Text:
        padding = numbers == PADDING
        # packed, each caption ends where its words end, whatever else is in the batch
        packed = pack_padded_sequence(
            self.dropout(self.embedding(numbers)),
            (~padding).sum(1).cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        outputs, (last, _) = self.lstm(packed)
        words, _ = pad_packed_sequence(outputs, batch_first=True, total_length=numbers.shape[1])
        return Text(words, last.transpose(0, 1).flatten(1), padding)


def text_tower(model: Any) -> Any:
    """What reads text in a model of transformers that may have two towers."""
    return getattr(model, "text_model", model) if hasattr(model, "vision_model") else model


class Pretrained(nn.Module):
    """A frozen text encoder of transformers, and two learnt projections to the common width.

    Args:
        tokenizer, model: Of transformers. A model with two towers is asked for its text tower.
        width: Of words and sentence.
        length: Tokens of a caption that are read.
    """

    def __init__(self, tokenizer: Any, model: Any, *, width: int, length: int) -> None:
        super().__init__()
        self.tokenizer, self.length, self.width = tokenizer, length, width
        self.model = text_tower(model)
        self.model.requires_grad_(False).eval()
        states = self.model.config.hidden_size
        self.words, self.sentence = nn.Linear(states, width), nn.Linear(states, width)
        if tokenizer.pad_token_id is None:
            raise ValueError("fit_gan: `text` needs a tokenizer with a padding token; set tokenizer.pad_token")

    def train(self, mode: bool = True) -> Pretrained:
        """As of any module, but the frozen model stays without dropout."""
        super().train(mode)
        self.model.eval()
        return self

    def numbers(self, captions: Sequence[str]) -> Tensor:
        """Token ids and the attention mask beside each other, int64 [B, 2 T]."""
        read = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        return torch.cat([read["input_ids"], read["attention_mask"]], 1).long()

    def forward(self, numbers: Tensor) -> Text:
        ids, mask = numbers.chunk(2, 1)
        with torch.no_grad():
            found = self.model(input_ids=ids, attention_mask=mask)
        states = found.last_hidden_state
        pooled = getattr(found, "pooler_output", None)
        if pooled is None:
            weights = mask[:, :, None].to(states.dtype)
            pooled = (states * weights).sum(1) / weights.sum(1)
        kind = self.words.weight.dtype
        return Text(self.words(states.to(kind)), self.sentence(pooled.to(kind)), mask == 0)
