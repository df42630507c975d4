"""How an op is called where torch differentiates, batches or traces what is called.

Three ways, one choice for all ops:

- the backend itself, for plain inference;
- the registered operator, which autograd, compilers and tracing modes take as one operation;
- the definition in plain PyTorch, inside a transform of ``torch.func`` (vmap, grad, vjp, jvp, jacrev, jacfwd, hessian)
  and inside ``torch.autograd.forward_ad.dual_level``: no rule of a registered operator covers their combinations, and
  torch knows how to transform each operation of the definition.

Second derivatives of the operators come from the definition, too (``second_gradients``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from weft._dispatch import Op, named_in_trace, requested_backend

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def call(op: Op, operator: Callable[..., Any], backend: str | None, *arguments: Any) -> Any:
    """The result of ``op``.

    Args:
        op: With ``reference`` among its backends, the definition.
        operator: Takes ``arguments``, of a record its fields, and the name of a backend, "" for none.
        backend: As the public function has it.
        arguments: As backends take them: a record, or one by one.
    """
    if is_transformed():
        return op.definition(backend).forward(*arguments)
    flat = arguments[0] if isinstance(arguments[0], tuple) else arguments
    if needs_operator(flat):
        return operator(*flat, named_in_trace(backend))
    return op.choose(requested_backend(backend), *arguments).forward(*arguments)


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is under way."""
    return forward_ad._current_level >= 0 or _is_in_functional_transform()


def _is_in_functional_transform() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None


# a compiler that traces a transform runs it: this is asked then, and the answer is part of the graph. The mark is all
# that torch.compiler.assume_constant_result makes, but that imports the compiler, and triton with it
_is_in_functional_transform._dynamo_marked_constant = True  # type: ignore[attr-defined]


def needs_operator(arguments: Sequence[Any]) -> bool:
    """Whether autograd, a compiler or a tracing mode must see one registered operator.

    The operator machinery costs some 30 us a call, more than the whole kernel at the smallest layers.
    """
    if torch.compiler.is_compiling() or torch._C._is_tracing() or is_in_torch_dispatch_mode():
        return True
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    if any(type(x) not in _PLAIN_TYPES for x in tensors):
        return True
    # their memory does not hold their values; the dispatcher writes those out for an operator
    if any(x.is_neg() or x._is_zerotensor() for x in tensors):
        return True
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def second_gradients(
    definition: Callable[..., Any],
    arguments: Sequence[Any],
    places: Sequence[int],
    doutputs: tuple[Tensor, ...],
    arriving: Sequence[Tensor | None],
) -> tuple[Any, ...]:
    """Carry what arrives at the gradients of an op back to what these were made of.

    Args:
        definition: Takes ``arguments``; plain PyTorch, whose results are what ``doutputs`` arrived at.
        arguments: Of the op.
        places: Which of them have gradients; those that are None are passed over.
        doutputs: What arrived at the results of the op, one a result.
        arriving: At the gradient of each of ``places``; None or empty where that was not asked for.

    Returns:
        What goes to each of ``doutputs``, then to each of ``arguments``, None for those without; differentiable again.
    """
    pairs = [(place, ddx) for place, ddx in zip(places, arriving, strict=True) if arguments[place] is not None]
    inputs = [arguments[place] for place, _ in pairs]

    def results(*inputs: Tensor) -> tuple[Tensor, ...]:
        filled = list(arguments)
        for (place, _), x in zip(pairs, inputs, strict=True):
            filled[place] = x
        found = definition(*filled)
        return found if isinstance(found, tuple) else (found,)

    def gradients(doutputs: tuple[Tensor, ...], *inputs: Tensor) -> tuple[Tensor, ...]:
        pull = torch.func.vjp(results, *inputs)[1]
        return tuple(pull(doutputs))

    pull = torch.func.vjp(gradients, doutputs, *inputs)[1]
    filled = [
        torch.zeros_like(x) if ddx is None or ddx.shape != x.shape else ddx
        for (_, ddx), x in zip(pairs, inputs, strict=True)
    ]
    ddoutputs, *dinputs = pull(tuple(filled))
    found: list[Tensor | None] = [None] * len(arguments)
    for (place, _), dx in zip(pairs, dinputs, strict=True):
        found[place] = dx
    return (*ddoutputs, *found)
