"""Tokenizers of every kind that text encoders have, trained here on a few sentences."""

from __future__ import annotations

import functools
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import tiny_pipelines
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

SENTENCES = (
    "a red circle and a blue square",
    "a football, a ball and an apple on the table",
    "describe the image by its colour, shape and size",
    "一只红色的猫和一只蓝色的狗",
    "赤い猫と青い犬がいる",
    "café déjà vu, naïve señor",
    "a sign says 'apple'",
)
# what Qwen's template does with one message of a user
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
# of Qwen 2
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@functools.cache
def clip() -> Any:
    return tiny_pipelines.tokenizer(Path(tempfile.mkdtemp()), max_length=77)


@functools.cache
def t5() -> Any:
    """Sentencepiece's unigram: words begin with its mark, an end token, no start token."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    made.train_from_iterator(
        SENTENCES,
        trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


@functools.cache
def llama() -> Any:
    """Sentencepiece's BPE, of Llama and Gemma: a start token, and bytes for what there is no piece for."""
    # letters and punctuation apart, as sentencepiece keeps them
    words = re.findall(r"\u2581\w+|\W", "".join(f"\u2581{x}" for x in " ".join(SENTENCES).split() if x.isascii()))
    trained = Tokenizer(models.BPE())
    trained.train_from_iterator(words, trainers.BpeTrainer(vocab_size=100, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = {piece: number for number, piece in enumerate([*special, *learnt["vocab"]])}
    merges = [tuple(merge) for merge in learnt["merges"]]
    made = Tokenizer(models.BPE(pieces, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        model_max_length=64,
    )


@functools.cache
def qwen() -> Any:
    """Byte-level BPE with a chat template; no token of its own at either end."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    made.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    made.add_special_tokens(
        [AddedToken(name, special=True) for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<|endoftext|>", eos_token="<|im_end|>", chat_template=CHAT,
        model_max_length=1024,
    )  # fmt: skip


class ChatGLM(PreTrainedTokenizer):
    """A tokenizer in Python, without offsets, as Kolors has: two tokens before the text, and padding before those."""

    vocab_files_names: dict[str, str] = {}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self) -> None:
        self._known = llama().get_vocab()
        self._names = {number: piece for piece, number in self._known.items()}
        super().__init__(
            unk_token="<unk>", pad_token="<unk>", eos_token="</s>", padding_side="left", model_max_length=64,
            additional_special_tokens=["[gMASK]", "sop"],
        )  # fmt: skip

    @property
    def vocab_size(self) -> int:
        return len(self._known)

    def get_vocab(self) -> dict[str, int]:
        return {**self._known, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return list(llama().tokenize(text))

    def _convert_token_to_id(self, token: str) -> int:
        return self._known[token]

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index]

    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: Any = None) -> list[int]:
        return [*self.convert_tokens_to_ids(["[gMASK]", "sop"]), *token_ids_0]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return str(llama().backend_tokenizer.decoder.decode(tokens))


chatglm = functools.cache(ChatGLM)
KINDS = {"clip": clip, "t5": t5, "llama": llama, "qwen": qwen, "chatglm": chatglm}
