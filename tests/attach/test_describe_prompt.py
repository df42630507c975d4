"""Words in embeddings that no ``encode_prompt`` of the pipeline made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from torch import Tensor

import weft

PROMPT = "a red circle and a blue square"


def encoded(pipe: Any, prompt: str = PROMPT, negative: str = "") -> tuple[Tensor, Tensor]:
    return pipe.encode_prompt(prompt, "cpu", 1, True, negative_prompt=negative)[:2]


def draw(pipe: Any, text: Tensor, negative: Tensor) -> None:
    tiny.generate(pipe, prompt=None, prompt_embeds=text, negative_prompt_embeds=negative)


def test_weighted_embeddings_are_read_where_their_words_are(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    text, negative = encoded(pipe)
    weighted = text.clone()
    weighted[:, 3] *= 1.4
    with weft.attach(pipe, weft.AttentionMaps("circle")) as attachment:
        attachment.describe_prompt(PROMPT, weighted, negative_embeds=negative)
        draw(pipe, weighted, negative)
        found = attachment.maps["circle"]
    with weft.attach(pipe, weft.AttentionMaps(3)) as attachment:
        draw(pipe, weighted, negative)
        assert torch.equal(found, attachment.maps[3])


def test_without_a_description_the_message_names_it(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    text, negative = encoded(pipe)
    with (
        weft.attach(pipe, weft.AttentionMaps("circle")),
        pytest.raises(ValueError, match=r"`prompt_embeds` without their text.*describe_prompt"),
    ):
        draw(pipe, text, negative)


def test_a_long_prompt_is_several_rows_of_the_text_encoder(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    limit = pipe.tokenizer.model_max_length
    fillers = limit - 2 - 2  # words that fill the first row but for two tokens
    prompt = " ".join(["a"] * fillers + ["red", "circle", "and", "a", "blue", "square"])
    halves = [prompt.split()[: limit - 2], prompt.split()[limit - 2 :]]
    text = torch.cat([encoded(pipe, " ".join(half))[0] for half in halves], 1)
    negative = torch.cat([encoded(pipe, "")[0]] * 2, 1)
    with weft.attach(pipe, weft.AttentionMaps(["circle", "square"])) as attachment:
        attachment.describe_prompt(prompt, text, negative_embeds=negative)
        draw(pipe, text, negative)
        maps = attachment.maps
    places = {"circle": 1 + fillers + 1, "square": limit + 1 + 3}
    with weft.attach(pipe, weft.AttentionMaps(list(places.values()))) as attachment:
        draw(pipe, text, negative)
        for word, place in places.items():
            assert torch.equal(maps[word], attachment.maps[place]), word


def test_what_cannot_be_described(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    text, _ = encoded(pipe)
    with (
        weft.attach(pipe) as attachment,
        pytest.raises(ValueError, match=r"as many images for each text; got \[1, \d+, 32\] for 2 texts"),
    ):
        attachment.describe_prompt(["a", "b"], text)
    with pytest.raises(RuntimeError, match="given back"):
        attachment.describe_prompt("a", text)
    with (
        weft.attach(pipe.unet) as attachment,
        pytest.raises(ValueError, match="need the tokenizer of a pipeline"),
    ):
        attachment.describe_prompt("a", text)


def test_unknown_text_is_left_alone_and_said_once(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe, weft.AttentionMaps("circle")) as attachment, torch.no_grad():
        text, _ = encoded(pipe)
        latent = torch.randn(1, 4, 16, 16)
        pipe.unet(latent, 900, text)
        read = attachment.maps["circle"].clone()
        with pytest.warns(
            UserWarning, match=r"carries text that `encode_prompt` did not make.*describe_prompt"
        ) as said:
            pipe.unet(latent, 800, text + 1)
            pipe.unet(latent, 700, text + 2)
        assert len(said) == 1
        assert torch.equal(attachment.maps["circle"], read)
