"""Qwen's tokenizer with the chat template of Qwen3 (messages of text, without tools)."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import Qwen2TokenizerFast

from .byte_level import byte_level

START, END, TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPECIAL = (TEXT_END, START, END, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
THINKING = ("<think>", "</think>")  # tokens of their own, but text: decoding keeps them
ROLES = ("system", "user", "assistant")

# what Qwen3's template writes for such messages; a reply without thinking begins with empty thoughts
CHAT = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}"
    "{%- endif %}"
)


def qwen(words: Iterable[str] = (), max_length: int = 512) -> Qwen2TokenizerFast:
    """A tokenizer in which ``words`` are one token each as well."""
    tokens, merges = byte_level((*ROLES, *words), (*SPECIAL, *THINKING))
    made = Qwen2TokenizerFast(
        vocab=tokens,
        merges=merges,
        unk_token=TEXT_END,
        eos_token=END,
        pad_token=TEXT_END,
        additional_special_tokens=list(SPECIAL[1:]),
        model_max_length=max_length,
        chat_template=CHAT,
    )
    made.add_tokens(list(THINKING))
    return made
