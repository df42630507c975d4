"""Which generation, which step and which prompt a pass of the denoiser belongs to.

Callbacks, custom loops and compiled pipelines all end in the same call of the denoiser, so that its arguments decide;
a call of the pipeline, where there is one, says where a generation begins.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from weft.attach.records import PIXELS_PER_CELL, DenoiserCall, Generation, Step
from weft.attach.text.known_texts import KnownTexts, Match
from weft.attach.text.prompt import Prompt

# number of the sampler's entry in its schedule, and how many entries a step of it has; None where that is not known
Entry = Callable[[], tuple[int, int] | None]
LatentSize = Callable[[DenoiserCall], tuple[int, int]]


class GenerationTracker:
    """Counts generations and steps, and matches the text of every pass with a prompt.

    A call of the pipeline is one generation. Outside of calls, a generation begins when the timesteps turn back,
    whichever way they ran; when a prompt was announced and the timestep does not go on; or after ``reset``. A new
    conditioning tensor is no sign: callbacks exchange it midway, and custom loops make a new one every step.

    A step is an entry of the sampler's schedule, or as many as a sampler of a higher order takes for one step. Where
    the sampler is not known, it is a change of the timestep: passes at one timestep belong to one step.
    """

    def __init__(
        self,
        pixels: int = PIXELS_PER_CELL,
        entry: Entry = lambda: None,
        latent_size: LatentSize | None = None,
        noisiest: float = 1000.0,
    ) -> None:
        """
        Args:
            pixels: Of the image along each side of a cell of the latent.
            entry: Where the pipeline's sampler is; asked within its calls alone.
            latent_size: Of a pass; None where the latent itself has it.
            noisiest: The timestep of pure noise.
        """
        self.texts = KnownTexts()
        self._latent_size = latent_size or _shape
        self._pixels = pixels
        self._noisiest = noisiest
        self._entry = entry
        self._schedule = _Schedule()
        self._generations = 0
        self._in_call = False
        self.reset()

    def reset(self) -> None:
        """Let the next pass begin a generation, and forget the prompts."""
        self.texts.clear()
        self._announced: list[Prompt] = []  # since the last pass
        self.text_is_known = True  # of the last pass
        self._rises: bool | None = None
        self._position: _Position | None = None
        self._step: Step | None = None

    def begin_call(self) -> None:
        """The pipeline was called: its first pass begins a generation."""
        self._in_call, self._step, self._announced = True, None, []

    def end_call(self) -> None:
        """The call is over."""
        self._in_call, self._step = False, None

    @property
    def has_announcement(self) -> bool:
        """Whether a prompt was announced since the last pass."""
        return bool(self._announced)

    @property
    def has_begun(self) -> bool:
        """Whether a pass of the running generation was made."""
        return self._step is not None

    def announce(self, prompt: Prompt) -> None:
        """The embeddings of ``prompt`` are known from now on."""
        self.texts.announce(prompt)
        self._announced.append(prompt)

    def advance(self, call: DenoiserCall) -> Step:
        """The step that ``call`` belongs to; its ``generation`` is a new object when one begins."""
        timestep = self._schedule.value(call.timestep)
        match = self.texts.match(call.text)
        last = self._step
        if last is None or self._begins(timestep, last):
            generation, index = self._begin(call, match), 0
            self._rises, self._position = None, _Position(self._entry) if self._in_call else None
        else:
            moved = timestep != last.timestep
            if self._rises is None and moved:
                self._rises = timestep > last.timestep
            generation, index = last.generation, last.index + moved
            if self._position is not None:
                index = max(last.index, self._position.step(index, moved))
        self._announced = []
        self.text_is_known = match.is_known
        batch, seqlen_k = call.text.shape[:2]
        # with no prompt at all, every row counts as an image
        rows = slice(0, batch) if generation.prompt is None and match.prompt is None else match.rows
        self._step = Step(index, timestep, generation, batch, seqlen_k, match.prompt, rows, call.is_perturbed)
        return self._step

    def cancel(self) -> None:
        """The generation that ``advance`` began was refused: let the next pass begin another."""
        self._step = None

    def _begins(self, timestep: float, last: Step) -> bool:
        if self._in_call:
            return False
        if self._rises is None:
            return bool(self._announced)
        if timestep == last.timestep:
            return bool(self._announced)
        return (timestep > last.timestep) is not self._rises

    def _begin(self, call: DenoiserCall, match: Match) -> Generation:
        prompt = match.prompt
        # without a new announcement, unknown text is a sampler's that shares the denoiser: these are other words
        if prompt is None and (match.is_known or self._announced):
            prompt = next((known for known in self.texts.prompts if not known.is_negative), None)
        images = call.text.shape[0] if prompt is None else prompt.images
        further = (known for known in self._announced if known is not prompt and not known.is_negative)
        height, width = self._latent_size(call)
        generation = Generation(
            index=self._generations,
            prompt=prompt,
            latent_size=(height, width),
            image_size=(height * self._pixels, width * self._pixels),
            images=images,
            device=call.text.device,
            dtype=torch.promote_types(call.text.dtype, torch.float32),
            model_dtype=call.sample.dtype,
            noisiest=self._noisiest,
            further=tuple(known for known in further if known.images == images),
        )
        self._generations += 1
        return generation


def _shape(call: DenoiserCall) -> tuple[int, int]:
    height, width = call.sample.shape[-2:]
    return height, width


class _Position:
    """Where a generation is in the schedule of the pipeline's sampler."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        found = entry()  # some samplers know it before the first pass, others after their first step
        self._first = self._last = None if found is None else found[0]
        self._is_followed = True  # the sampler moves as the passes do, so it is the one that makes them

    def step(self, counted: int, moved: bool) -> int:
        """Number of the step; ``counted`` where the sampler does not say. ``moved``: at another timestep than last."""
        found = self._entry() if self._is_followed else None
        if found is None:
            return counted
        entry, order = found
        if moved and entry == self._last:
            self._is_followed = False
            return counted
        if self._first is None:
            self._first = entry - 1
        self._last = entry
        return (entry - self._first) // order


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
