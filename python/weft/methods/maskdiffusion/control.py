"""MaskDiffusion: every object of a prompt gets its own region of the image, found from the model's own attention."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from weft.attach import Control, Generation, LayerInfo, LayerRequest, Step
from weft.methods._call_text import call_text
from weft.methods.attention_maps import Token, TokenMaps
from weft.methods.maskdiffusion.joint_run import JointRun
from weft.methods.maskdiffusion.joint_settings import JOINT, JointSettings
from weft.methods.maskdiffusion.phrases import find_phrases
from weft.methods.maskdiffusion.picture import draw_regions
from weft.methods.maskdiffusion.run import Run
from weft.methods.maskdiffusion.settings import MODES, MaskDiffusionSettings
from weft.methods.maskdiffusion.words import Region, checked_boxes, checked_phrases, find_words, left_alone

if TYPE_CHECKING:
    from PIL import Image


class MaskDiffusion(Control):
    """Give every object of a prompt a region, so that none is lost and each keeps its attributes; no training.

    After each of the first steps the maps of the objects' head words are averaged, and the objects are given windows,
    apart from each other, that together hold the most of their maps. From then on, in the noisy part of the schedule,
    the logits of an object's tokens are pulled up inside its window and down outside, and pixels of one window attend
    to each other rather than to the rest; the background follows with less strength. No extra network passes. Not
    touched are rows without the prompt (unconditional guidance), all layers at later steps, and prompts with a single
    object. Windows of more than three objects are smaller, and an object for which no window fits is left alone.

    In a joint attention (Stable Diffusion 3, Flux and its kin) ``boxes`` must be given, and only the pixels of its box
    see the words of an object; ``JointSettings`` has the terms.

    Args:
        phrases: The objects as the prompt names them ("a red circle"), the same for every prompt, or one sequence a
            prompt. The n-th of several equal phrases is "a red circle#2". None to find noun phrases by themselves.
        boxes: Where objects go instead of where the maps say: phrase to (left, top, right, bottom) in pixels, or to a
            mask of the image's size (PIL image, array or tensor [h, w]; inside from a half on). Either every object
            has one or none; the phrases may then be left out. At most 5 where any overlap, else 16.
        mode: "clean", whose constants were chosen on the embedded models; "released", which repeats the released
            code with its accidents, on UNets alone; or settings of your own, ``MaskDiffusionSettings`` for UNets and
            ``JointSettings`` for joint attention, as in
            ``dataclasses.replace(weft.methods.maskdiffusion.MODES["clean"], region_share=0.3)``.
        strength: Factor on how far logits are moved; 1 is the mode's own, 0 nothing.
        steps: How long: a share of the noise schedule in (0, 1], or a number of first steps; None for what the mode
            says (0.5 when clean, 0.3 as released). UNets are never edited at the very first step. Samplers of one step
            there, and image-to-image that begins below that part of the schedule, are therefore left alone; there is
            a warning.
        parser: How phrases are found when none are given: "auto", "spacy", "rules" or "and"; see ``find_phrases`` in
            ``weft.methods.maskdiffusion.phrases``.

    Attributes:
        phrases: Per image the phrases in use; None before the first step.
        regions: int32 [images, n, 4], (top, left, height, width) in cells of ``maps``, that the last edited step
            followed; zeros where an object has none. None if no step was edited, and with boxes or shapes other
            than "window".

    Raises:
        TypeError, ValueError: An argument that is not as above. What depends on the prompt (a phrase that is not in
            it or overlaps another, too many objects, embeddings without text) is raised before the first step.

    Source:
        Zhou et al. 2023, arXiv:2309.04399, as in its released code. "clean" leaves out what looks accidental there;
        the joint choice of windows, their size and gap, the pushed-down tail, the weaker background and the slower
        fading are weft's own.
    """

    def __init__(
        self,
        phrases: Sequence[str] | Sequence[Sequence[str]] | None = None,
        *,
        boxes: Mapping[str, Region] | None = None,
        mode: str | MaskDiffusionSettings = "clean",
        strength: float = 1.0,
        steps: float | int | None = None,
        parser: str = "auto",
    ) -> None:
        self._settings, self._joint_settings = _checked_settings(mode)
        self._given_phrases = checked_phrases(phrases)
        self._boxes = checked_boxes(boxes, self._given_phrases)
        if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 <= strength <= 2:
            raise ValueError(f"MaskDiffusion: `strength` must be from 0 to 2; got {strength!r}")
        self._strength = float(strength)
        self._steps = None if steps is None else _checked_steps(steps)
        find_phrases("", parser)  # an unknown or missing parser raises now
        self._parser = parser
        self._mode = mode
        self.start_blank()

    def start_blank(self) -> None:
        self._layers: tuple[LayerInfo, ...] = ()
        self._run: Run | JointRun | None = None

    def __repr__(self) -> str:
        return call_text(
            MaskDiffusion,
            phrases=self._given_phrases,
            boxes=None if self._boxes is None else {name: _shown(region) for name, region in self._boxes.items()},
            mode=self._mode,
            strength=self._strength,
            steps=self._steps,
            parser=self._parser,
        )

    @property
    def phrases(self) -> tuple[tuple[str, ...], ...] | None:
        return None if self._run is None else tuple(words.phrases for words in self._run.words)

    @property
    def regions(self) -> Tensor | None:
        return None if self._run is None else self._run.finder.steering

    @property
    def maps(self) -> TokenMaps:
        """Mean maps of the objects' head words as regions were chosen from them, [images, h, w] each.

        By phrase where all images have the same, otherwise by number.

        Raises:
            ValueError: Nothing was read yet.
        """
        run = self._run
        if run is None or run.finder.maps is None:
            raise ValueError(
                "MaskDiffusion.maps: nothing was read; call the pipeline first, without boxes and with objects enough "
                "(two, unless the mode says otherwise)"
            )
        maps = run.finder.maps.float()
        names: Sequence[Token] = range(maps.shape[1])
        if len({words.phrases for words in run.words}) == 1:
            names = run.words[0].phrases
        return TokenMaps({name: maps[:, number] for number, name in enumerate(names)})

    def image(self, over: Any, index: int = 0) -> Image.Image:
        """Draw the regions over the image that was made with them.

        Args:
            over: The image, a PIL image, an array [h, w, C] or a tensor [C, h, w] (uint8, or floats from 0 to 1).
            index: Which image of the batch it is.

        Raises:
            ValueError: No image was made yet.
            IndexError: No such image.
        """
        if self._run is None:
            raise ValueError("MaskDiffusion.image: no image was made since attaching; call the pipeline first")
        words = self._run.words
        if not -len(words) <= index < len(words):
            raise IndexError(f"MaskDiffusion.image: `index` must be below the {len(words)} images; got {index}")
        names = words[index].phrases[: len(words[index].spans)]
        return draw_regions(over, self._run.finder.masks()[index, : len(names)], names)

    def settings(self) -> dict[str, Any]:
        return asdict(self._used)

    def pictures(self, over: Image.Image, index: int = 0) -> dict[str, Image.Image]:
        maps = {} if self.regions is None else self.maps  # boxes were given, not found in maps
        return {
            "regions": self.image(over, index),
            **{f"map: {name}": self.maps.image(name, over, index) for name in maps},
        }

    def attached(self, layers: tuple[LayerInfo, ...]) -> None:
        if not any(layer.is_cross for layer in layers):
            raise ValueError(
                "MaskDiffusion: needs a model with cross-attention to text; weft serves no such layer; see `.skipped`"
            )
        if any(layer.is_joint for layer in layers):
            self._check_joint()
        elif self._settings is None:
            raise ValueError(
                "MaskDiffusion: `JointSettings` are for joint attention; this model is a UNet; leave them out"
            )
        self._layers = layers

    def _check_joint(self) -> None:
        if self._boxes is None:
            raise ValueError(
                "MaskDiffusion: finds regions in the attention of UNets; this model has a joint attention, where that "
                "was tried and gained nothing; give `boxes`, or use Stable Diffusion 1.x, 2.x or XL"
            )
        if self._joint_settings is None:
            raise ValueError(
                f"MaskDiffusion: mode {self._mode!r} is for UNets; this model has a joint attention; give "
                '"clean" or a JointSettings'
            )

    def begin_generation(self, generation: Generation) -> None:
        self._run = None
        used = self._used
        if isinstance(used, JointSettings):
            words = find_words(generation, self._given_phrases, self._boxes, self._parser)
            self._run = JointRun(generation, words, used)
            return
        words = find_words(generation, self._given_phrases, self._boxes, self._parser, used.tail_from)
        if self._boxes is None:
            words = tuple(left_alone(one) if len(one.spans) < used.least_objects else one for one in words)
        self._run = Run(generation, words, used, self._layers)

    def begin_step(self, step: Step) -> None:
        run = self._run
        assert run is not None
        if step.index == 0 and run.objects and not self._is_edited(step):
            warnings.warn(
                f"MaskDiffusion: nothing is edited: this generation begins at timestep {step.timestep:g}, below the "
                "part of the schedule that `steps` names; raise it, or the strength of an image-to-image pipeline",
                stacklevel=2,
            )
        if step.index >= run.first_edited and self._is_edited(step):
            run.scale(self._strength * step.noise**run.exponent)

    def replace_text(self, text: Tensor, step: Step) -> Tensor:
        run = self._run
        assert run is not None
        if run.objects == 0 or not self._knows(step) or not run.swaps(self._is_edited(step)):
            return text
        return run.replace_text(text, step)

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        run = self._run
        assert run is not None
        if run.objects == 0 or not step.has_rows or not self._knows(step):
            return None
        return run.request(layer, step, self._is_edited(step))

    def read_maps(self, layer: LayerInfo, step: Step, maps: Tensor) -> None:
        if isinstance(self._run, Run):
            self._run.finder.gather(maps[step.conditional])

    def end_pass(self, step: Step) -> None:
        if isinstance(self._run, Run) and self._run.finder.average():
            self._run.place_regions(step)

    @property
    def _used(self) -> MaskDiffusionSettings | JointSettings:
        """The settings for the model that it is attached to, or for a UNet."""
        is_joint = any(layer.is_joint for layer in self._layers)
        used = self._joint_settings if is_joint or self._settings is None else self._settings
        assert used is not None
        return used

    def _knows(self, step: Step) -> bool:
        """Whether words are in this pass where they were found: it carries the generation's prompt, or none."""
        return step.prompt is None or step.prompt is step.generation.prompt

    def _is_edited(self, step: Step) -> bool:
        if isinstance(self._steps, int):
            return step.index < self._steps
        share = self._used.share if self._steps is None else self._steps
        return step.noise > 1 - share


def _shown(region: Region) -> Any:
    """A box as it is, a mask by its size."""
    return f"mask of {region.shape[0]} x {region.shape[1]}" if isinstance(region, Tensor) else region


def _checked_settings(mode: Any) -> tuple[MaskDiffusionSettings | None, JointSettings | None]:
    """Settings for UNets and for joint attention; None where ``mode`` has none."""
    if isinstance(mode, MaskDiffusionSettings):
        return mode, None
    if isinstance(mode, JointSettings):
        return None, mode
    if not isinstance(mode, str) or mode not in MODES:
        names = ", ".join(map(repr, MODES))
        raise ValueError(
            f"MaskDiffusion: `mode` must be {names}, a MaskDiffusionSettings or a JointSettings; got {mode!r}"
        )
    return MODES[mode], JOINT if mode == "clean" else None


def _checked_steps(steps: Any) -> float | int:
    if isinstance(steps, bool) or not isinstance(steps, (int, float)) or math.isnan(steps) or steps <= 0:
        raise ValueError(f"MaskDiffusion: `steps` must be a share in (0, 1] or a number of first steps; got {steps!r}")
    if isinstance(steps, float) and steps > 1:
        raise ValueError(
            f"MaskDiffusion: a share of steps must be at most 1; got {steps}; write {int(steps)} for steps"
        )
    return steps
