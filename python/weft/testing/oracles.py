"""When is a result right? Each oracle compares with float64 and asks for no more than plain PyTorch itself attains.

Every comparison is written so that a NaN fails it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# roundings of the accumulation that eager may be spared by luck, which a handful of values does not average out
LUCKY_ROUNDINGS = 8


def error_budget(eager: Tensor, gold: Tensor, factor: float, size: float = 0.0) -> float:
    """Largest error a kernel may make: ``factor`` times eager's own, plus one rounding step.

    Args:
        eager: What plain PyTorch computes in the tested dtype; the dtype gives the rounding step.
        gold: The same in float64.
        factor: How many times eager's error is allowed.
        size: Magnitude of the terms that are summed, where they may cancel to less than any of them: a gradient
            that is zero in exact arithmetic, say. ``LUCKY_ROUNDINGS`` of it, in float32 or better, are allowed too.

    Returns:
        A bound on the largest absolute error, in the unit of ``gold``.
    """
    if not gold.numel():
        return 0.0
    step = torch.finfo(eager.dtype).eps * gold.abs().max().item()
    return factor * (eager.double() - gold).abs().max().item() + step + _cancelled(eager, size)


def assert_as_accurate_as_eager(
    name: str, actual: Tensor, eager: Tensor, gold: Tensor, factor: float = 2.0, size: float = 0.0
) -> None:
    """``actual`` has the shape and dtype of ``eager`` and stays within its ``error_budget``.

    Raises:
        AssertionError: It does not; the message shows the worst place.
    """
    assert actual.shape == eager.shape, f"{name}: shape {list(actual.shape)}, expected {list(eager.shape)}"
    assert actual.dtype == eager.dtype, f"{name}: {actual.dtype}, expected {eager.dtype}"
    if not gold.numel():
        return
    error = (actual.double() - gold).abs()
    # argmax stops at a NaN if there is one, so that the message shows it
    place = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
    budget = error_budget(eager, gold, factor, size)
    assert error[place].item() <= budget, (
        f"{name}: error {error[place].item():.3g} at {list(place)} is over the budget of {budget:.3g}: "
        f"got {actual[place].item():.9g}, float64 gives {gold[place].item():.9g}, eager {eager[place].item():.9g}"
    )


def relative_l2(actual: Tensor, gold: Tensor) -> float:
    """Norm of the error over the norm of ``gold``; 0 for two zeros, inf for an error where ``gold`` is zero."""
    error, size = (actual.double() - gold.double()).norm().item(), gold.double().norm().item()
    if error == 0.0:
        return 0.0
    return error / size if size else float("inf")


def cosine(actual: Tensor, gold: Tensor) -> float:
    """Cosine of the angle between the two as vectors; 1 if both are zero, 0 if only one is."""
    a, g = actual.double().flatten(), gold.double().flatten()
    sizes = (a.norm() * g.norm()).item()
    if sizes == 0.0:
        return 1.0 if a.norm().item() == g.norm().item() else 0.0
    return float((a @ g).item() / sizes)


def assert_unbiased(
    name: str, actual: Tensor, eager: Tensor, gold: Tensor, factor: float = 3.0, size: float = 0.0
) -> None:
    """For long reductions: the error *spread over all elements* is no larger than eager's.

    A small bias of every element passes a largest-error bound; it does not pass this one. The relative L2 error
    may be ``factor`` times eager's plus one rounding step (and ``size`` as in ``error_budget``), and the angle what
    such an error can turn.

    Raises:
        AssertionError: It is larger, or not a number.
    """
    norm = gold.norm().item()
    allowance = torch.finfo(eager.dtype).eps * norm + _cancelled(eager, size) * gold.numel() ** 0.5
    bound = factor * (eager.double() - gold).norm().item() + allowance
    found = (actual.double() - gold).norm().item()
    assert found <= bound, f"{name}: L2 error {found:.3g} is over {bound:.3g}, beside a norm of {norm:.3g}"
    if bound < norm:
        # an error of relative size e turns a vector by at most asin(e), and 1 - cos(asin(e)) <= e * e
        angle = cosine(actual, gold)
        assert 1.0 - angle <= (bound / norm) ** 2 + 1e-12, f"{name}: cosine with float64 is {angle:.12g}"


def assert_bitwise(name: str, actual: Tensor, expected: Tensor) -> None:
    """Same shape, dtype and bits: NaN equals the same NaN, and -0 differs from 0.

    Raises:
        AssertionError: They differ; the message counts the places and shows the first.
    """
    assert actual.shape == expected.shape, f"{name}: shape {list(actual.shape)}, expected {list(expected.shape)}"
    assert actual.dtype == expected.dtype, f"{name}: {actual.dtype}, expected {expected.dtype}"
    differs = _bits(actual) != _bits(expected)
    count = int(differs.sum())
    if count:
        place = tuple(differs.nonzero()[0].tolist())
        raise AssertionError(
            f"{name}: {count} of {actual.numel()} values differ in their bits; at {list(place)} "
            f"{actual[place].item()!r} and {expected[place].item()!r}"
        )


def assert_differs(found: Tensor | np.ndarray, other: Tensor | np.ndarray, share: float = 1e-3) -> None:
    """Some value of ``found`` is away from that of ``other`` by more than rounding explains.

    Two results that are not equal may be one result by two ways; last bits also differ from one processor to another.

    Args:
        found, other: Of one shape, any dtype.
        share: How far, in parts of the largest magnitude in both. Many times the error that a run in this dtype
            accumulates: the default suits float32 models of a few layers.

    Raises:
        AssertionError: They are as close as that everywhere, or a value is not finite.
    """
    one, two = torch.as_tensor(found).detach().double(), torch.as_tensor(other).detach().double()
    assert one.shape == two.shape, f"shapes are {list(one.shape)} and {list(two.shape)}"
    apart, scale = (one - two).abs().max().item(), torch.maximum(one.abs(), two.abs()).max().item()
    assert share * scale < apart < float("inf"), (
        f"must differ by more than {share:g} of the largest value, {scale:.3g}; the largest difference is {apart:.3g}"
    )


def _cancelled(eager: Tensor, size: float) -> float:
    wide = torch.promote_types(eager.dtype, torch.float32)
    return LUCKY_ROUNDINGS * torch.finfo(wide).eps * size


def _bits(x: Tensor) -> Tensor:
    same_size = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.detach().contiguous().view(same_size[x.element_size()])
