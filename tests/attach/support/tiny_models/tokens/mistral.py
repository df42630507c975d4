"""Mistral's tokenizer of version 7 (Tekken) with its chat template, in a processor as Flux.2 has it.

The stock processor (Pixtral's) needs torchvision; this one has the same base class and no images.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, ProcessorMixin

from .byte_level import byte_level

SPECIAL = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
    *("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
)
# letters with at most one character before them, single digits, marks, ends of lines, spaces
CUT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# what the template of Mistral Small 3 writes for a system message and messages of a user
CHAT = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- set mark = {'system': 'SYSTEM_PROMPT', 'user': 'INST'}[message.role] %}"
    "{{- '[' + mark + ']' }}"
    "{%- for part in message.content %}"
    "{%- if part.type == 'text' %}{{- part.text }}{%- else %}{{- '[IMG]' }}{%- endif %}"
    "{%- endfor %}"
    "{{- '[/' + mark + ']' }}"
    "{%- endfor %}"
)


class TextProcessor(ProcessorMixin):
    """A processor of a tokenizer alone."""

    def __init__(self, tokenizer: Any = None, chat_template: str | None = None) -> None:
        super().__init__(tokenizer, chat_template=chat_template)


def tekken(words: Iterable[str] = (), padding_side: str = "left") -> PreTrainedTokenizerFast:
    """A tokenizer in which ``words`` are one token each as well; it pads on the left, as Mistral's do."""
    tokens, merges = byte_level(words, SPECIAL)
    made = Tokenizer(models.BPE(vocab=tokens, merges=merges, ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CUT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokens["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=[token for token in SPECIAL if token.startswith("[")],
        padding_side=padding_side,
        model_max_length=512,
    )


def mistral(words: Iterable[str] = (), padding_side: str = "left") -> TextProcessor:
    return TextProcessor(tekken(words, padding_side), chat_template=CHAT)
