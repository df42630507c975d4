"""A control that exchanges the conditioning of a pass, and texts encoded as the prompt was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from torch import Tensor

import weft
from weft.attach import Control, Generation, Step
from weft.attach.text.prompt import Prompt
from weft.testing import assert_differs


class Exchange(Control):
    """Gives ``other`` in place of the prompt's rows at chosen steps."""

    def __init__(self, other: Tensor, steps: tuple[int, ...]) -> None:
        self.other, self.steps = other, steps
        self.kept: Tensor | None = None

    def replace_text(self, text: Tensor, step: Step) -> Tensor:
        if step.index not in self.steps:
            return text
        if self.kept is None:
            self.kept = text.clone()
            self.kept[step.conditional] = self.other
        return self.kept


class Listen(Control):
    def begin_generation(self, generation: Generation) -> None:
        self.generation = generation


def run(pipe: Any, prompt: str, **changes: Any) -> Tensor:
    torch.manual_seed(1)
    return pipe(prompt, num_inference_steps=3, output_type="latent", **changes).images


def test_conditioning_is_exchanged_at_every_step(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    other, _ = pipe.encode_prompt("a blue square", "cpu", 1, False)
    wanted = run(pipe, "a blue square")
    control = Exchange(other, (0, 1, 2))
    with weft.attach(pipe, control) as attachment:
        assert torch.equal(run(pipe, "a red circle"), wanted)
        layers = sum(name.endswith("attn2") for name in attachment.changed)
        assert attachment.text_cache.misses == layers, "the exchanged conditioning is projected once"
        assert attachment.text_cache.hits == 2 * layers


def test_conditioning_is_exchanged_at_some_steps(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    other, _ = pipe.encode_prompt("a blue square", "cpu", 1, False)
    red, blue = run(pipe, "a red circle"), run(pipe, "a blue square")
    with weft.attach(pipe, Exchange(other, (0,))):
        found = run(pipe, "a red circle")
    assert_differs(found, red)
    assert_differs(found, blue)


@pytest.mark.parametrize("by_name", [True, False], ids=["keyword", "positional"])
def test_a_bare_model_takes_it_either_way(by_name: bool) -> None:
    torch.manual_seed(0)
    model = tiny.unet()
    sample, text, other = torch.randn(1, 4, 16, 16), torch.randn(1, 5, 32), torch.randn(1, 5, 32)
    wanted = model(sample, 5, other).sample
    with weft.attach(model, Exchange(other, (0,))):
        found = model(sample, 5, encoder_hidden_states=text) if by_name else model(sample, 5, text)
    assert torch.equal(found.sample, wanted)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_other_texts_are_encoded_as_the_prompt_was(family: str, tmp_path: Path) -> None:
    pipe = getattr(tiny, family)(tmp_path)
    listen = Listen()
    with weft.attach(pipe, listen):
        torch.manual_seed(1)
        pipe("a red circle", negative_prompt="ball", num_images_per_prompt=2, num_inference_steps=1)
    prompt = listen.generation.prompt
    assert prompt is not None
    assert prompt.length(0) == prompt.length(1) == 5
    encoded = prompt.encode(["a red circle", "blue square"])
    alone = pipe.encode_prompt("blue square", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    torch.testing.assert_close(encoded[0], prompt.embeddings[0])
    torch.testing.assert_close(encoded[1], alone[0][0])


def test_the_size_of_the_image_is_known(tmp_path: Path) -> None:
    pipe, listen = tiny.sd1(tmp_path), Listen()
    with weft.attach(pipe, listen):
        pipe("ball", num_inference_steps=1, height=48, width=32)
    assert listen.generation.image_size == (48, 32)
    assert listen.generation.latent_size == (24, 16)


def test_texts_need_a_pipeline() -> None:
    with pytest.raises(ValueError, match="attach the pipeline, not its model"):
        Prompt(None, 1, False, torch.zeros(1, 5, 32)).encode(["ball"])
    with pytest.raises(ValueError, match="without their text"):
        Prompt(None, 1, False, torch.zeros(1, 5, 32)).length(0)
