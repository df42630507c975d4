"""PowerPaint v2: five tasks for any text-to-image model, by a network beside its UNet that sees picture and hole."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from weft.attach import Around, Attachment, DenoiserCall, Generation, LayerInfo, Step, TextCache, attach
from weft.methods.inpainting import CONVENTIONS, PasteBack, check_host_of_branch, check_not_in_the_way, shown
from weft.methods.powerpaint import branch_file as file
from weft.methods.powerpaint import branch_published as published
from weft.methods.powerpaint.branch_run import BranchRun, Schedule
from weft.methods.powerpaint.branch_states import STATE_NAMES, StateName, check_states, mixed
from weft.methods.powerpaint.network import Branch
from weft.methods.powerpaint.prompts_text import PromptEncoder
from weft.methods.powerpaint.recipes import BRANCH_DIALECTS, BRANCH_RECIPES, Recipe, Task
from weft.methods.powerpaint.tasks import Arguments, InpaintingTasks
from weft.methods.sampling import OPEN, Sampling

WHO = "TaskBranch"
Surroundings = Literal["free", "held"]


@dataclass(eq=False)
class TaskBranch(InpaintingTasks):
    """A network beside a frozen text-to-image UNet that makes it fill holes; learnt prompts select the task.

        with weft.attach(pipe, branch):  # StableDiffusionInpaintPipeline of a text-to-image checkpoint, 4 channels
            pipe(prompt="", image=image, mask_image=mask, **branch.removal()).images[0]

    Tasks, texts and pasting back are those of ``TaskPrompts``. The UNet reads only the user's text, the branch one of
    four constants (or a mixture of two): "context", "shape", "object" and the empty text. Its attention is weft's too,
    so that keys and values of these texts are computed once for all steps. A call without a task leaves the branch
    with the empty text.

    The branch is moved and cast as any module, ``branch.network.to(...)``; it has to be where the UNet is, and may
    compute in another dtype.

    Attributes:
        network: The branch.
        states: What the four texts are to it, [Nk, C] each.
        dialect: Of its input, which nothing in its weights says: "main-v2" as released, latents of the masked picture
            before the mask, which is 1 where to keep, and black holes; "dev" as in the training scripts.
        base_name: Where it is from.
        reuse: It is computed at every n-th step, and the steps between add what it found last.
        start, until: The first step with it, and the first one without it again; None for no end.
        scale: Of what it adds.
        surroundings: "free" denoises the whole picture, as released; "held" replaces what is outside the hole by the
            noised original after every step, as stock pipelines with such a UNet do.
        paste_back: How pictures are cut for the model and put together again; None gives what the pipeline itself
            makes, at its own size.
        sampling: How pictures are best drawn with it; its guidance replaces those of the recipes.

    Raises:
        TypeError, ValueError: Values that are not as above. A pipeline that is not made for inpainting, or whose UNet
            has other widths or input channels, is refused when attaching.

    Source:
        Zhuang et al. 2024, arXiv:2312.03594, version 2 as in its released code; Ju et al. 2024, arXiv:2403.06976
        (BrushNet) for the branch. Departures: the masked picture's latents are the VAE's mean rather than a draw.
    """

    adds_at_places: ClassVar[bool] = True
    recipes: ClassVar[Mapping[Task, Recipe]] = BRANCH_RECIPES

    network: Branch = field(repr=False)
    states: Mapping[StateName, Tensor] = field(repr=False)
    dialect: str = "main-v2"
    base_name: str = "unnamed"
    reuse: int = 1
    start: int = 0
    until: int | None = None
    scale: float = 1.0
    surroundings: Surroundings = "free"
    paste_back: PasteBack | None = field(default_factory=PasteBack)
    sampling: Sampling = OPEN

    def __post_init__(self) -> None:
        self.start_blank()
        if not isinstance(self.network, Branch):
            raise TypeError(f"{WHO}: `network` must be a Branch; got {type(self.network).__name__}")
        if self.dialect not in BRANCH_DIALECTS:
            known = ", ".join(map(repr, BRANCH_DIALECTS))
            raise ValueError(f"{WHO}: `dialect` must be one of {known}; got {self.dialect!r}")
        check_states(self.states, self.network.config["cross_attention_dim"], who=WHO)
        self.states = {name: self.states[name] for name in STATE_NAMES}
        self._check_options()

    def start_blank(self) -> None:
        super().start_blank()
        self._inner: Attachment | None = None
        self._run: BranchRun | None = None

    @property
    def text_cache(self) -> TextCache | None:
        """Keys and values of the branch's texts, with counts of hits and misses; None while not attached."""
        return None if self._inner is None else self._inner.text_cache

    # --- files ----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a safetensors file, whole or not at all; it needs no text encoder beside it.

        Args:
            path: The file; an existing one is replaced.
            dtype: What tensors are stored as; None for what they are.

        Raises:
            OSError: It cannot be written.
        """
        record = {name: getattr(self, name) for name in file.RECORD} | self.sampling.record()
        file.write(Path(path), self.network, self.states, record, dtype)

    @classmethod
    def load(cls, path: str | Path, *, dtype: torch.dtype | None = None, dialect: str | None = None) -> TaskBranch:
        """Read what ``save`` wrote, or released weights of PowerPaint v2, known by the names of their tensors.

        Of a pickled text encoder (``pytorch_model.bin``) nothing but tensors is taken, and no code of it runs.

        Args:
            path: A file of weft; the released folder, or ``PowerPaint_Brushnet`` in it; the same in diffusers' layout,
                with ``text_encoder_brushnet`` and ``tokenizer``; or the branch's file out of one of these.
            dtype: Of the branch; None for the file's.
            dialect: "main-v2" or "dev", for a text encoder whose task prompts are rows of its table, and beside which
                no tokenizer gives their order.

        Raises:
            FileNotFoundError: There is nothing, or a part is missing.
            ValueError: It is cut short, damaged, or something else, such as PowerPaint v1, which is named.
        """
        found = published.find(Path(path))
        if file.KEY in found.metadata:
            if dialect is not None:
                raise ValueError(f"{published.WHO}: {path} is of weft; `dialect` belongs to released weights")
            network, states, record = file.read(found, dtype)
            return cls(network, states, **record)
        states, convention = published.read_states(found, dialect)
        if convention == "dev":
            warnings.warn(
                f"{published.WHO}: {path} is of {BRANCH_DIALECTS[convention].what}; mask and picture are passed "
                "in the form that it expects",
                stacklevel=2,
            )
        return cls(published.read_branch(found, dtype), states, convention, BRANCH_DIALECTS[convention].what)

    # --- control --------------------------------------------------------------------------------------------------

    def wrap_calls(self, pipeline: Any) -> Around:
        check_host_of_branch(pipeline, who=WHO)
        reason = self.network.mismatch(pipeline.unet)
        if reason is not None:
            raise ValueError(
                f"{WHO}: {self.base_name!r} does not fit {type(pipeline).__name__}: {reason}; it belongs beside a "
                "model of the family that it was trained on, as Stable Diffusion 1.5 for PowerPaint v2"
            )
        self._pipe = pipeline
        return self._call

    def attached(self, layers: tuple[LayerInfo, ...]) -> None:
        if self._inner is None:
            self._inner = attach(self.network.unet)

    def begin_generation(self, generation: Generation) -> None:
        self._check_options()
        if self.network.device != generation.device:
            raise ValueError(
                f"{WHO}: `network` must be where the UNet computes, on {generation.device}; it is on "
                f"{self.network.device}; move it, branch.network.to({str(generation.device)!r})"
            )

    def add_at_places(self, call: DenoiserCall, step: Step) -> Sequence[Tensor] | None:
        if self._run is None:
            raise RuntimeError(
                f"{WHO}: the denoiser was called outside of a call of the pipeline, where no picture is to be filled"
            )
        return self._run.residuals(Schedule(self.reuse, self.start, self.until, self.scale), call, step)

    def detached(self) -> None:
        self._pipe = self._run = None
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.detach()

    def _prompt_arguments(self, recipe: Recipe, texts: list[str], negatives: list[str], fit: float) -> Arguments:
        # the UNet reads words, the branch prompts
        plain = replace(recipe, prompts=(None, None), against=(None, None))
        encoder = PromptEncoder(self._pipe, {}, "after")
        given = dict(encoder.conditioning(plain, texts, negatives, 1.0, recipe.quality_words or ""))
        rows = len(given["prompt_embeds"])
        for name, pair in (("task_embeds", recipe.prompts), ("negative_task_embeds", recipe.against)):
            given[name] = mixed(self.states, pair, fit).expand(rows, -1, -1)
        return given

    def _paint(self, run: Callable[..., Any], **arguments: Any) -> Any:
        check_not_in_the_way(arguments, who=WHO)
        empty = self.states["empty"][None]
        texts = tuple(
            empty if arguments.get(name) is None else arguments[name]
            for name in ("task_embeds", "negative_task_embeds")
        )
        given = {name: value for name, value in arguments.items() if not name.endswith("task_embeds")}
        size = given.get("height"), given.get("width")
        convention = CONVENTIONS[self.dialect]
        pictures = shown(self._pipe, given.get("image"), given.get("mask_image"), size, convention, who=WHO)
        if self.surroundings == "free":
            # a hole as large as the picture: the pipeline then puts nothing of the original back
            scale = int(self._pipe.vae_scale_factor)
            height, width = (side * scale for side in pictures[1].shape[-2:])
            given["mask_image"] = torch.ones(1, 1, height, width)
        assert self._inner is not None
        self._inner.reset()
        self._run = BranchRun(self.network, convention, pictures, (texts[0], texts[1]), who=WHO)
        try:
            return run(**given)
        finally:
            self._run = None

    def _check_options(self) -> None:
        for name, least in (("reuse", 1), ("start", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{WHO}: `{name}` must be a whole number of steps from {least} on; got {value!r}")
        if not math.isfinite(self.scale):
            raise ValueError(f"{WHO}: `scale` must be finite; got {self.scale}")
        if self.until is not None and (not isinstance(self.until, int) or self.until < self.start):
            raise ValueError(f"{WHO}: `until` must be a step from `start` on, or None; got {self.until!r}")
        if self.surroundings not in get_args(Surroundings):
            known = " or ".join(map(repr, get_args(Surroundings)))
            raise ValueError(f"{WHO}: `surroundings` must be {known}; got {self.surroundings!r}")
