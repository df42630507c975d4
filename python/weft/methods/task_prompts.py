"""PowerPaint: one inpainting model with five tasks, chosen by learnt prompts."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from weft.attach import Control, attach
from weft.attach.learnt_words import widths
from weft.attach.pipeline_call import Around
from weft.methods import _task_prompts_file as file
from weft.methods import _task_prompts_published as published
from weft.methods._inpaint_canvas import extended
from weft.methods._inpaint_host import check_host, check_not_in_the_way, model_size, without_empty_texts
from weft.methods._inpaint_job import PasteBack
from weft.methods._inpaint_pictures import is_sequence, read_pictures
from weft.methods._inpaint_run import run_pasted
from weft.methods._task_prompts_recipes import (
    DIALECTS,
    FILL,
    NAMES,
    OVERLAP,
    PLACEMENTS,
    QUALITY_WORDS,
    RECIPES,
    STEPS,
    TASKS,
    Placement,
    PromptName,
    Recipe,
    Task,
    changed,
)
from weft.methods._task_prompts_text import Speaker, Vectors
from weft.methods._task_prompts_weights import load_weights

__all__ = ["PasteBack", "TaskPrompts"]

Text = str | Sequence[str]
Arguments = dict[str, Any]


@dataclass(eq=False)
class TaskPrompts(Control):
    """Three learnt prompts that tell an inpainting model what to do, and pictures that keep their pixels meanwhile.

    "context" continues what is around the hole, "object" makes what the text says, "shape" makes it fill the hole.

        with weft.attach(pipe, tasks):  # a stock StableDiffusionInpaintPipeline
            pipe(prompt="", image=image, mask_image=mask, **tasks.removal()).images[0]

    The methods give arguments for the pipeline: embeddings, and a guidance scale. Texts may be lists, a text for each
    picture. While attached, the pipeline's images are as large as those it was given, and equal to them outside the
    hole and a thin rim, bit for bit; ``paste_back`` says how. Nothing of the pipeline is changed: the vectors stand in
    for a word's embedding while a text is encoded, and no token is added.

    Attributes:
        vectors: Prompt -> one [n, C] fp32 for each text encoder.
        placement: "after" the user's text, which is shortened rather than they; "before" it; or "released", after it
            and cut off together with it, which warns.
        dialect: "weft"; "main-v1" for released weights, whose quality words then are the default; "dev".
        base_name: The model they were trained on.
        init: How they began.
        paste_back: How pictures are cut for the model and put together again; None gives what the pipeline itself
            makes, at its own size.

    Raises:
        TypeError, ValueError: Values that are not as above. A pipeline that is not made for inpainting, or has other
            text encoders, is refused when attaching.

    Source:
        Zhuang et al. 2024, arXiv:2312.03594, as in its released code.
    """

    vectors: Mapping[PromptName, Vectors] = field(repr=False)
    placement: Placement = "after"
    dialect: str = "weft"
    base_name: str = "unnamed"
    init: str = ""
    paste_back: PasteBack | None = field(default_factory=PasteBack)

    def __post_init__(self) -> None:
        self._pipe: Any = None
        _check(self.vectors, self.placement, self.dialect)
        self.vectors = {name: tuple(self.vectors[name]) for name in NAMES}

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of the vectors for every text encoder."""
        return tuple(mine.shape[1] for mine in self.vectors["context"])

    # --- tasks ----------------------------------------------------------------------------------------------------

    def removal(self, text: Text = "", *, negative: Text = "", **changes: Any) -> Arguments:
        """Take away what is in the hole and continue its surroundings.

        Args:
            text: What to continue with, if it needs saying.
            negative: What not to paint.
            **changes: Other values of the recipe: ``prompts``, ``against``, ``words``, ``quality_words``,
                ``guidance_scale``.

        Returns:
            Arguments for the attached pipeline.

        Raises:
            RuntimeError: Not attached to a pipeline.
            TypeError: Texts that are none, or an unknown change.
            ValueError: Numbers of texts that do not fit each other.
        """
        return self._arguments("removal", text, negative, 1.0, changes)

    def insert(self, text: Text, *, negative: Text = "", **changes: Any) -> Arguments:
        """Put what ``text`` says into the hole. Arguments, results and errors as ``removal``."""
        return self._arguments("insert", text, negative, 1.0, changes)

    def shape(self, text: Text, fit: float = 1.0, *, negative: Text = "", **changes: Any) -> Arguments:
        """Put what ``text`` says into the hole so that it fills its shape. Further as ``removal``.

        Args:
            fit: How closely: 1 exactly, 0 not at all; 0.5 to 0.6 is loose, 0.8 to 0.95 tight.
        """
        if not 0 <= fit <= 1:
            raise ValueError(f"TaskPrompts.shape: `fit` must be between 0 and 1; got {fit}")
        return self._arguments("shape", text, negative, fit, changes)

    def context(self, text: Text = "", *, negative: Text = "", **changes: Any) -> Arguments:
        """Continue what is around the hole, objects too. Arguments, results and errors as ``removal``."""
        return self._arguments("context", text, negative, 1.0, changes)

    def outpaint(
        self,
        image: Any,
        text: Text = "",
        *,
        left: float = 0,
        right: float = 0,
        top: float = 0,
        bottom: float = 0,
        overlap: int = OVERLAP,
        fill: tuple[int, int, int] = FILL,
        negative: Text = "",
        **changes: Any,
    ) -> Arguments:
        """Continue a picture beyond its sides. Further as ``removal``.

        Args:
            image: The picture, or several.
            left, right, top, bottom: Pixels, or below 1 a share of the picture's width or height.
            overlap: Pixels of the picture that are painted anew along every side that grows.
            fill: Colour of the canvas before it is painted.

        Returns:
            Arguments for the attached pipeline, ``image`` and ``mask_image`` among them.
        """
        who, sides = "TaskPrompts.outpaint", {"left": left, "right": right, "top": top, "bottom": bottom}
        grown = [extended(picture, sides, overlap, fill, who=who) for picture in read_pictures(image, who=who)]
        pictures = {
            "image": [Image.fromarray(canvas) for canvas, _ in grown],
            "mask_image": [Image.fromarray(hole) for _, hole in grown],
        }
        return {**pictures, **self._arguments("outpaint", text, negative, 1.0, changes)}

    def inpaint(self, pipe: Any, image: Any, mask: Any = None, task: Task = "removal", **options: Any) -> Any:
        """Do one task from beginning to end: attach, paint, paste back, and give the pipeline back.

        Args:
            pipe: An inpainting pipeline; if this is attached to it already, it stays so.
            image: A PIL image, a file or an array, or a sequence of them.
            mask: The same, white where to paint; a sequence of them for several holes. Not for "outpaint".
            task: One of "removal", "insert", "shape", "context", "outpaint".
            **options: Of the task's method (``text``, ``fit``, ``left``, ...), of ``PasteBack`` (``crop``, ...), and
                of the pipeline (``generator``, ``num_inference_steps``, ...).

        Returns:
            The picture; a list of them where there are several.

        Raises:
            As the task's method, ``weft.attach`` and the pipeline.
        """
        if task not in TASKS:
            raise ValueError(f"TaskPrompts.inpaint: `task` must be one of {', '.join(map(repr, TASKS))}; got {task!r}")
        if (mask is None) != (task == "outpaint"):
            needs = "needs no `mask`, its hole follows from the sides" if mask is not None else "needs a `mask`"
            raise ValueError(f"TaskPrompts.inpaint: {task!r} {needs}")
        of_paste = {name: options.pop(name) for name in _PASTE_OPTIONS if name in options}
        method = getattr(self, task)
        known = {*inspect.signature(method).parameters, *_RECIPE_OPTIONS} - {"changes"}
        of_task = {name: options.pop(name) for name in known if name in options}
        with ExitStack() as undo:
            if self._pipe is not pipe:
                undo.enter_context(attach(pipe, self))
            undo.callback(setattr, self, "paste_back", self.paste_back)
            if of_paste:
                self.paste_back = replace(self.paste_back or PasteBack(), **of_paste)
            pictures = {"image": image} if task == "outpaint" else {}
            given = method(**pictures, **of_task)
            masked = {} if task == "outpaint" else {"image": image, "mask_image": mask}
            images = pipe(**{"num_inference_steps": STEPS, **given, **masked, **options}).images
        return images[0] if len(images) == 1 and not is_sequence(image) else images

    # --- files ----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a safetensors file, whole or not at all.

        Args:
            path: The file; an existing one is replaced.
            dtype: What vectors are stored as.

        Raises:
            OSError: It cannot be written.
        """
        file.write(Path(path), self.vectors, {name: getattr(self, name) for name in file.RECORD}, dtype)

    @classmethod
    def load(cls, path: str | Path, *, into: Any = None, dialect: str | None = None) -> TaskPrompts:
        """Read what ``save`` wrote, or released weights of PowerPaint v1, known by the names of their tensors.

        Args:
            path: A file of weft; the released folder, with ``text_encoder/text_encoder.safetensors``; a folder in
                diffusers' layout whose tokenizer has the 30 tokens; or a text encoder's file out of one of these.
            into: An inpainting pipeline that gets the UNet and the text encoder of the folder, for good. A pipeline
                loaded from a folder in diffusers' layout has them already.
            dialect: "main-v1" or "dev", for a text encoder beside which no tokenizer tells the order of its tokens.

        Raises:
            FileNotFoundError: There is nothing, or a part is missing.
            ValueError: It is cut short, damaged, or something else, which is named; or does not fit ``into``.
        """
        path = Path(path)
        found = published.find(path)
        if file.KEY in found.metadata:
            if into is not None or dialect is not None:
                raise ValueError(
                    f"TaskPrompts.load: {path} is of weft; `into` and `dialect` belong to released weights"
                )
            vectors, record = file.read(found.path)
            return cls(vectors, **record)
        known = published.read(found, dialect)
        if known.dialect == "dev":
            warnings.warn(
                f"TaskPrompts.load: {path} is of {DIALECTS['dev'].what}, whose UNet was shown holes in black; "
                "diffusers shows them in grey, so that results differ from theirs",
                stacklevel=2,
            )
        if into is not None:
            load_weights(into, path)
        style = DIALECTS[known.dialect]
        return cls(
            {name: (vectors,) for name, vectors in known.vectors.items()},
            placement=style.placement,
            dialect=known.dialect,
            base_name=style.what,
            init="released",
        )

    # --- control --------------------------------------------------------------------------------------------------

    def around_calls(self, pipeline: Any) -> Around:
        check_host(pipeline, who="TaskPrompts")
        if widths(pipeline) != self.widths:
            raise ValueError(
                f"TaskPrompts: prompts of {self.base_name!r} have vectors of width {_listed(self.widths)} and do not "
                f"fit this pipeline, whose text encoders have {_listed(widths(pipeline))}; use the model they were "
                "trained on, or a finetune of that"
            )
        self._pipe = pipeline
        return self._call

    def detached(self) -> None:
        self._pipe = None

    def _call(self, run: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        given = without_empty_texts(arguments, who="TaskPrompts")
        if self.paste_back is None or given.get("output_type") == "latent":
            return run(**given)
        check_not_in_the_way(given, who="TaskPrompts")
        return run_pasted(run, given, self.paste_back, model_size(self._pipe), who="TaskPrompts")

    def _arguments(self, task: Task, text: Text, negative: Text, fit: float, changes: Mapping[str, Any]) -> Arguments:
        who = f"TaskPrompts.{task}"
        if self._pipe is None:
            raise RuntimeError(
                f"{who}: needs the pipeline's text encoder; call it within `with weft.attach(pipe, tasks)`"
            )
        recipe = changed(RECIPES[task], changes, who=who)
        texts, negatives = _texts(text, "text", who), _texts(negative, "negative", who)
        if len(texts) != len(negatives) and 1 not in (len(texts), len(negatives)):
            raise ValueError(
                f"{who}: needs one negative text, or one for each of {len(texts)} texts; got {len(negatives)}"
            )
        quality = recipe.quality_words
        if quality is None:
            quality = QUALITY_WORDS if DIALECTS[self.dialect].quality_words else ""
        speaker = Speaker(self._pipe, self.vectors, self.placement)
        return {
            **speaker.conditioning(recipe, texts, negatives, fit, quality),
            "guidance_scale": recipe.guidance_scale,
        }


_PASTE_OPTIONS = tuple(option.name for option in fields(PasteBack))
_RECIPE_OPTIONS = tuple(option.name for option in fields(Recipe))


def _texts(text: Any, name: str, who: str) -> list[str]:
    listed = list(text) if is_sequence(text) else [text]
    if not listed or not all(isinstance(one, str) for one in listed):
        raise TypeError(f"{who}: `{name}` must be a text, or a sequence of at least one; got {text!r}")
    return listed


def _listed(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))


def _check(vectors: Any, placement: Any, dialect: Any) -> None:
    for name, value, known in (("placement", placement, PLACEMENTS), ("dialect", dialect, tuple(DIALECTS))):
        if value not in known:
            raise ValueError(f"TaskPrompts: `{name}` must be one of {', '.join(map(repr, known))}; got {value!r}")
    if not isinstance(vectors, Mapping) or set(vectors) != set(NAMES):
        raise ValueError(
            f"TaskPrompts: `vectors` must have the prompts {', '.join(map(repr, NAMES))}; got {vectors!r}"
        )
    for name, mine in vectors.items():
        if not mine or not all(isinstance(one, Tensor) and one.is_floating_point() for one in mine):
            raise TypeError(f"TaskPrompts: the vectors of {name!r} must be float tensors, one for each text encoder")
        for one in mine:
            if one.ndim != 2 or 0 in one.shape or not bool(one.isfinite().all()):
                raise ValueError(
                    f"TaskPrompts: the vectors of {name!r} must be finite matrices [n, C]; got {list(one.shape)}"
                )
        if len({len(one) for one in mine}) > 1:
            raise ValueError(f"TaskPrompts: the vectors of {name!r} must be equally many for every text encoder")
    if len({tuple(one.shape[1] for one in mine) for mine in vectors.values()}) > 1:
        raise ValueError("TaskPrompts: the vectors of all prompts must have the same widths")
