"""Processors whose code runs around another attention: which are refused, and that the others keep their own code."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as functional_of_torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from weft.attach.processors.rebinding import AttentionCall, rebind, refusal, with_signature

# --- what is refused -------------------------------------------------------------------------------------------------


class WithWeights(nn.Module):
    def __call__(self, attn: Any, x: Tensor) -> Tensor:
        return functional_of_torch.scaled_dot_product_attention(x, x, x)


class ByHand:
    def __call__(self, attn: Any, x: Tensor) -> Tensor:
        return (x @ x.mT).softmax(-1) @ x


class Builtin:
    __call__ = len


def helper(x: Tensor) -> Tensor:
    return dispatch_attention_fn(x, x, x)


class WithHelper:
    def __call__(self, attn: Any, x: Tensor) -> Tensor:
        return helper(x) + dispatch_attention_fn(x, x, x)


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (WithWeights, "WithWeights is a module with weights of its own"),
        (ByHand, "ByHand calls neither dispatch_attention_fn nor F.scaled_dot_product_attention"),
        (Builtin, "Builtin is not written in Python"),
        (WithHelper, "WithHelper calls attention in a function of its own as well, helper"),
    ],
)
def test_what_cannot_be_rebound_is_refused_by_name(processor: type, reason: str) -> None:
    assert refusal(processor) == reason


# --- what is rebound -------------------------------------------------------------------------------------------------


class ByDispatcher:
    """[B, N, H, D], with keyword arguments, and a scale of its own."""

    scale = 0.5

    def __call__(self, attn: Any, x: Tensor, *, gain: float = 2.0) -> Tensor:
        return gain * dispatch_attention_fn(x, x, 2 * x, scale=self.scale) + attn


class ByAlias:
    """[B, H, N, D], by a module that has another name here."""

    def __call__(self, attn: Any, x: Tensor, gain: float = 2.0) -> Tensor:
        q = x.transpose(1, 2)
        return gain * functional_of_torch.scaled_dot_product_attention(q, q, 2 * q, scale=0.5).transpose(1, 2) + attn


class ByImportedName:
    def __call__(self, attn: Any, x: Tensor, gain: float = 2.0) -> Tensor:
        q = x.transpose(1, 2)
        return gain * scaled_dot_product_attention(q, q, 2 * q, scale=0.5).transpose(1, 2) + attn


class Derived(ByDispatcher):
    scale = 0.25


PROCESSORS = (ByDispatcher, ByAlias, ByImportedName, Derived)


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_processors_own_code_runs_around_another_attention(processor: Any) -> None:
    assert refusal(processor) is None
    calls: list[tuple[AttentionCall, Any, Any]] = []

    def replacement(call: AttentionCall, args: Any, kwargs: Any) -> Any:
        calls.append((call, args, kwargs))
        return 10 * call.run(*args, **kwargs)

    x, host = torch.randn(1, 5, 2, 8, generator=torch.Generator().manual_seed(0)), processor()
    stock = host(1.0, x, gain=3.0)
    rebound = rebind(processor, replacement)
    torch.testing.assert_close(rebound(host, 1.0, x, gain=3.0), 10 * (stock - 1) + 1)
    ((call, args, kwargs),) = calls
    assert call.heads_first is (processor in (ByAlias, ByImportedName))
    assert args[0].shape == ((1, 2, 5, 8) if call.heads_first else (1, 5, 2, 8))
    assert kwargs == {"scale": host.scale if isinstance(host, ByDispatcher) else 0.5}
    # the processor itself, and everybody else's attention, are as they were
    assert torch.equal(host(1.0, x, gain=3.0), stock)
    assert len(calls) == 1


def test_attention_that_others_exchanged_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    rebound = rebind(ByAlias, lambda call, args, kwargs: call.run(*args, **kwargs))
    x = torch.randn(1, 5, 2, 8)
    monkeypatch.setattr(
        functional_of_torch, "scaled_dot_product_attention", lambda q, k, v, **others: torch.zeros_like(q)
    )
    assert torch.equal(rebound(ByAlias(), 1.0, x), torch.ones_like(x))


# --- signatures ------------------------------------------------------------------------------------------------------


def plain(self: Any, attn: Any, x: Any) -> Any: ...
def defaults(self: Any, attn: Any, x: Any = None, *, temb: Any = (1, 2), scale: float = 1.5) -> Any: ...
def stars(self: Any, attn: Any, *args: Any, scale: Any = None, **kwargs: Any) -> Any: ...
def keywords(self: Any, attn: Any, *, x: Any) -> Any: ...
def further(self: Any, attn: Any, x: Any = 0, **kwargs: Any) -> Any: ...


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("attn",), {}),
    (("attn", "x"), {}),
    (("attn",), {"x": 5}),
    (("attn", "x"), {"scale": 2}),
    (("attn", "x", "y"), {}),
    ((), {"attn": "attn", "x": 5}),
    (("attn", "x"), {"unknown": 1}),
]


@pytest.mark.parametrize("call", [plain, defaults, stars, keywords, further])
def test_a_signature_is_kept_and_arguments_arrive(call: Callable[..., Any]) -> None:
    made = with_signature(call, "run")
    signature = inspect.signature(call)
    ours = inspect.signature(made)
    shapes = [[(p.name, p.kind, p.default) for p in known.parameters.values()] for known in (signature, ours)]
    assert shapes[0] == shapes[1]

    class Receiver:
        def run(self, *args: Any, **kwargs: Any) -> Any:
            return signature.bind(self, *args, **kwargs)

    receiver = Receiver()
    accepted = 0
    for args, kwargs in CALLS:
        try:
            expected = signature.bind(receiver, *args, **kwargs)
        except TypeError:
            with pytest.raises(TypeError):
                made(receiver, *args, **kwargs)
            continue
        arrived = made(receiver, *args, **kwargs)
        for known in (expected, arrived):
            known.apply_defaults()
        assert arrived.arguments == expected.arguments
        accepted += 1
    assert accepted
