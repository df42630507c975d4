"""Words of a prompt that CLIP and T5 read: the positions of both, CLIP's first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_joint as tiny
import torch

import weft
from weft.attach import Control, Generation, Prompt

CLIP = 16  # tokens, after which T5's begin


class Listen(Control):
    def begin_generation(self, generation: Generation) -> None:
        assert generation.prompt is not None
        self.prompt: Prompt = generation.prompt


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.pipeline(tmp_path_factory.mktemp("joint"))


def encoded_prompt(pipe: Any, prompt: Any, **changes: Any) -> Prompt:
    with weft.attach(pipe, listen := Listen()):
        call = {"num_inference_steps": 1, "output_type": "latent", "max_sequence_length": 32, **changes}
        tiny.generate(pipe, prompt, **call)
    return listen.prompt


@pytest.mark.parametrize(
    ("text", "phrase", "positions"),
    [
        ("a red circle", "circle", (3, CLIP + 2)),  # T5 has no start token
        ("a red circle", "red circle", (2, 3, CLIP + 1, CLIP + 2)),
        ("a football and a ball", "ball", (6, CLIP + 5)),
        ("a football and a ball", "football", (2, 3, CLIP + 1, CLIP + 2)),
        ("circle and circle", "circle#2", (3, CLIP + 2)),
        ("a red circle", "Circle", (3,)),  # T5 minds the case
        ("red circle, blue", "circle", (2, CLIP + 1)),
    ],
)
def test_words_are_found_in_both(pipe: Any, text: str, phrase: str, positions: tuple[int, ...]) -> None:
    prompt = encoded_prompt(pipe, text)
    assert prompt.find(phrase, 0) == positions
    assert prompt.text_length == 32 and prompt.embeddings.shape[1] == CLIP + 32


def test_a_piece_of_a_longer_word_is_none(pipe: Any) -> None:
    prompt = encoded_prompt(pipe, "an apple", prompt_3="an apple")
    with pytest.raises(LookupError, match="'app' is not in the prompt 'an apple'"):
        prompt.find("app", 0)
    assert encoded_prompt(pipe, "app, app", prompt_3="apple app").occurrences("app", 0)[0][-1] > CLIP


def test_each_text_encoder_may_read_its_own_prompt(pipe: Any) -> None:
    prompt = encoded_prompt(pipe, "a red circle", prompt_3="a blue square and a red ball")
    assert prompt.find("circle", 0) == (3,)
    assert prompt.find("square", 0) == (CLIP + 2,)
    assert prompt.find("red", 0) == (2, CLIP + 5)
    assert prompt.length(0) == 5, "of CLIP's text"
    with pytest.raises(ValueError, match=r"'a' must name one place in the prompt 'a blue square and a red ball'"):
        prompt.find("a", 0)
    with pytest.raises(LookupError, match="'green' is not in the prompt 'a red circle'"):
        prompt.find("green", 0)
    with pytest.raises(ValueError, match=r"different positions for the pipeline's tokenizers: \[2\] and \[3\]"):
        encoded_prompt(pipe, "a circle", prompt_2="a red circle").find("circle", 0)


def test_what_one_does_not_reach_the_other_may(pipe: Any) -> None:
    long = "red " * 14 + "circle"
    assert encoded_prompt(pipe, long).find("circle", 0) == (CLIP + 14,)
    assert encoded_prompt(pipe, "red circle", max_sequence_length=2).find("circle", 0) == (2,)
    with pytest.raises(ValueError, match=r"'circle' is cut off: it ends at position 15"):
        encoded_prompt(pipe, long, max_sequence_length=4).find("circle", 0)


def test_occurrences_go_together(pipe: Any) -> None:
    prompt = encoded_prompt(pipe, "circle and circle", prompt_3="circle and circle and circle")
    assert prompt.occurrences("circle", 0) == ((1, CLIP), (3, CLIP + 2), (CLIP + 4,))


def test_without_a_t5_positions_are_clips(tmp_path: Path) -> None:
    prompt = encoded_prompt(tiny.pipeline(tmp_path, t5=False), "a red circle", max_sequence_length=5)
    assert prompt.find("circle", 0) == (3,) and prompt.text_length == 5
    assert prompt.embeddings.shape[1] == CLIP + 5


def test_embeddings_given_back_are_known(pipe: Any) -> None:
    with weft.attach(pipe, listen := Listen()):
        states, negative, pooled, negative_pooled = pipe.encode_prompt(
            "a red circle", None, None, max_sequence_length=9
        )
        tiny.generate(
            pipe,
            None,
            prompt_embeds=states,
            negative_prompt_embeds=negative,
            pooled_prompt_embeds=pooled,
            negative_pooled_prompt_embeds=negative_pooled,
        )
        assert listen.prompt.find("circle", 0) == (3, CLIP + 2) and listen.prompt.text_length == 9
        torch.testing.assert_close(listen.prompt.encode(["a red circle"]), states)
        assert listen.prompt.encode(["a", "ball"]).shape == (2, CLIP + 9, 64)
