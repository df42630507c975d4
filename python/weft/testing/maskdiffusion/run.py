"""Steps (c) to (e) and (j), and the generation around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.testing.maskdiffusion.edit import edit_cross, edit_self, related_pixels, token_weights
from weft.testing.maskdiffusion.prompt import EagerObject, encode, find_objects, prompt_length, swapped_embedding
from weft.testing.maskdiffusion.search import SIZES, Found, protect, search
from weft.testing.maskdiffusion.switches import RELEASED, Switches

EDITED_SHARE = 0.3  # of all steps: 15 of 50
CROSS_FROM, SELF_FROM = 2, 1  # first step edited
REFRESHES = 4  # regions are chosen after each of the first steps
EXPONENT = 5  # of the strength in time
SELF_GAIN = 0.3  # strength of self-attention over that of cross-attention
CELL = 4  # side of a cell of the map grid, in latent pixels

Box = tuple[int, int, int, int]  # left, top, right, bottom in image pixels


@dataclass
class EagerRun:
    """What happened in one generation.

    Attributes:
        objects: In the order of the phrases; equal phrases are one object.
        strengths: lambda of every step.
        maps: [tokens, h * w], the mean over the steps so far, of every edited step.
        regions: One ``Found`` an object, of every refresh; empty with boxes.
        latents: [1, C, h, w] after the last step.
    """

    objects: list[EagerObject] = field(default_factory=list)
    strengths: list[float] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)
    regions: list[list[Found]] = field(default_factory=list)
    latents: Tensor | None = None


class EagerMaskDiffusion:
    """What the processors of one generation share.

    Args:
        pipe: A stock Stable Diffusion pipeline.
        prompt, phrases: The text and the objects in it.
        steps: How many there will be.
        latent_size: (h, w).
        guided: Whether the first half of every batch is unconditional.
        boxes: By phrase, for all objects or none.
        sizes: (height, width) of the windows to try; those of a 16 x 16 grid by default.
        map_grid: (h, w) of the maps; None for a quarter of the latent.
        switches: Which of the released code's accidents to keep.

    Attributes:
        step, strength: Of the running pass; assign to ``step`` to go elsewhere.
        run: What happened so far.
    """

    def __init__(
        self,
        pipe: Any,
        prompt: str,
        phrases: Sequence[str],
        *,
        steps: int,
        latent_size: tuple[int, int],
        guided: bool = True,
        boxes: Mapping[str, Box] | None = None,
        sizes: Sequence[tuple[int, int]] = SIZES,
        map_grid: tuple[int, int] | None = None,
        switches: Switches = RELEASED,
    ) -> None:
        self.switches = switches
        self.guided = guided
        self.edited_steps = round(EDITED_SHARE * steps)
        self.latent_size = latent_size
        self.map_grid = map_grid or (latent_size[0] // CELL, latent_size[1] // CELL)
        self.sizes = sizes
        levels = range(len(pipe.unet.config.block_out_channels))
        self.grids = [(-(-latent_size[0] // 2**level), -(-latent_size[1] // 2**level)) for level in levels]

        self.run = EagerRun(find_objects(pipe.tokenizer, prompt, phrases))
        self.embedding = swapped_embedding(pipe, prompt, self.run.objects)
        self.empty = encode(pipe, "")
        self.tail = prompt_length(pipe.tokenizer, prompt, switches.length_source) - switches.tail_from
        self.boxes = None if boxes is None else [boxes[found.phrase] for found in self.run.objects]
        self.pixel = pipe.vae_scale_factor

        self.step, self.strength = -1, 0.0
        self.collected: list[Tensor] = []  # of this pass, [tokens, h * w] a layer
        self.sum: Tensor | None = None  # over the passes so far
        self.weights: dict[int, Tensor] = {}  # M by number of pixels
        self.related: dict[int, Tensor] = {}  # G > 0, likewise

    # --- around a pass ----------------------------------------------------------------------------------------------

    def begin_step(self, timestep: float) -> None:
        self.step += 1
        self.strength = (timestep / 1000) ** EXPONENT
        self.run.strengths.append(self.strength)
        self.collected = []

    def end_step(self) -> None:
        if self.step >= self.edited_steps:
            return
        new = torch.stack(self.collected).mean(0)  # (c)
        self.sum = new if self.sum is None else self.sum + new
        self.run.maps.append(self.sum / (self.step + 1))  # (d)
        if self.step < REFRESHES:  # (e)
            self.cover(self.regions(self.run.maps[-1]) if self.boxes is None else self.boxed())

    def regions(self, maps: Tensor) -> Tensor:
        """(f), (g): bool [n, h, w] on the latent."""
        objects = self.run.objects
        found = search(
            protect(maps, [(each.head, each.span) for each in objects], self.map_grid),
            [each.head for each in objects],
            self.map_grid,
            self.sizes,
            margin=self.switches.search_margin,
            exclusion=self.switches.exclusion,
            fallback=self.switches.fallback,
        )
        self.run.regions.append(found)
        covered = torch.zeros(len(objects), *self.map_grid, dtype=torch.bool, device=maps.device)
        for region, (top, left, height, width) in zip(covered, (each.rectangle for each in found), strict=True):
            region[top : top + height, left : left + width] = True
        rows, columns = (self.latent_size[axis] // self.map_grid[axis] for axis in (0, 1))
        return covered.repeat_interleave(rows, 1).repeat_interleave(columns, 2)

    def boxed(self) -> Tensor:
        """(j): bool [n, h, w] on the latent."""
        assert self.boxes is not None
        covered = torch.zeros(len(self.boxes), *self.latent_size, dtype=torch.bool, device=self.embedding.device)
        for region, box in zip(covered, self.boxes, strict=True):
            left, top, right, bottom = (side // self.pixel for side in box)
            region[top:bottom, left:right] = True
        return covered

    def cover(self, covered: Tensor) -> None:
        """(h): M and G of every grid, from bool [n, h, w] on the latent."""
        objects, tokens = self.run.objects, len(self.embedding)
        for grid in self.grids:
            at_grid = F.interpolate(covered[:, None].float(), grid, mode="nearest").flatten(1) > 0  # [n, pixels]
            pixels = at_grid.shape[1]
            self.weights[pixels] = token_weights(at_grid, objects, tokens, self.tail, self.embedding.dtype)
            self.related[pixels] = related_pixels(at_grid)

    # --- within a layer ---------------------------------------------------------------------------------------------

    def conditional(self, batch: int) -> slice:
        return slice(batch // 2 if self.guided else 0, batch)

    def text(self, given: Tensor) -> Tensor:
        """(b): what a cross-attention sees instead of ``given`` [B, tokens, C]."""
        if self.switches.swap_steps == "edited" and self.step >= self.edited_steps:
            return given
        text, rows = given.clone(), self.conditional(len(given))
        if not self.switches.keep_negative:
            text[:] = self.empty
            text[rows] = self.embedding
        for found in self.run.objects:
            text[rows, found.first : found.head + 1] = self.embedding[found.first : found.head + 1]
        return text

    def edit(self, logits: Tensor, is_cross: bool) -> Tensor:
        """(i): S~ of the conditional rows, [b, H, pixels, keys]."""
        pixels = logits.shape[2]
        if is_cross and CROSS_FROM <= self.step < self.edited_steps:
            return edit_cross(logits, self.weights[pixels], self.strength, self.switches.double_logits)
        if not is_cross and SELF_FROM <= self.step < self.edited_steps:
            return edit_self(logits, self.related[pixels], SELF_GAIN * self.strength)
        return logits

    def is_tapped(self, place: str, is_cross: bool, pixels: int) -> bool:
        """(c): whether this layer's map is wanted."""
        of_grid = pixels == self.map_grid[0] * self.map_grid[1]
        return is_cross and of_grid and place in ("down", "up") and self.step < self.edited_steps

    def collect(self, probabilities: Tensor) -> None:
        """(c): the map of one layer, from its conditional rows [1, H, pixels, tokens]."""
        self.collected.append(probabilities[0].mean(0).T)


class EagerProcessor:
    """The processor of a layer of the "down", "mid" or "up" blocks.

    Like the released one it materialises the probabilities at every step and ignores key-padding masks.
    """

    def __init__(self, state: EagerMaskDiffusion, place: str) -> None:
        self.state = state
        self.place = place

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        state, is_cross = self.state, encoder_hidden_states is not None
        source = hidden_states if encoder_hidden_states is None else state.text(encoder_hidden_states)
        q, k, v = (
            x.unflatten(2, (attn.heads, -1)).transpose(1, 2)  # [B, H, N, D]
            for x in (attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source))
        )
        logits = q @ k.transpose(-1, -2) * attn.scale
        rows = state.conditional(len(logits))
        tapped = state.is_tapped(self.place, is_cross, logits.shape[2])
        if tapped and not state.switches.map_feedback:
            state.collect(logits[rows].softmax(-1))
        logits[rows] = state.edit(logits[rows], is_cross)
        probabilities = logits.softmax(-1)
        if tapped and state.switches.map_feedback:
            state.collect(probabilities[rows])
        out: Tensor = attn.to_out[0]((probabilities @ v).transpose(1, 2).flatten(2))
        return out


@contextmanager
def eager_processors(unet: Any, state: EagerMaskDiffusion) -> Iterator[None]:
    """``unet`` with an ``EagerProcessor`` in every layer; ``state`` learns of the steps from its passes."""
    before = dict(unet.attn_processors)
    unet.set_attn_processor({name: EagerProcessor(state, name.split("_")[0]) for name in before})
    hooks = [
        unet.register_forward_pre_hook(lambda module, args: state.begin_step(float(args[1]))),
        unet.register_forward_hook(lambda module, args, output: state.end_step()),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        unet.set_attn_processor(before)


@torch.no_grad()
def maskdiffusion_eager(
    pipe: Any,
    prompt: str,
    phrases: Sequence[str],
    *,
    latents: Tensor,
    steps: int = 50,
    guidance_scale: float = 7.5,
    negative_prompt: str | None = None,
    boxes: Mapping[str, Box] | None = None,
    sizes: Sequence[tuple[int, int]] = SIZES,
    map_grid: tuple[int, int] | None = None,
    switches: Switches = RELEASED,
) -> EagerRun:
    """Make one image with a stock Stable Diffusion pipeline, and report how.

    Args:
        pipe, prompt, phrases, steps, boxes, sizes, map_grid, switches: As in ``EagerMaskDiffusion``. The sampler must
            ask the denoiser once a step, as DDIM does.
        latents: [1, C, h, w], the noise to begin with.
        guidance_scale: 1 for no guidance; then every row is conditional.
        negative_prompt: Used only with ``keep_negative``.

    Raises:
        ValueError: A phrase is not in the prompt.

    Source:
        MaskDiffusion, arXiv:2309.04399, as released.
    """
    h, w = latents.shape[2:]
    state = EagerMaskDiffusion(
        pipe,
        prompt,
        phrases,
        steps=steps,
        latent_size=(h, w),
        guided=guidance_scale > 1,
        boxes=boxes,
        sizes=sizes,
        map_grid=map_grid,
        switches=switches,
    )
    with eager_processors(pipe.unet, state):
        state.run.latents = pipe(
            prompt,
            negative_prompt=negative_prompt,
            height=h * pipe.vae_scale_factor,
            width=w * pipe.vae_scale_factor,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            latents=latents.clone(),
            output_type="latent",
        ).images
    return state.run
