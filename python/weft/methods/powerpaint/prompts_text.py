"""From a task and the user's texts to the embeddings that a stock pipeline takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weft.attach import LearntText, encode, token_count, token_limit
from weft.methods.powerpaint.recipes import Placement, PromptName, Recipe

_CALLER = 7  # of a task's method, from where a text is prepared

Vectors = tuple[Tensor, ...]  # one [n, C] for each text encoder


@dataclass(frozen=True)
class PromptEncoder:
    """Encodes texts with task prompts among them.

    Attributes:
        pipe: A Stable Diffusion pipeline.
        vectors: Of the prompts.
        placement: Where they go: "after" the user's text, which is shortened rather than they; "before" it; or
            "released", after it and cut off with it where it is too long, which warns.
    """

    pipe: Any
    vectors: Mapping[PromptName, Vectors]
    placement: Placement

    @torch.no_grad()
    def conditioning(
        self, recipe: Recipe, texts: Sequence[str], negatives: Sequence[str], fit: float, quality_words: str
    ) -> dict[str, Tensor]:
        """Arguments of a pipeline for ``texts`` and ``negatives``, one of each or as many of both.

        Args:
            fit: Weight of the first prompt of each pair, 0 to 1.
            quality_words: After the negatives.
        """
        rows = max(len(texts), len(negatives))
        positive, negative = [], []  # in loops: the stack level of a warning must not depend on Python's version
        for text in texts:
            positive.append(self._prepared(recipe.words, text, recipe.prompts, " ", leads=recipe.words_lead))
        for text in negatives:
            negative.append(self._prepared(quality_words, text, recipe.against, ", ", leads=False))
        pairs = [
            tuple((words[row % len(words)], name) for name in prompts)
            for words, prompts in ((positive, recipe.prompts), (negative, recipe.against))
            for row in range(rows)
        ]
        different = list(dict.fromkeys(text for pair in pairs for text in pair))
        encoded = encode(self.pipe, [self._learnt(words, name) for words, name in different])
        first, second = ([different.index(pair[i]) for pair in pairs] for i in (0, 1))
        states = _mixed(encoded.states, first, second, fit)
        found = {"prompt_embeds": states[:rows], "negative_prompt_embeds": states[rows:]}
        if encoded.pooled is not None:
            pooled = _mixed(encoded.pooled, first, second, fit)
            found |= {"pooled_prompt_embeds": pooled[:rows], "negative_pooled_prompt_embeds": pooled[rows:]}
        return found

    def _learnt(self, words: str, name: PromptName | None) -> LearntText:
        vectors = () if name is None else self.vectors[name]
        return LearntText(words, vectors, leads=self.placement == "before")

    def _prepared(
        self, words: str, text: str, prompts: tuple[PromptName | None, ...], separator: str, *, leads: bool
    ) -> str:
        """``words`` and the user's ``text``, which is shortened until the task prompts fit beside both."""
        count = max((len(self.vectors[name][0]) for name in prompts if name is not None), default=0)
        limit = token_limit(self.pipe, count)

        def joined(part: str) -> str:
            return separator.join(filter(None, (words, part) if leads else (part, words)))

        text = text.strip()
        whole = joined(text)
        if token_count(self.pipe, whole) <= limit:
            return whole
        if self.placement == "released" and count:
            warnings.warn(
                f"TaskPrompts: {whole[:60]!r} leaves no space for all {count} vectors of the task; cut off, as "
                "the released code does; write less, or choose the placement 'after'",
                stacklevel=_CALLER,
            )
            return whole
        kept = shortened(text, lambda part: token_count(self.pipe, joined(part)) <= limit)
        if kept is None:
            raise ValueError(
                f"TaskPrompts: {words!r} must fit the {limit} tokens that the text encoder has beside the task; it "
                f"takes {token_count(self.pipe, words)}; use fewer words"
            )
        warnings.warn(
            f"TaskPrompts: the text encoder has {limit} tokens beside the task; cut off: "
            f"{text[len(kept) :].strip()!r}",
            stacklevel=_CALLER,
        )
        return joined(kept)


def shortened(text: str, fits: Callable[[str], bool]) -> str | None:
    """The longest beginning of ``text`` that fits, whole words if one does; None where nothing fits, not even ""."""
    ends = [place for place, letter in enumerate(text) if letter.isspace() and not text[place - 1].isspace()]
    letters = range(ends[0] - 1 if ends else len(text) - 1, -1, -1)
    for place in (len(text), *reversed(ends), *letters):
        if fits(text[:place]):
            return text[:place].rstrip()
    return None


def _mixed(encoded: Tensor, first: list[int], second: list[int], fit: float) -> Tensor:
    """fit * first + (1 - fit) * second in fp32, and exactly one of them at either end."""
    if fit == 1.0 or first == second:
        return encoded[first]
    mixed = torch.lerp(encoded[second].float(), encoded[first].float(), fit)
    return mixed.to(encoded.dtype)
