"""Which generation and which step a pass of the denoiser belongs to, learnt from its arguments alone.

Pipelines are not asked: custom loops, callbacks and compiled pipelines all end in the same call of the denoiser.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from weft.attach.records import PIXELS_PER_CELL, DenoiserCall, Generation, Step
from weft.attach.text.prompt import Prompt


class GenerationTracker:
    """Counts generations and steps.

    A generation begins when ``encode_prompt`` was called since the last pass, when the timestep rises, or after
    ``reset``. A new conditioning tensor is no sign: callbacks swap it midway (to end guidance early), and custom
    loops make a new one every step. A repeated timestep is the same step, as second-order samplers need.
    """

    def __init__(self, pixels: int = PIXELS_PER_CELL) -> None:
        """``pixels`` of the image lie along each side of a cell of the latent."""
        self._pixels = pixels
        self._schedule = _Schedule()
        self.reset()
        self._generations = 0

    def reset(self) -> None:
        """Let the next pass begin a generation, and forget the prompt."""
        self._announced: Prompt | None = None
        self._prompt: Prompt | None = None
        self._step: Step | None = None

    def announce(self, prompt: Prompt) -> None:
        """``encode_prompt`` was called: the next pass begins a generation with this prompt."""
        self._announced = prompt

    def advance(self, call: DenoiserCall) -> Step:
        """The step that ``call`` belongs to; its ``generation`` is a new object when one begins."""
        timestep = self._schedule.value(call.timestep)
        last = self._step
        batch, seqlen_k = call.text.shape[:2]
        if last is None or self._announced is not None or timestep > last.timestep:
            generation, index = self._begin(call), 0
        else:
            generation = last.generation
            index = last.index if timestep == last.timestep else last.index + 1
        self._step = Step(index, timestep, generation, batch, seqlen_k, call.is_perturbed)
        return self._step

    def cancel(self) -> None:
        """The generation that ``advance`` began came to nothing: let the next pass begin another."""
        self._step = None

    def _begin(self, call: DenoiserCall) -> Generation:
        prompt = self._prompt
        if self._announced is not None:
            prompt = self._prompt = self._announced
            self._announced = None
        elif prompt is not None and not _carries(call.text, prompt):
            # a sampler that shares the denoiser, or embeddings from elsewhere: these are other words
            prompt = None
        height, width = call.sample.shape[-2:]
        generation = Generation(
            index=self._generations,
            prompt=prompt,
            latent_size=(height, width),
            image_size=(height * self._pixels, width * self._pixels),
            images=call.text.shape[0] if prompt is None else prompt.images,
            device=call.text.device,
            dtype=torch.promote_types(call.text.dtype, torch.float32),
            model_dtype=call.sample.dtype,
        )
        self._generations += 1
        return generation


def _carries(text: Tensor, prompt: Prompt) -> bool:
    """Whether the conditioning holds the embeddings of ``prompt``. Reads values, so once per generation at most."""
    try:
        rows = text[prompt.conditional_rows(text.shape[0])]
    except ValueError:
        return False
    known = prompt.embeddings
    return rows.shape == known.shape and rows.device == known.device and bool(torch.equal(rows, known.to(rows.dtype)))


class _Schedule:
    """Timesteps as numbers, with one transfer per schedule instead of one per step.

    Samplers iterate over a tensor of timesteps, so each timestep is a view into it, for some models expanded over the
    batch; reading such a view on a GPU would make the host wait for the device at every step.
    """

    def __init__(self) -> None:
        self._tensor: weakref.ref[Tensor] | None = None
        self._version = -1
        self._values: list[float] = []

    def value(self, timestep: Tensor | float) -> float:
        if not isinstance(timestep, Tensor):
            return float(timestep)
        schedule = None if timestep.is_inference() else timestep._base
        is_one = all(stride == 0 for stride in timestep.stride())
        if timestep.device.type == "cpu" or not is_one or schedule is None or not schedule.is_contiguous():
            return float(timestep.flatten()[0])
        if self._tensor is None or self._tensor() is not schedule or self._version != schedule._version:
            self._tensor, self._version = weakref.ref(schedule), schedule._version
            self._values = schedule.flatten().tolist()
        return float(self._values[timestep.storage_offset() - schedule.storage_offset()])
