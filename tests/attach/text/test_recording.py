"""Rows recorded while stock pipelines encode prompts: the conditioning at a word's positions is made of its tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import tiny_tokenizers as tiny
import torch
from torch import Tensor, nn

from weft.attach.text.recording import recording
from weft.attach.text.tokenized import CutOffError, TokenizedText


class Echo(nn.Module):
    """A text encoder whose states are the ids that it reads, so that the conditioning shows its tokens."""

    dtype, device = torch.float32, torch.device("cpu")

    def forward(self, input_ids: Tensor, attention_mask: Any = None, **_: Any) -> Any:
        states = input_ids[..., None].float()
        return SimpleNamespace(hidden_states=(states,) * 40, last_hidden_state=states, pooler_output=states[:, 0])


class Bare(Echo):
    """As T5 gives them: a tuple."""

    def forward(self, input_ids: Tensor, attention_mask: Any = None, **_: Any) -> Any:
        return (input_ids[..., None].float(),)


def nothing(pipe: Any) -> int:
    return 0


@dataclass(frozen=True)
class Case:
    """How a pipeline reads prompts.

    Attributes:
        kind: Of its tokenizer.
        dropped: Tokens that it leaves out in front.
        behind: Tokens that it leaves out at the end.
        end: Of the names of tokenizer and encoder.
    """

    pipeline: str
    kind: str
    dropped: Callable[[Any], int] = nothing
    behind: Callable[[Any], int] = nothing
    encoder: type[nn.Module] = Echo
    end: str = ""


def prefix_length(pipe: Any) -> int:
    return len(tiny.qwen()(pipe.prompt_template_encode_prefix, add_special_tokens=False).input_ids)


def suffix_length(pipe: Any) -> int:
    return len(tiny.qwen()(pipe.prompt_template_encode_suffix, add_special_tokens=False).input_ids)


CASES = [
    Case("FluxPipeline", "t5", encoder=Bare, end="_2"),
    Case("ChromaPipeline", "t5", encoder=Bare),
    Case("PixArtAlphaPipeline", "t5", encoder=Bare),
    Case("Lumina2Pipeline", "llama"),
    Case("AuraFlowPipeline", "llama", encoder=Bare),
    Case("QwenImagePipeline", "qwen", lambda pipe: pipe.prompt_template_encode_start_idx),
    Case("Krea2Pipeline", "qwen", lambda pipe: pipe.prompt_template_encode_start_idx),
    Case("LongCatImagePipeline", "qwen", prefix_length, suffix_length),
    Case("OvisImagePipeline", "qwen", lambda pipe: pipe.user_prompt_begin_id),
    Case("ZImagePipeline", "qwen"),
    Case("Flux2KleinPipeline", "qwen"),
]


def encoded(case: Case, prompts: list[str]) -> tuple[list[Tensor], list[TokenizedText]]:
    """The conditioning of every prompt, and where its words are."""
    kind = getattr(diffusers, case.pipeline, None)
    if kind is None:
        pytest.skip(f"diffusers {diffusers.__version__} has no {case.pipeline}")
    tokenizer, encoder = tiny.KINDS[case.kind](), case.encoder()
    parts = {
        name: None if one.default is one.empty else one.default
        for name, one in list(inspect.signature(kind.__init__).parameters.items())[1:]
    }
    parts |= {f"tokenizer{case.end}": tokenizer, f"text_encoder{case.end}": encoder}
    if case.end:
        parts |= {"tokenizer": tiny.clip(), "text_encoder": Echo()}
    pipe = kind(**parts)
    if case.kind == "qwen" and case.dropped is not nothing and case.dropped is not prefix_length:
        # the templates are longer in the tokens of this small vocabulary, as many as the prompt begins after
        begin = tokenizer(template_before(pipe)).input_ids
        for name in ("prompt_template_encode_start_idx", "user_prompt_begin_id"):
            if hasattr(pipe, name):
                setattr(pipe, name, len(begin))
    with recording(tokenizer, encoder) as record, torch.no_grad():
        arguments = {"prompt": list(prompts), "device": torch.device("cpu")}
        known = inspect.signature(pipe.encode_prompt).parameters
        extra = {
            "prompt_2": None,
            "do_classifier_free_guidance": True,
            "negative_prompt": ["ball circle"] * len(prompts),
        }
        found = pipe.encode_prompt(**{name: x for name, x in {**arguments, **extra}.items() if name in known})
    states = found if isinstance(found, Tensor) else found[0]
    dropped, behind = case.dropped(pipe), case.behind(pipe)
    texts = [
        record.tokenized(prompt, row, dropped=dropped, max_length=len(record.rows[row][0]) - behind)
        for row, prompt in enumerate(prompts)
    ]
    return [x.reshape(len(x), -1)[:, 0] for x in states], texts


def template_before(pipe: Any) -> str:
    if hasattr(pipe, "prompt_template_encode"):
        return str(pipe.prompt_template_encode.split("{}")[0])
    if hasattr(pipe, "prompt_template_encode_prefix"):
        return str(pipe.prompt_template_encode_prefix)
    return f"<|im_start|>user\n{pipe.system_prompt.rstrip()}"  # the blank goes with the first word


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.pipeline)
def test_the_conditioning_at_a_word_is_of_its_tokens(case: Case) -> None:
    prompts = ["a circle and the image of a ball", "user circle says 'apple' on the ball", "a circle"]
    conditioning, texts = encoded(case, prompts)
    tokenizer = tiny.KINDS[case.kind]()
    for states, tokenized, prompt in zip(conditioning, texts, prompts, strict=True):
        for word in prompt.replace("'", "").split():
            if prompt.split().count(word) > 1:
                continue
            ids = [int(states[place]) for place in tokenized.place(word)]
            assert tokenizer.decode(ids).strip() == word
        with pytest.raises(LookupError, match="is not in the prompt"):
            tokenized.place("describe")
        own = tokenizer.decode([int(states[place]) for place in tokenized.own])
        assert own.replace(" ", "") == prompt.replace(" ", "")
        assert set(tokenized.own) <= set(tokenized.real) <= set(range(len(states)))


def test_left_padding_without_a_row() -> None:
    """Ideogram 4 calls parts of its encoder, so the tokenizer's text and the rule give the row."""
    tokenizer = tiny.qwen()
    with recording(tokenizer, None) as record:
        tokenizer.apply_chat_template([{"role": "user", "content": "a red ball"}], tokenize=True)
    found = record.tokenized("a red ball", 0, padding_side="left", max_length=40)
    length = len(tokenizer(record.texts[0]).input_ids)
    assert found.real == tuple(range(40 - length, 40))
    row = tokenizer(record.texts[0], padding="max_length", max_length=40, padding_side="left").input_ids
    assert tokenizer.decode([row[place] for place in found.place("ball")]).strip() == "ball"


def test_a_row_that_ends_before_a_word() -> None:
    case = Case("QwenImagePipeline", "qwen", lambda pipe: pipe.prompt_template_encode_start_idx)
    conditioning, (text,) = encoded(case, ["a " + "red " * 1100 + "ball"])
    assert len(conditioning[0]) == 1024
    with pytest.raises(CutOffError, match=r"'ball' is cut off: it ends at position 1101 and .* sees the first 1024"):
        text.place("ball")


def test_tokenizer_and_encoder_are_as_before() -> None:
    tokenizer, encoder = tiny.t5(), Echo()
    stock = type(tokenizer)
    with pytest.raises(RuntimeError, match="midway"), recording(tokenizer, encoder) as record:
        assert isinstance(tokenizer, stock) and type(tokenizer) is not stock
        encoder(tokenizer(["a ball"], return_tensors="pt").input_ids)
        raise RuntimeError("midway")
    assert type(tokenizer) is stock and not encoder._forward_pre_hooks
    tokenizer("circle")
    assert record.texts == ["a ball"] and record.rows == [(tokenizer("a ball").input_ids, None)]
