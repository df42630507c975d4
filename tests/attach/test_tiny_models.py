"""The tiny pipelines themselves: stock, repeatable, and with words that are found."""

from __future__ import annotations

import pytest
import torch
from tiny_models import PROMPT, TINY, TinyModel, encoded, positions
from tiny_models.located import tokenizer
from torch import nn

MODELS = pytest.mark.parametrize("model", TINY.values(), ids=TINY)
WITH_TEXT = pytest.mark.parametrize("name", [name for name, model in TINY.items() if model.text is not None])
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
THOUGHTS = "<think>\n\n</think>\n\n"
# how the text of the encoder ends, or ends before its padding, where the pipeline puts a chat around the prompt
CHATS = {
    "flux2": "without speculation.[/SYSTEM_PROMPT][INST]{}[/INST]",
    "flux2-klein": CHAT + THOUGHTS,
    "ovis": "of the objects and background: {}<|im_end|>\n<|im_start|>assistant\n" + THOUGHTS,
}
# tokens of three words: one is whole, one is a beginning and an ending, one falls into letters
WORDS = {"circle": 1, "zebra": 2, "wug": 3}


@MODELS
def test_it_draws_the_same_image_again(model: TinyModel) -> None:
    pipe = model.build()
    image = model.generate(pipe)
    assert image.isfinite().all()
    assert image.std() > 0.02
    assert torch.equal(model.generate(pipe), image)
    assert torch.equal(model.generate(model.build()), image)


@WITH_TEXT
def test_the_prompt_shows_in_the_image(name: str) -> None:
    model = TINY[name]
    pipe = model.build()
    assert (model.generate(pipe, "a red ball") - model.generate(pipe, "a blue ball")).abs().max() > 1e-4


@MODELS
def test_it_is_small_and_no_weight_of_the_denoiser_is_zero(model: TinyModel) -> None:
    pipe = model.build()
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    parts.pop("movq", None)  # its norms have 32 groups, so that it cannot be as small
    assert sum(weight.numel() for part in parts.values() for weight in part.parameters()) < 200_000
    assert not any(part.training for part in parts.values())
    assert all(weight.any() for weight in model.denoiser(pipe).parameters())


@WITH_TEXT
@pytest.mark.parametrize(("word", "count"), WORDS.items())
def test_a_word_is_found_by_its_characters_and_by_decoding(name: str, word: str, count: int) -> None:
    model, prompt = TINY[name], f"a {word} on the ball"
    pipe = model.build()
    ids, at, tokens = encoded(model, pipe, prompt)[0], positions(model, pipe, prompt, word), tokenizer(model, pipe)
    assert len(at) == count
    if not tokens.is_fast:
        pytest.skip(f"{type(tokens).__name__} is written in Python and has no offsets")
    begin = prompt.index(word)
    cut = tokens(prompt, add_special_tokens=False, return_offsets_mapping=True)
    # the mark of a space, alone, has the characters of the letter behind it
    inside = [
        token
        for token, (first, last) in zip(cut["input_ids"], cut["offset_mapping"], strict=True)
        if first < begin + len(word) and last > begin and tokens.decode([token]).strip()
    ]
    dropped = model.text.dropped(pipe)
    assert ids[[place + dropped for place in at]].tolist() == inside


def test_kolors_pads_on_the_left_behind_its_prefix() -> None:
    kolors = TINY["kolors"]
    pipe = kolors.build()
    ids = encoded(kolors, pipe, PROMPT)[0].tolist()
    assert positions(kolors, pipe, PROMPT, "square") == [len(ids) - 1]
    padding = ids.count(pipe.tokenizer.pad_token_id)
    assert padding and set(ids[:padding]) == {pipe.tokenizer.pad_token_id}
    special = [pipe.tokenizer.get_command(token) for token in ("[gMASK]", "sop")]
    assert ids[padding : padding + 2] == special


@pytest.mark.parametrize("name", CHATS)
def test_the_chat_of_the_class_is_around_the_prompt(name: str) -> None:
    model = TINY[name]
    pipe = model.build()
    tokens = tokenizer(model, pipe)
    ids = encoded(model, pipe, PROMPT)[0]
    assert tokens.decode(ids[ids != tokens.pad_token_id]).endswith(CHATS[name].format(PROMPT))


def test_flux2_pads_on_the_left_and_ovis_keeps_the_colon() -> None:
    flux2, ovis = TINY["flux2"], TINY["ovis"]
    pipe = flux2.build()
    assert encoded(flux2, pipe, PROMPT)[0, 0] == tokenizer(flux2, pipe).pad_token_id
    pipe = ovis.build()
    first = ovis.text.dropped(pipe)
    assert tokenizer(ovis, pipe).decode(encoded(ovis, pipe, PROMPT)[0, first]) == ":"
