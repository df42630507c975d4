"""The five tasks of PowerPaint as methods that give arguments for a stock pipeline, whatever carries the prompts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import Any, ClassVar

from PIL import Image

from weft.attach import Control, attach
from weft.methods.inpainting import (
    PasteBack,
    check_not_in_the_way,
    extended,
    is_sequence,
    model_size,
    read_pictures,
    run_pasted,
    without_empty_texts,
)
from weft.methods.powerpaint.recipes import FILL, OVERLAP, RECIPES, STEPS, TASKS, Recipe, Task, changed
from weft.methods.sampling import Sampling

Text = str | Sequence[str]
Arguments = dict[str, Any]


class InpaintingTasks(Control):
    """Base of the controls that select what an inpainting pipeline does, and keep the pixels outside the hole.

    Attributes:
        recipes: What each task says.
        paste_back: How pictures are cut for the model and put together again; None gives what the pipeline itself
            makes, at its own size.
        sampling: How pictures are best drawn; its guidance replaces those of the recipes.
    """

    recipes: ClassVar[Mapping[Task, Recipe]] = RECIPES
    paste_back: PasteBack | None
    sampling: Sampling
    _pipe: Any = None

    def start_blank(self) -> None:
        self._pipe = None

    # --- tasks ----------------------------------------------------------------------------------------------------

    def removal(self, text: Text = "", *, negative: Text = "", **changes: Any) -> Arguments:
        """Take away what is in the hole and continue its surroundings.

        Args:
            text: What to continue with, if it needs saying.
            negative: What not to paint.
            **changes: Other values of the recipe: ``prompts``, ``against``, ``words``, ``words_lead``,
                ``quality_words``, ``guidance_scale``.

        Returns:
            Arguments for the attached pipeline: embeddings, and a guidance scale that holds where the call of the
            pipeline names none.

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
            raise ValueError(f"{type(self).__name__}.shape: `fit` must be between 0 and 1; got {fit}")
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
            overlap: Pixels of the picture that are repainted along every side that grows.
            fill: Colour of the canvas before it is painted.

        Returns:
            Arguments for the attached pipeline, ``image`` and ``mask_image`` among them.
        """
        who = f"{type(self).__name__}.outpaint"
        sides = {"left": left, "right": right, "top": top, "bottom": bottom}
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
            TypeError: An option that neither of these has.
            As the task's method, ``weft.attach`` and the pipeline.
        """
        who = f"{type(self).__name__}.inpaint"
        if task not in TASKS:
            raise ValueError(f"{who}: `task` must be one of {', '.join(map(repr, TASKS))}; got {task!r}")
        if (mask is None) != (task == "outpaint"):
            needs = "needs no `mask`, its hole follows from the sides" if mask is not None else "needs a `mask`"
            raise ValueError(f"{who}: {task!r} {needs}")
        of_paste = {name: options.pop(name) for name in _PASTE_OPTIONS if name in options}
        method = getattr(self, task)
        known = {*inspect.signature(method).parameters, *_RECIPE_OPTIONS} - {"changes"}
        of_task = {name: options.pop(name) for name in known if name in options}
        # pipelines take any name, and do nothing with those that they do not have
        unknown = options.keys() - inspect.signature(type(pipe).__call__).parameters.keys()
        if unknown:
            raise TypeError(
                f"{who}: {task!r} has no option {', '.join(map(repr, sorted(unknown)))}; it has "
                f"{', '.join(map(repr, sorted(known)))}, those of PasteBack, and those of the pipeline"
            )
        with ExitStack() as undo:
            if self._pipe is not pipe:
                undo.enter_context(attach(pipe, self))
            undo.callback(setattr, self, "paste_back", self.paste_back)
            if of_paste:
                self.paste_back = replace(self.paste_back or PasteBack(), **of_paste)
            pictures = {"image": image} if task == "outpaint" else {}
            given = method(**pictures, **of_task)
            masked = {} if task == "outpaint" else {"image": image, "mask_image": mask}
            images = pipe(**{"num_inference_steps": self.steps, **given, **masked, **options}).images
        return images[0] if len(images) == 1 and not is_sequence(image) else images

    def guidance_of(self, task: Task) -> float:
        """The guidance scale of a task where a call names none: as recommended, else that of the recipe."""
        recommended = self.sampling.guidance_scale
        return self.recipes[task].guidance_scale if recommended is None else recommended

    @property
    def steps(self) -> int:
        """The steps of ``inpaint`` where a call names none: as recommended, else those of the published demo."""
        return self.sampling.num_inference_steps or STEPS

    # --- for those that carry the prompts ---------------------------------------------------------------------------

    def _prompt_arguments(self, recipe: Recipe, texts: list[str], negatives: list[str], fit: float) -> Arguments:
        """The arguments of a pipeline that say a recipe, with the user's texts; every carrier has its own."""
        raise NotImplementedError

    def _paint(self, run: Callable[..., Any], **arguments: Any) -> Any:
        """One call of the pipeline itself; arguments as it takes them."""
        return run(**arguments)

    def _call(self, run: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        who = type(self).__name__
        given = without_empty_texts(arguments, who=who)
        guidance = given.pop(_GUIDANCE, None)
        if guidance is not None:
            given.setdefault("guidance_scale", guidance)

        def paint(**changed: Any) -> Any:
            return self._paint(run, **changed)

        if self.paste_back is None or given.get("output_type") == "latent":
            return paint(**given)
        check_not_in_the_way(given, who=who)
        return run_pasted(paint, given, self.paste_back, model_size(self._pipe), who=who)

    def _arguments(self, task: Task, text: Text, negative: Text, fit: float, changes: Mapping[str, Any]) -> Arguments:
        who = f"{type(self).__name__}.{task}"
        if self._pipe is None:
            raise RuntimeError(
                f"{who}: needs the pipeline's text encoder; call it within `with weft.attach(pipe, tasks)`"
            )
        recipe = changed(self.recipes[task], {"guidance_scale": self.guidance_of(task), **changes}, who=who)
        texts, negatives = _texts(text, "text", who), _texts(negative, "negative", who)
        if len(texts) != len(negatives) and 1 not in (len(texts), len(negatives)):
            raise ValueError(
                f"{who}: needs one negative text, or one for each of {len(texts)} texts; got {len(negatives)}"
            )
        return {**self._prompt_arguments(recipe, texts, negatives, fit), _GUIDANCE: recipe.guidance_scale}


# under a name of its own, so that a guidance scale can be given beside the arguments of a task
_GUIDANCE = "task_guidance_scale"
_PASTE_OPTIONS = tuple(option.name for option in fields(PasteBack))
_RECIPE_OPTIONS = tuple(option.name for option in fields(Recipe))


def _texts(text: Any, name: str, who: str) -> list[str]:
    listed = list(text) if is_sequence(text) else [text]
    if not listed or not all(isinstance(one, str) for one in listed):
        raise TypeError(f"{who}: `{name}` must be a text, or a sequence of at least one; got {text!r}")
    return listed
