"""Rows are found by the text that they carry, whatever order a pipeline or a loop of one's own puts them in."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from diffusers import (
    DDIMInverseScheduler,
    DPMSolverSDEScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    StableDiffusionPipeline,
)
from diffusers.utils import is_torchsde_available
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TINY
from torch import Tensor

import weft
from weft.attach import Control, Generation, Step
from weft.attach.text.known_texts import KnownTexts
from weft.attach.text.prompt import Prompt

PROMPT, NEGATIVE = "a red circle and a blue square", "a green ball and a green ball"


@pytest.fixture
def pipe(tmp_path: Path) -> Any:
    return tiny.sd1(tmp_path)


def latent(seed: int = 0) -> Tensor:
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def encode(pipe: Any, prompt: str, negative: str | None = None) -> tuple[Tensor, Tensor]:
    """Embeddings of a prompt and of a negative prompt."""
    text, other = pipe.encode_prompt(prompt, "cpu", 1, negative is not None, negative_prompt=negative)
    return text, other


class Diary(Control):
    """Notes every pass, and when a generation begins."""

    def __init__(self) -> None:
        self.generations: list[Generation] = []
        self.steps: list[Step] = []

    def begin_generation(self, generation: Generation) -> None:
        self.generations.append(generation)

    def end_pass(self, step: Step) -> None:
        self.steps.append(step)

    @property
    def rows(self) -> list[slice | None]:
        """Of every pass the rows that carry the prompt; None for none."""
        return [step.conditional if step.has_rows else None for step in self.steps]


# --- loops of one's own ----------------------------------------------------------------------------------------------


def sample(pipe: Any, split: bool) -> Tensor:
    """Guidance in one batch [negative, prompt], or ``split`` into two passes."""
    text, negative = encode(pipe, PROMPT, NEGATIVE)
    pipe.scheduler.set_timesteps(6)
    x = latent()
    with torch.no_grad():
        for t in pipe.scheduler.timesteps:
            if split:
                away, towards = (pipe.unet(x, t, encoder_hidden_states=states).sample for states in (negative, text))
            else:
                both = torch.cat([negative, text])
                away, towards = pipe.unet(torch.cat([x, x]), t, encoder_hidden_states=both).sample.chunk(2)
            x = pipe.scheduler.step(away + 4 * (towards - away), t, x).prev_sample
    return x


def test_maps_with_guidance_in_two_passes_are_those_of_one_batch(pipe: Any) -> None:
    maps = {}
    for split in (False, True):
        with weft.attach(pipe, weft.AttentionMaps("circle")) as attachment:
            sample(pipe, split)
            maps[split] = attachment.maps["circle"]
    torch.testing.assert_close(maps[True], maps[False], atol=1e-5, rtol=0)


def test_an_edit_with_guidance_in_two_passes_is_that_of_one_batch(pipe: Any) -> None:
    plain, latents = sample(pipe, False), {}
    for split in (False, True):
        with weft.attach(pipe, weft.MaskDiffusion(mode="clean")):
            latents[split] = sample(pipe, split)
    scale = plain.abs().max().item()
    assert (latents[False] - plain).abs().max().item() > 1e-2 * scale
    assert (latents[True] - latents[False]).abs().max().item() <= 1e-4 * scale


def invert(pipe: Any, *controls: Control) -> None:
    """Timesteps that rise."""
    schedule = DDIMInverseScheduler.from_config(pipe.scheduler.config)
    schedule.set_timesteps(5)
    with weft.attach(pipe, *controls), torch.no_grad():
        text, _ = encode(pipe, "a red circle")
        x = latent()
        for t in schedule.timesteps:
            x = schedule.step(pipe.unet(x, t, encoder_hidden_states=text).sample, t, x).prev_sample


def test_an_inversion_is_one_generation(pipe: Any) -> None:
    each, mean, diary = weft.AttentionMaps("circle", reduce="layers"), weft.AttentionMaps("circle"), Diary()
    invert(pipe, each, mean, diary)
    assert len(diary.generations) == 1
    assert each.maps.steps == tuple(range(5))
    maps = each.maps["circle"]
    assert (maps[0] - maps[-1]).abs().max() > 1e-4
    torch.testing.assert_close(mean.maps["circle"], maps.mean(0), atol=1e-6, rtol=0)
    # and another run of the same loop is another generation
    again = weft.AttentionMaps("circle")
    invert(pipe, again)
    torch.testing.assert_close(again.maps["circle"], mean.maps["circle"], atol=1e-6, rtol=0)


def test_every_word_is_read_in_its_own_of_several_prompts(pipe: Any) -> None:
    regions = {"circle": "a red circle on a ball", "square": "a ball and a blue square"}

    def run(words: Sequence[str], prompts: Sequence[str]) -> dict[str, Tensor]:
        control = weft.AttentionMaps(list(words), missing="zero")
        with weft.attach(pipe, control), torch.no_grad():
            texts = [encode(pipe, prompt)[0] for prompt in prompts]
            for step, t in enumerate((900, 600, 300)):
                for text in texts:
                    pipe.unet(latent(step), t, encoder_hidden_states=text)
        return dict(control.maps)

    together = run(("circle", "square", "ball"), list(regions.values()))
    alone = {word: run((word, "ball"), (prompt,)) for word, prompt in regions.items()}
    for word in regions:
        torch.testing.assert_close(together[word], alone[word][word], atol=1e-6, rtol=0)
    both = torch.stack([maps["ball"] for maps in alone.values()]).mean(0)
    torch.testing.assert_close(together["ball"], both, atol=1e-6, rtol=0)


def test_passes_whose_text_is_unknown_are_not_read(pipe: Any) -> None:
    maps = {}
    for others in (False, True):
        with weft.attach(pipe, weft.AttentionMaps("circle"), diary := Diary()) as attachment, torch.no_grad():
            text, _ = encode(pipe, PROMPT)
            for step, t in enumerate((900, 600, 300)):
                pipe.unet(latent(step), t, encoder_hidden_states=text)
                if others:
                    pipe.unet(latent(step), t, encoder_hidden_states=text + 1)
            maps[others] = attachment.maps["circle"]
        assert diary.rows == [slice(0, 1), None] * 3 if others else [slice(0, 1)] * 3
    assert torch.equal(maps[True], maps[False])


# --- orders of the rows of a pipeline --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("sdxl-instruct-pix2pix", [slice(0, 1)]),  # [prompt, negative, negative]
        ("kolors", [slice(1, 2)]),
        ("bria", [slice(1, 2)]),
        ("chroma", [slice(0, 1), None]),
        ("longcat", [slice(0, 1), None]),
        ("ovis", [slice(0, 1), None]),
    ],
)
def test_rows_of_the_prompt_in_the_order_of_the_pipeline(name: str, rows: list[slice | None]) -> None:
    model = TINY[name]
    pipe = model.build()
    with weft.attach(pipe, diary := Diary()):
        model.generate(pipe)
        assert diary.rows == 2 * rows
        assert [step.index for step in diary.steps] == sorted([0, 1] * len(rows))
        # a negative prompt that was the prompt before
        model.generate(pipe, "a blue ball", negative_prompt="a red circle and a blue square")
        assert diary.rows == 4 * rows
    assert len(diary.generations) == 2


def test_rows_of_several_images_lie_together(pipe: Any) -> None:
    with weft.attach(pipe, diary := Diary()):
        tiny.generate(pipe, prompt=[PROMPT, "a blue ball"], num_images_per_prompt=2)
    assert {(step.batch, step.conditional.start, step.conditional.stop) for step in diary.steps} == {(8, 4, 8)}


def test_a_negative_prompt_that_was_a_prompt_is_not_read(pipe: Any) -> None:
    call = {"prompt": "a blue ball and a circle", "negative_prompt": "a red circle"}
    with weft.attach(pipe, weft.AttentionMaps("circle")) as attachment:
        tiny.generate(pipe, **call)
        expected = attachment.maps["circle"]
    with weft.attach(pipe, weft.AttentionMaps("circle")) as attachment:
        tiny.generate(pipe, prompt="a red circle")
        tiny.generate(pipe, **call)
        assert torch.equal(attachment.maps["circle"], expected)


# --- prompts that change midway --------------------------------------------------------------------------------------

STEPS = 6


def swapping(pipe: Any, make: Callable[[], Tensor]) -> Tensor:
    """A generation of "a red circle" that goes on with the embeddings of ``make`` from its middle."""

    def change(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {**tensors, "prompt_embeds": make()} if step == STEPS // 2 - 1 else tensors

    call = {"num_inference_steps": STEPS, "callback_on_step_end": change}
    images: Tensor = tiny.generate(
        pipe, prompt="a red circle", callback_on_step_end_tensor_inputs=["prompt_embeds"], **call
    )
    return images


def test_embeddings_exchanged_in_a_callback_end_the_reading_of_a_word(pipe: Any) -> None:
    text, negative = encode(pipe, "a square", "")
    swapped = torch.cat([negative, text])
    with weft.attach(pipe, weft.AttentionMaps("red", steps=range(STEPS // 2))) as attachment:
        tiny.generate(pipe, prompt="a red circle", num_inference_steps=STEPS)
        expected = attachment.maps["red"]
    with weft.attach(pipe, weft.AttentionMaps("red"), diary := Diary()) as attachment:
        swapping(pipe, lambda: swapped)
        assert torch.equal(attachment.maps["red"], expected)
    assert diary.rows == [slice(1, 2)] * 3 + [None] * 3


def test_a_prompt_encoded_in_a_callback_is_the_same_generation(pipe: Any) -> None:
    def encoded() -> Tensor:
        return torch.cat(encode(pipe, "a square", "")[::-1])

    stock = swapping(pipe, encoded)
    maps = weft.AttentionMaps(["red", "a"], missing="raise", reduce="layers")
    with weft.attach(pipe, maps, diary := Diary()):
        images = swapping(pipe, encoded)
    assert abs(images - stock).max() < 1e-4
    assert len(diary.generations) == 1
    assert diary.rows == [slice(1, 2)] * STEPS
    assert [step.index for step in diary.steps] == list(range(STEPS))
    assert maps.maps["a"].shape[0] == STEPS
    red = maps.maps["red"].flatten(1).amax(1)
    assert red[: STEPS // 2].min() > 0 and not red[STEPS // 2 :].any()


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        HeunDiscreteScheduler,
        KDPM2DiscreteScheduler,
        KDPM2AncestralDiscreteScheduler,
        pytest.param(
            DPMSolverSDEScheduler,
            marks=pytest.mark.skipif(not is_torchsde_available(), reason="diffusers needs torchsde for its noise"),
        ),
    ],
)
def test_a_sampler_of_second_order_counts_its_steps(pipe: Any, kind: Any) -> None:
    pipe.scheduler = kind.from_config({"beta_schedule": "scaled_linear"})
    with weft.attach(pipe, weft.AttentionMaps("circle", reduce="layers"), diary := Diary()) as attachment:
        tiny.generate(pipe, num_inference_steps=STEPS)
        assert attachment.maps.steps == tuple(range(STEPS))
    indices = [step.index for step in diary.steps]
    assert indices == sorted(indices)
    assert max(indices.count(step) for step in range(STEPS)) == 2


# --- calls -----------------------------------------------------------------------------------------------------------


def test_a_second_thread_is_refused(pipe: Any) -> None:
    errors: list[BaseException] = []

    def second(*args: Any) -> Any:
        def call() -> None:
            try:
                tiny.generate(pipe)
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return args[-1]

    with weft.attach(pipe, weft.AttentionMaps("circle")) as attachment:
        tiny.generate(pipe)
        expected = attachment.maps["circle"]
        tiny.generate(pipe, callback_on_step_end=second)
        assert torch.equal(attachment.maps["circle"], expected)
        assert len(errors) == 3
        assert all("runs in one thread at a time" in str(error) for error in errors)
        # one after the other is no harm
        thread = threading.Thread(target=lambda: tiny.generate(pipe))
        thread.start()
        thread.join()
        assert torch.equal(attachment.maps["circle"], expected)


def test_a_replaced_denoiser_is_noticed(pipe: Any) -> None:
    own = pipe.unet
    with weft.attach(pipe, weft.AttentionMaps("circle")):
        pipe.unet = tiny.unet()
        with pytest.raises(RuntimeError, match=r"`unet` of the pipeline was replaced.*detach"):
            tiny.generate(pipe)
        pipe.unet = own
        tiny.generate(pipe)


# --- the texts themselves --------------------------------------------------------------------------------------------

LAYOUTS = [("negative", "prompt"), ("prompt", "negative", "negative"), ("negative", "prompt", "prompt"), ("prompt",)]


@given(
    layout=st.sampled_from(LAYOUTS),
    prompts=st.integers(1, 3),
    repeats=st.integers(1, 3),
    older=st.integers(0, 3),
    guided=st.booleans(),
    copied=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_the_rows_of_a_text_are_found_in_any_layout(
    layout: tuple[str, ...], prompts: int, repeats: int, older: int, guided: bool, copied: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def made() -> Tensor:
        return torch.randn(prompts, 3, 4, generator=generator).repeat_interleave(repeats, 0)

    images = prompts * repeats
    texts = {"prompt": made(), "negative": made()}
    known = KnownTexts()
    for _ in range(older):
        known.announce(Prompt(None, images, guided, made()))
    prompt = Prompt(None, images, guided, texts["prompt"], negatives=(texts["negative"],))
    known.announce(prompt)
    batch = torch.cat([texts[part] for part in layout])
    if copied:
        assert known.match(batch) is known.match(batch)
        batch = batch.clone()
    match = known.match(batch)
    assert match.prompt is prompt and match.is_known
    starts = [images * place for place, part in enumerate(layout) if part == "prompt"]
    assert (match.rows.start, match.rows.stop) in {(start, start + images) for start in starts}
    assert torch.equal(batch[match.rows], texts["prompt"])

    negative = known.match(torch.cat([texts["negative"]] * 2))
    assert negative.prompt is None and negative.is_known and not batch[negative.rows].numel()
    unknown = known.match(batch + 1)
    assert unknown.prompt is None and not unknown.is_known and not batch[unknown.rows].numel()


@given(steps=st.permutations(["first", "second", "negative", "unknown"]))
def test_what_is_written_into_a_text_is_seen(steps: list[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    texts = {name: torch.randn(1, 3, 4, generator=generator) for name in steps}
    known = KnownTexts()
    prompts = {name: Prompt(None, 1, False, texts[name].clone()) for name in ("first", "second")}
    for prompt in prompts.values():
        known.announce(prompt)
    buffer = torch.empty(1, 3, 4)
    for name, _ in itertools.product(steps, range(2)):
        buffer.copy_(texts[name])
        assert known.match(buffer).prompt is prompts.get(name)


def test_a_text_that_is_announced_later_is_known_from_then_on() -> None:
    known, text = KnownTexts(), torch.ones(1, 3, 4)
    assert not known.match(text).is_known
    known.announce(prompt := Prompt(None, 1, False, text.clone()))
    assert known.match(text).prompt is prompt
    known.clear()
    assert not known.match(text).is_known


def test_the_negative_prompt_may_be_encoded_like_any_other_and_run_first() -> None:
    """In a loop of one's own around Flux no argument says which prompt is the negative one."""
    model = TINY["flux"]
    pipe = model.build()
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(8.0), torch.arange(12.0))
    found = []
    for first in ("a green ball", "a red circle"):
        with weft.attach(pipe, weft.AttentionMaps("circle")) as attachment, torch.no_grad():
            texts = ("a green ball", "a red circle")
            encoded = {text: pipe.encode_prompt(text, None, max_sequence_length=16) for text in texts}
            order = sorted(encoded, key=lambda text: text != first)
            channels = pipe.transformer.config.in_channels
            latent = torch.randn(1, 96, channels, generator=torch.Generator().manual_seed(1))
            for timestep in (1.0, 0.5):
                for text in order:
                    states, pooled, text_ids = encoded[text]
                    pipe.transformer(
                        hidden_states=latent,
                        encoder_hidden_states=states,
                        pooled_projections=pooled,
                        timestep=torch.tensor([timestep]),
                        guidance=torch.tensor([1.0]) if pipe.transformer.config.guidance_embeds else None,
                        img_ids=ids,
                        txt_ids=text_ids,
                    )
            found.append(attachment.maps["circle"])
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)
    assert found[0].max() > 0


class Rewriting(StableDiffusionPipeline):
    """Rewrites prompts before it encodes them, as some pipelines do with a language model."""

    def __call__(self, prompt: str, **options: Any) -> Any:
        return super().__call__(f"{prompt} on a ball", **options)


def test_a_prompt_that_the_pipeline_rewrites_is_no_negative_one(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path, Rewriting)
    with weft.attach(pipe, weft.AttentionMaps(["circle", "ball"])) as attachment:
        tiny.generate(pipe, prompt="a circle", negative_prompt="a square")
        assert attachment.maps["circle"].max() > 0 and attachment.maps["ball"].max() > 0
