"""Learnt vectors among the words of a text: as if the table had rows for them, and the table never has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from torch import Tensor

from weft.attach.text.learnt_words import LearntText, embeddings_of, encode, token_count, token_limit, word_widths


def vectors(pipe: Any, count: int = 3) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.randn(count, width, generator=generator) for width in word_widths(pipe))


def with_rows(pipe: Any, text: LearntText) -> Tensor:
    """The states of a pipeline that really has a token for every vector."""
    names = [f"<learnt{number}>" for number in range(text.count)]
    for end, mine in zip(("", "_2"), text.vectors, strict=False):
        tokenizer, encoder = getattr(pipe, f"tokenizer{end}"), getattr(pipe, f"text_encoder{end}")
        tokenizer.add_tokens(names)
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        encoder.get_input_embeddings().weight.data[-text.count :] = mine
    joined = " ".join(names)
    words = f"{joined} {text.text}" if text.leads else f"{text.text} {joined}"
    with torch.no_grad():
        return pipe.encode_prompt(
            prompt=words, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]


@pytest.mark.parametrize("leads", [False, True])
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@pytest.mark.parametrize("text", ["", "a red circle", "a a a"])
def test_they_act_as_rows_of_the_table(kind: str, text: str, leads: bool, tmp_path: Path) -> None:
    pipe = tiny.build(kind, tmp_path)
    learnt = LearntText(text, vectors(pipe), leads)
    with torch.no_grad():
        found = encode(pipe, [learnt])
    assert torch.equal(found.states, with_rows(pipe, learnt))
    assert (found.pooled is None) == (kind == "sd1")


def test_the_pipeline_stays_as_it_was(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    before = {name: value.clone() for name, value in pipe.text_encoder.state_dict().items()}
    encode(pipe, [LearntText("a red ball", vectors(pipe))])
    assert pipe.text_encoder.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in pipe.text_encoder.state_dict().items())
    assert not pipe.text_encoder.get_input_embeddings()._forward_hooks
    assert set(pipe.tokenizer.get_added_vocab()) <= {tiny.START, tiny.END}


def test_texts_of_a_batch_have_their_own(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    mine = vectors(pipe)
    texts = [LearntText("a red ball", mine), LearntText("green"), LearntText("", mine, leads=True)]
    with torch.no_grad():
        together, alone = encode(pipe, texts).states, [encode(pipe, [text]).states for text in texts]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)


def test_gradients_reach_the_vectors_and_no_row_of_the_table(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    mine = vectors(pipe)[0].requires_grad_()
    states = encode(pipe, [LearntText("a red ball", (mine,))]).states
    # weighted, since sums and sums of squares over the last layer norm are constants
    (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert mine.grad is not None and mine.grad.abs().amax(1).min() > 1e-3


def test_what_the_encoder_does_not_see_is_cut_off_like_text(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    mine, long = vectors(pipe), " ".join(["red"] * (tiny.MAX_LENGTH - 4))
    with torch.no_grad():
        learnt = LearntText(long, mine)
        assert torch.equal(encode(pipe, [learnt]).states, with_rows(pipe, learnt))


def test_counting_tokens(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    assert token_count(pipe, "") == 0 and token_count(pipe, "a red circle") == 3
    assert token_limit(pipe, 10) == tiny.MAX_LENGTH - 12
    with pytest.raises(ValueError, match="15 learnt vectors do not fit the 16 tokens"):
        token_limit(pipe, 15)


def test_embeddings_of_a_word(tmp_path: Path) -> None:
    pipe = tiny.sdxl(tmp_path)
    first, second = embeddings_of(pipe, "red")
    row = pipe.tokenizer("red").input_ids[1]
    assert torch.equal(first, pipe.text_encoder.get_input_embeddings().weight[row])
    assert torch.equal(second, pipe.text_encoder_2.get_input_embeddings().weight[row])


def test_an_encoder_that_looks_nothing_up_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny.sd1(tmp_path)
    states = torch.zeros(1, tiny.MAX_LENGTH, 32)
    monkeypatch.setattr(pipe, "encode_prompt", lambda **_: (states, None))
    with pytest.raises(RuntimeError, match="did not look words up"):
        encode(pipe, [LearntText("red", vectors(pipe))])
