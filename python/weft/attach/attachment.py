"""The handle: takes a model over, runs the controls around every pass, gives the model back."""

from __future__ import annotations

import functools
import logging
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from weft._dispatch import check_backend_name
from weft.attach.call_guard import CallGuard
from weft.attach.control import Control
from weft.attach.families import base_model, resolve
from weft.attach.families.family import Family
from weft.attach.families.host import Host
from weft.attach.generation import GenerationTracker
from weft.attach.injection import Injector
from weft.attach.layers import StandIns
from weft.attach.pipeline_call import PipelineCall
from weft.attach.processors.text_cache import TextCache
from weft.attach.projections import Projector
from weft.attach.records import Generation, Step
from weft.attach.text.described import described
from weft.attach.text.listener import PromptListener
from weft.attach.versions import check_diffusers

logger = logging.getLogger(__name__)

_LIVE: weakref.WeakSet[Attachment] = weakref.WeakSet()


def attach(
    pipe_or_model: Any, *controls: Control, backend: str | None = None, family: Family | None = None
) -> Attachment:
    """Take over the attention of a pipeline's denoiser in place, or of none of its layers if anything is wrong.

    Images with no control are the stock pipeline's bit for bit; in a UNet they are made with the keys and values of
    the text computed once per prompt. A layer that a control asks something of runs ``weft.ops.attention`` at that
    step; read-outs alone change its result by rounding only, no more than another backend of
    ``scaled_dot_product_attention`` would: with an attachment that reads maps at every layer and step, fp32 images
    differ by less than 1e-4 and bf16 images of a UNet by less than 0.06 (of the range 0 to 1); those of a joint
    transformer lie no further from fp32 than stock ones (tests/attach/test_images.py, test_joint_pipeline.py).

    Args:
        pipe_or_model: A pipeline of diffusers (Stable Diffusion 1.x, 2.x, XL, 3, 3.5, Kolors, Flux, Flux.2, Chroma,
            Bria, Ovis-Image, LongCat-Image), or its denoiser alone. Without a pipeline there is no tokenizer, so
            tokens are given by position, and every row of a batch counts as an image.
        *controls: What to read or to change. They can be added and removed later, between calls.
        backend: Backend of ``weft.ops.attention`` at controlled layers; None to let the library choose.
        family: What describes a model of your own, see ``weft.attach.Joint``; None for those that weft knows.

    Returns:
        The attachment: a context manager that gives the model back at its end, as does ``.detach()``.

    Raises:
        TypeError: Not a pipeline or model, or a control that is none.
        ValueError: A family that is not supported, a model that is attached already, a control given twice or in use
            elsewhere, or an unknown backend.

    Example:
        >>> with weft.attach(pipe, weft.AttentionMaps(["circle", "square"])) as attachment:
        ...     image = pipe("a red circle and a blue square").images[0]
        ...     attachment.maps.image("circle", over=image).save("circle.png")
    """
    if backend is not None:
        check_backend_name(backend)
    host = resolve(pipe_or_model, family)
    for control in controls:
        _check_control(control)
    if len({id(control) for control in controls}) < len(controls):
        raise ValueError("attach: each control can be given once; one was given twice")
    if any(live.model is host.model for live in _LIVE):
        raise ValueError(
            f"attach: this {type(host.model).__name__} is attached already; use `.add(control)` of its attachment, or "
            "`.detach()` that one first"
        )
    check_diffusers()
    attachment = Attachment(host, backend)
    try:
        attachment._take_over()
        for control in controls:
            attachment.add(control)
        if not controls:
            attachment._say_unserved()
    except BaseException:
        attachment.detach()
        raise
    return attachment


def detach(pipe_or_model: Any) -> None:
    """Give back a model whose attachment is lost, as its ``detach`` would.

    Args:
        pipe_or_model: The pipeline or the denoiser that was attached.

    Raises:
        TypeError, ValueError: As ``attach``; or it is not attached.
    """
    model = pipe_or_model if isinstance(pipe_or_model, nn.Module) else resolve(pipe_or_model).model
    found = [live for live in _LIVE if live.model is model]
    if not found:
        raise ValueError(f"detach: this {type(model).__name__} is not attached; nothing was changed")
    for attachment in found:
        attachment.detach()


class Attachment:
    """A model taken over, until ``detach``. Made by ``weft.attach``.

    Attributes:
        model: The denoiser; None once detached.
        controls: In the order they were given.

    Processors that were exchanged after attaching (``fuse_qkv_projections``, an IP-Adapter, ``set_attn_processor``)
    are noticed at the start of the next generation, and taken over where that is possible.
    """

    def __init__(self, host: Host, backend: str | None) -> None:
        self.model: nn.Module | None = host.model
        self.controls: tuple[Control, ...] = ()
        self._layers = StandIns(host, backend)
        self._host: Host | None = host
        self._pipeline = host.pipeline
        self._family = host.family
        self._model_class = type(host.model).__name__
        self._projector = Projector()
        self._injector = Injector()
        self._call = PipelineCall()
        self._wrapping: Control | None = None  # the control that wraps calls of the pipeline
        self._tracker = GenerationTracker(
            host.pixels_per_cell,
            host.sampler_entry,
            functools.partial(host.family.latent_size, host.model),
            host.family.noisiest,
        )
        self._guard: CallGuard | None = CallGuard(host, self._tracker)
        self._listener: PromptListener | None = None
        self._hooks: list[Any] = []
        self._generation: Generation | None = None
        self._step: Step | None = None
        self._active: list[Control] = []  # the controls that know the running generation
        self._has_said_unknown = False
        self._layers_are_known = True  # whether all controls know the layers as they are

    @property
    def changed(self) -> list[str]:
        """Names of the layers that weft serves."""
        return self._layers.names

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of the attention layers that kept their own processor."""
        return self._layers.skipped

    @property
    def text_cache(self) -> TextCache:
        """The keys and values of the text, with its counts of hits and misses."""
        return self._layers.text_cache

    # --- for the user ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = f"{len(self.changed)} layers" if self.model is not None else "detached"
        names = ", ".join(type(control).__name__ for control in self.controls)
        return f"<weft.Attachment to {self._model_class}: {state}, {len(self.skipped)} skipped, controls [{names}]>"

    def describe(self) -> str:
        """What was taken over, what not and why, and what the controls are; a few lines to print."""
        reasons: dict[str, list[str]] = {}
        for name, reason in self.skipped:
            reasons.setdefault(reason, []).append(name)
        kinds = self._layers.counted()
        lines = [
            repr(self),
            f"  changed: {' and '.join(f'{count} {kind}' for kind, count in sorted(kinds.items())) or 'no'} layers",
            *(f"  skipped: {len(names)} ({reason}): {_shorten(names)}" for reason, names in reasons.items()),
            *(f"  control: {control!r}" for control in self.controls),
            f"  text keys and values: {self.text_cache!r}",
        ]
        return "\n".join(lines)

    @property
    def maps(self) -> Any:
        """The maps that the one control with maps has read; see that control's ``maps``.

        Raises:
            ValueError: No control reads maps, or several do.
        """
        readers: list[Any] = [control for control in self.controls if hasattr(type(control), "maps")]
        if len(readers) != 1:
            raise ValueError(
                f"Attachment.maps: needs exactly one control that reads maps, such as weft.AttentionMaps; "
                f"there are {len(readers)}; ask the control itself for its `.maps`"
            )
        return readers[0].maps

    def add(self, control: Control) -> None:
        """Let ``control`` take part from the next generation on.

        Raises:
            TypeError: Not a control.
            ValueError: It is in use, here or elsewhere, or does not fit the model.
            RuntimeError: The attachment is detached.
        """
        if self.model is None:
            raise RuntimeError("Attachment.add: the model was given back; call weft.attach again")
        _check_control(control)
        if any(control is used for live in _LIVE for used in live.controls):
            raise ValueError(f"attach: {type(control).__name__} is in use already; make another, or remove it there")
        if type(control).check_model is not Control.check_model:
            control.check_model(base_model(self._host))
        try:
            around = control.wrap_calls(self._pipeline)
            self._check_served(control)
            control.attached(self._layers.layers)
            if control.adds_at_places:
                self._injector.take_over(self.model)
            if around is not None:
                if self._wrapping is not None:
                    raise ValueError(
                        "attach: one control at a time may wrap the calls of a pipeline; "
                        f"{type(self._wrapping).__name__} does: remove that first"
                    )
                assert self._guard is not None
                self._guard.inner, self._wrapping = around, control
        except BaseException:
            control.detached()  # it must not believe that it is attached
            self._leave_unused()
            raise
        if control.adds_to_projections:
            self._projector.take_over(self.model, self._family.projections(self.model))
        self.controls = (*self.controls, control)

    def remove(self, control: Control) -> None:
        """Take ``control`` out again.

        Raises:
            ValueError: It is not one of ``controls``.
        """
        if not any(control is attached for attached in self.controls):
            raise ValueError(f"Attachment.remove: {control!r} is not attached here")
        self.controls = tuple(other for other in self.controls if other is not control)
        self._active = [other for other in self._active if other is not control]
        self._leave_unused()
        if control is self._wrapping and self._guard is not None:
            self._guard.inner = self._wrapping = None
        control.detached()

    def describe_prompt(
        self, text: str | Sequence[str], embeds: Tensor, *, negative_embeds: Tensor | None = None
    ) -> None:
        """Say which text embeddings are of that ``encode_prompt`` of the pipeline did not make.

        For weighted prompts (compel and the like) and for prompts longer than the text encoder. From then on controls
        find words in passes that carry ``embeds``, by the tensor itself or by equal values.

        Args:
            text: What was encoded, without marks of weights; one text for every row, or one for each.
            embeds: [images, Nk, C], as the denoiser gets them in the rows with the prompt. Where Nk is a multiple of
                what the text encoder reads, the text is taken to be cut into rows of that many tokens.
            negative_embeds: Those of the rows without the prompt, so that passes of them alone are known as such.

        Raises:
            RuntimeError: The attachment is detached.
            ValueError: There is no pipeline with a tokenizer, or the numbers of texts and rows do not fit.
        """
        if self._host is None:
            raise RuntimeError("Attachment.describe_prompt: the model was given back; call weft.attach again")
        prompt = described(self._host, text, embeds, negative_embeds)
        if self._listener is not None:
            self._listener.remember(embeds, prompt)
        self._tracker.announce(prompt)

    def reset(self) -> None:
        """Let the next pass of the denoiser begin a new generation.

        Needed only around a bare model whose loop starts again at the timestep where it ended (one-step models);
        everywhere else a new generation is noticed by itself.
        """
        self._tracker.reset()

    def detach(self) -> None:
        """Give the model back as it was: the same processor objects, no hook, no attribute. May be called again.

        Controls and their results stay readable. Warns when another tool wrapped ``encode_prompt`` after us and
        still holds on to it; what is last on should be first off.
        """
        model, self.model = self.model, None
        if model is None:
            return
        for hook in self._hooks:
            hook.remove()
        self._layers.give_back()
        _LIVE.discard(self)
        if self._listener is not None and not self._listener.remove():
            warnings.warn(
                "Attachment.detach: `encode_prompt` of the pipeline was wrapped by something else after weft was "
                "attached and still is; undo that first next time (last on, first off). weft's own wrapper under it "
                "does nothing any more.",
                RuntimeWarning,
                stacklevel=2,
            )
        self._leave_calls()
        self._host = self._pipeline = self._listener = self._generation = self._step = None
        self._hooks, self._active = [], []
        self._projector.give_back()
        self._injector.give_back()
        self._guard, self._tracker = None, GenerationTracker()
        for control in self.controls:
            control.detached()

    # --- around the model -----------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        assert self.model is not None and self._host is not None
        _LIVE.add(self)
        self._layers.install()
        self._hooks = [
            # first in line, so that what other hooks change does not reach the controls half done
            self.model.register_forward_pre_hook(_PassHook(self._before_pass), prepend=True, with_kwargs=True),
            self.model.register_forward_hook(_PassHook(self._after_pass)),
            *self._family.hooks(self.model),
        ]
        if self._host.encodes_prompts:
            self._listener = PromptListener(self._host, self._tracker.announce, self._is_negative)
        if self._pipeline is not None:
            assert self._guard is not None
            self._call.take_over(self._pipeline, self._guard.around)

    def _leave_unused(self) -> None:
        """Give back what was taken over for controls that are no longer there."""
        if not any(control.adds_to_projections for control in self.controls):
            self._projector.give_back()
        if not any(control.adds_at_places for control in self.controls):
            self._injector.give_back()

    def _leave_calls(self) -> None:
        self._wrapping = None
        if not self._call.give_back():
            warnings.warn(
                "Attachment.detach: the class of the pipeline was changed by something else after weft was attached, "
                "and was left alone; undo that first next time (last on, first off)",
                RuntimeWarning,
                stacklevel=3,
            )

    def _check_served(self, control: Control) -> None:
        """Say which layers ``control`` cannot reach; raise where it can reach none."""
        found = self._layers.refusals()
        if found is None or not control.needs_attention:
            return
        if not len(self._layers):
            raise ValueError(f"attach: {type(control).__name__} needs attention layers, and {found}")
        warnings.warn(f"attach: {type(control).__name__} acts on a part of the model: {found}", stacklevel=4)

    def _say_unserved(self) -> None:
        """Warn where nothing can be asked of the model."""
        if not len(self._layers):
            warnings.warn(f"attach: {self._layers.refusals()}", stacklevel=4)

    def _say_unknown(self) -> None:
        """Say once that a pass carries text that was not announced."""
        if self._has_said_unknown:
            return
        self._has_said_unknown = True
        warnings.warn(
            "attach: a pass of the denoiser carries text that `encode_prompt` did not make, so controls that need "
            "words leave it alone; say what it is with `attachment.describe_prompt(text, embeds)`",
            stacklevel=2,
        )

    def _is_negative(self, arguments: Mapping[str, Any]) -> bool:
        """Whether these arguments of ``encode_prompt`` are of a prompt to be guided away from."""
        call = None if self._guard is None else self._guard.arguments
        if call is None or self._tracker.has_begun:
            return False
        given = arguments.get("prompt_embeds")
        if given is not None:
            return given is not call.get("prompt_embeds") and given is call.get("negative_prompt_embeds")
        if call.get("prompt") is None:
            return False
        texts = _listed(arguments.get("prompt"))
        # what comes first is the prompt, though the pipeline may have rewritten it (LongCat)
        is_other = self._tracker.has_announcement or texts == _listed(call.get("negative_prompt"))
        return is_other and texts != _listed(call["prompt"])

    # --- around a pass --------------------------------------------------------------------------------------------

    def _before_pass(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self.controls and not len(self._layers):
            return None
        assert self._guard is not None
        self._guard.enter()
        call = self._family.read_call(model, args, kwargs)
        step = self._tracker.advance(call)
        step = replace(step, ranges=self._family.ranges(model, call, step.generation.latent_size))
        if step.generation is not self._generation:
            self._begin(step.generation)
        if self._step is None or _moment(step) != _moment(self._step) or step.generation is not self._step.generation:
            for control in self._active:
                control.begin_step(step)
        self._step = step
        if step.generation.prompt is not None and not self._tracker.text_is_known and self._active:
            self._say_unknown()
        self._layers.before_pass(self._active, step)
        self._projector.before_pass(self._active, step)
        self._injector.before_pass(self._active, call, step)
        text = call.text
        for control in self._active:
            text = control.replace_text(text, step)
        return None if text is call.text else self._family.with_text(model, args, kwargs, text)

    def _begin(self, generation: Generation) -> None:
        gained, lost = self._layers.install()
        if gained or lost:
            self._layers_are_known = False
            logger.warning(
                "attach: processors were exchanged since the last generation; %d layers are served again, %d keep "
                "their own processor now (see `.skipped`)",
                gained,
                lost,
            )
        self.text_cache.clear()
        self._active = []
        try:
            # also where a control refused the layers last time: it will refuse them again
            if not self._layers_are_known:
                for control in self.controls:
                    self._check_served(control)
                    control.attached(self._layers.layers)
                self._layers_are_known = True
            for control in self.controls:
                control.begin_generation(generation)
        except BaseException:
            self._tracker.cancel()
            raise
        self._active = list(self.controls)
        self._generation = generation

    def _after_pass(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        step = self._step
        if step is None:  # no layer is served, and no control is there
            return
        self._injector.after_pass()
        self._layers.after_pass(step)
        for control in self._active:
            control.end_pass(step)


class _PassHook:
    """A hook of the denoiser that a compiler does not look into, and that a copy of the model does not take along."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, model: nn.Module, *arguments: Any) -> Any:
        return self._run(model, *arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> _PassHook:
        return _PassHook(_do_nothing)

    def __reduce__(self) -> Any:
        return _PassHook, (_do_nothing,)


def _do_nothing(*arguments: Any) -> None:
    """The hook of a copied model."""


def _check_control(control: Any) -> None:
    if isinstance(control, type) and issubclass(control, Control):
        raise TypeError(f"attach: a control must be an instance; got the class, write {control.__name__}(...)")
    if not isinstance(control, Control):
        raise TypeError(
            f"attach: a control must be a weft control such as AttentionMaps; got {type(control).__name__}"
        )


def _moment(step: Step) -> tuple[int, float]:
    return step.index, step.timestep


def _listed(prompt: Any) -> list[Any]:
    return [prompt] if isinstance(prompt, str) else list(prompt or ())


def _shorten(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]}, ... {names[-1]}"
