"""A way for one control to wrap the calls of a pipeline: what goes in, and the images that come out.

Python looks ``__call__`` up on the class, so the pipeline is given a subclass that differs in it alone; the class is
called as before, keeps nothing, and goes when it is taken off. Other pipelines of the class are not concerned.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any

Run = Callable[..., Any]
# wraps a call: (the pipeline's own call, the arguments by name as they were given) -> result; arguments
# that the pipeline does not have are among them, and refused by the pipeline if they are handed on
Around = Callable[[Run, dict[str, Any]], Any]


class PipelineCall:
    """The calls of at most one pipeline, and what wraps them."""

    def __init__(self) -> None:
        self._pipeline: Any = None
        self._stock: Any = None
        self._ours: Any = None

    def take_over(self, pipeline: Any, around: Around) -> None:
        """Let ``around`` wrap every call of ``pipeline`` from now on.

        Raises:
            ValueError: Something does so already.
        """
        if self._pipeline is not None:
            raise ValueError(
                "attach: one control at a time may wrap the calls of a pipeline; remove the other one first"
            )
        self._pipeline, self._stock = pipeline, type(pipeline)
        self._ours = pipeline.__class__ = _around(type(pipeline), pipeline, around)

    def give_back(self) -> bool:
        """Give the pipeline its class back.

        Returns:
            False when other code has changed its class since; it is then left alone.
        """
        pipeline, stock, ours = self._pipeline, self._stock, self._ours
        self._pipeline = self._stock = self._ours = None
        if pipeline is None:
            return True
        if type(pipeline) is not ours:
            return False
        pipeline.__class__ = stock
        return True


def _around(stock: Any, pipeline: Any, around: Around) -> type:
    """A subclass of ``stock`` that calls ``around`` for ``pipeline``, and nothing new for a copy of it."""
    own_call: Run = stock.__call__
    signature = inspect.signature(own_call)
    extra = next((name for name, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD), "")
    served = weakref.ref(pipeline)

    @functools.wraps(own_call)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not served():
            return own_call(self, *args, **kwargs)
        unknown = {} if extra else {name: kwargs.pop(name) for name in kwargs.keys() - signature.parameters.keys()}
        named = signature.bind(self, *args, **kwargs).arguments
        named.pop(next(iter(signature.parameters)))
        further = named.pop(extra, {})
        return around(functools.partial(own_call, self), {**named, **further, **unknown})

    def reduce(self: Any, protocol: Any) -> Any:
        # a copy is of the stock class: what wraps calls does not go along
        made, arguments, *rest = stock.__reduce_ex__(self, protocol)
        return made, tuple(stock if argument is type(self) else argument for argument in arguments), *rest

    same = {"__module__": stock.__module__, "__qualname__": stock.__qualname__, "__doc__": stock.__doc__}
    return type(stock.__name__, (stock,), {**same, "__call__": call, "__reduce_ex__": reduce})
