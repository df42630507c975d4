"""Fake-to-fake and fake-to-real: published forms in float64, what collapse gives, what has no influence, messages."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weft.ops import contrastive_loss as contrastive_op
from weft.testing import assert_differs
from weft.train.distribution.kinds import FakeToFake, FakeToReal, check_losses, losses_named
from weft.train.distribution.losses import distribution_loss, features_of

BOTH = losses_named("f2f,f2r")
F2F, F2R = BOTH


def features(count: int, width: int = 5, views: int = 3, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, width, generator=generator, dtype=torch.float64) for _ in range(views)]


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """SimCLR's equation 1 by cross-entropy: of each view the other, among all but itself."""
    z = F.normalize(torch.cat([first, second]), dim=1)
    count = len(first)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, (torch.arange(2 * count) + count) % (2 * count))


def positive_first(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The same as released: the positive's logit, then those of the others, label 0."""
    z = F.normalize(torch.cat([first, second]), dim=1)
    count = len(first)
    logits = z @ z.T / temperature
    own = torch.cat([logits.diagonal(count), logits.diagonal(-count)])[:, None]
    rows, columns = torch.arange(2 * count), torch.arange(2 * count) % count
    others = logits[columns[:, None] != columns[None]].view(2 * count, -1)
    return F.cross_entropy(torch.cat([own, others], 1), torch.zeros_like(rows))


def info_nce(fake: Tensor, real: Tensor, temperature: float) -> Tensor:
    """Both directions, averaged."""
    logits = F.normalize(fake, dim=1) @ F.normalize(real, dim=1).T / temperature
    own = torch.arange(len(fake))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def differentiated(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-10)


# --- published forms -------------------------------------------------------------------------------------------------


@given(count=st.integers(2, 12), width=st.integers(1, 9), temperature=st.sampled_from((0.07, 0.5, 3.0)))
@settings(max_examples=40, deadline=None)
def test_fake_to_fake_is_nt_xent(count, width, temperature):
    first, second, _ = (x.requires_grad_() for x in features(count, width))
    loss = distribution_loss([FakeToFake(temperature=temperature, weight=1.0)], first, second)
    found = differentiated(loss["loss"], first, second)
    for published in (nt_xent, positive_first):
        assert_equal(found, differentiated(published(first, second, temperature), first, second))
    torch.testing.assert_close(loss["f2f"], found[0])


@given(count=st.integers(2, 12), width=st.integers(1, 9), temperature=st.sampled_from((0.05, 0.1, 1.0)))
@settings(max_examples=40, deadline=None)
def test_fake_to_real_is_info_nce(count, width, temperature):
    fake, real, _ = (x.requires_grad_() for x in features(count, width))
    loss = distribution_loss([FakeToReal(temperature=temperature)], fake, None, real)["loss"]
    assert_equal(differentiated(loss, fake), differentiated(info_nce(fake, real, temperature), fake))


def test_summed_directions_are_twice_the_weight():
    fake, real, _ = features(6)
    logits = F.normalize(fake, dim=1) @ F.normalize(real, dim=1).T / 0.1
    summed = F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))
    torch.testing.assert_close(distribution_loss([FakeToReal(weight=2.0)], fake, None, real)["loss"], summed)


def test_one_direction():
    fake, real, _ = features(6)
    logits = F.normalize(fake, dim=1) @ F.normalize(real, dim=1).T / 0.1
    found = distribution_loss([FakeToReal(symmetric=False)], fake, None, real)["f2r"]
    torch.testing.assert_close(found, F.cross_entropy(logits, torch.arange(6)))


def test_defaults_are_the_published_ones():
    assert (F2F.temperature, F2F.weight, F2F.pairing) == (0.5, 0.2, "two_captions")
    assert (F2R.temperature, F2R.weight, F2R.symmetric) == (0.1, 1.0, True)
    assert losses_named("none") == losses_named("") == ()
    assert losses_named(" f2r , f2f ") == (F2R, F2F)
    assert losses_named("f2f", f2f_weight=3.0, f2f_temperature=0.1, pairing="two_noises") == (
        FakeToFake("two_noises", None, 0.1, 3.0),
    )


# --- what both have --------------------------------------------------------------------------------------------------


@given(count=st.integers(2, 10), seed=st.integers(0, 99), second=st.booleans(), masked=st.booleans())
@settings(max_examples=60, deadline=None)
def test_one_sweep_is_two_losses(count, seed, second, masked):
    """Loss, its parts and gradients; with and without repeated pictures and classes."""
    first, other, real = (x.requires_grad_() for x in features(count, seed=seed))
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(count, (count,), generator=generator)
    images[:2] = torch.tensor([count, count + 1])
    ids = {"images": images, "classes": torch.randint(9, (count,), generator=generator)} if masked else {}
    if masked:
        ids["classes"][:2] = torch.tensor([10, 11])
    together = distribution_loss(BOTH, first, other, real, **ids)
    apart = [distribution_loss([loss], first, other, real, **ids) for loss in BOTH]
    total = apart[0]["loss"] + apart[1]["loss"]
    assert_equal(differentiated(together["loss"], first, other), differentiated(total, first, other))
    torch.testing.assert_close(together["loss"], 0.2 * together["f2f"] + together["f2r"])
    assert [together[name] == one[name] for name, one in zip(("f2f", "f2r"), apart, strict=True)] == [True, True]
    assert not together["f2f"].requires_grad


def test_both_are_one_call_of_the_kernel(monkeypatch: pytest.MonkeyPatch):
    calls = []
    module = __import__("sys").modules[contrastive_op.__module__]
    contrast = module._contrast
    monkeypatch.setattr(module, "_contrast", lambda *args: calls.append(args) or contrast(*args))
    first, second, real = features(4)
    distribution_loss(BOTH, first, second, real)
    assert len(calls) == 1 and len(calls[0][1]) == 2
    # features of two sources cannot be
    distribution_loss(BOTH, [first, first + 1], [second, second], [real, real])
    assert len(calls) == 3


def test_real_features_get_no_gradient():
    first, second, real = (x.requires_grad_() for x in features(5))
    loss = distribution_loss(BOTH, first, second, real)["loss"]
    assert torch.autograd.grad(loss, real, allow_unused=True) == (None,)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_collapsed_features(count):
    """ln(2N - 1), and ln N in each direction; where reals have two views to find, ln 2N of them."""
    same = torch.ones(count, 4, dtype=torch.float64)
    found = distribution_loss(BOTH, same, same, same)
    assert found["f2f"].item() == pytest.approx(math.log(2 * count - 1))
    assert found["f2r"].item() == pytest.approx((math.log(count) + math.log(2 * count)) / 2)
    assert distribution_loss([F2R], same, None, same)["f2r"].item() == pytest.approx(math.log(count))


@given(count=st.integers(2, 24), seed=st.integers(0, 99), temperature=st.sampled_from((0.1, 0.5, 2.0)))
@settings(max_examples=40, deadline=None)
def test_fake_to_fake_has_a_lower_bound(count, seed, temperature):
    """Cosines lie between -1 and 1."""
    least = math.log(1 + (2 * count - 2) * math.exp(-2 / temperature))
    first, second, _ = features(count, seed=seed)
    assert distribution_loss([replace(F2F, temperature=temperature)], first, second)["f2f"].item() > least
    if count == 2:  # two pairs that point away from each other reach it
        away = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
        found = distribution_loss([replace(F2F, temperature=temperature)], away, away)["f2f"]
        assert found.item() == pytest.approx(least)


@given(count=st.integers(2, 9), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_order_and_names_of_ids_do_not_matter(count, seed):
    views = features(count, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    order, names = torch.randperm(count, generator=generator), torch.randperm(99, generator=generator)
    images = torch.arange(count) // 2 * 2 + torch.arange(count).clamp(max=1)
    expected = distribution_loss(BOTH, *views, images=images)
    for moved in (
        distribution_loss(BOTH, *(view[order] for view in views), images=images[order]),
        distribution_loss(BOTH, *views, images=names[images]),
        distribution_loss(BOTH[::-1], *views, images=images),
    ):
        for name, value in expected.items():
            torch.testing.assert_close(moved[name], value)


@pytest.mark.parametrize("scale", [1e-3, 100.0])
def test_length_of_features_does_not_matter(scale):
    views = features(5)
    expected = distribution_loss(BOTH, *views)["loss"]
    torch.testing.assert_close(distribution_loss(BOTH, *(scale * view for view in views))["loss"], expected)


# --- ids -------------------------------------------------------------------------------------------------------------


def test_repeated_pictures_are_positives():
    """Rows 0 and 1 show one picture: each of their views has three positives, each of their reals four."""
    first, second, real = features(4)
    images = torch.tensor([7, 7, 8, 9])
    z, r = F.normalize(torch.cat([first, second]), dim=1), F.normalize(real, dim=1)
    of_rows = images.repeat(2)

    def supcon(logits: Tensor, positive: Tensor, seen: Tensor) -> Tensor:
        logits = logits.masked_fill(~seen, -torch.inf)
        total = logits.masked_fill(~positive, 0).sum(1) / positive.sum(1)
        return (logits.logsumexp(1) - total).mean()

    apart = ~torch.eye(8, dtype=torch.bool)
    f2f = supcon(z @ z.T / 0.5, (of_rows[:, None] == of_rows) & apart, apart)
    logits, positive = z @ r.T / 0.1, of_rows[:, None] == images
    everything = torch.ones_like(positive)
    f2r = (supcon(logits, positive, everything) + supcon(logits.T, positive.T, everything.T)) / 2
    found = distribution_loss(BOTH, first, second, real, images=images)
    torch.testing.assert_close(found["f2f"], f2f)
    torch.testing.assert_close(found["f2r"], f2r)


@pytest.mark.parametrize("class_mask", [None, True, False])
def test_classes_are_no_negatives(class_mask):
    first, second, _ = features(4)
    classes = torch.tensor([3, 3, 4, 5])
    loss = replace(F2F, class_mask=class_mask)
    found = distribution_loss([loss], first, second, classes=classes)["f2f"]
    z, pairs, labels = F.normalize(torch.cat([first, second]), dim=1), torch.arange(4).repeat(2), classes.repeat(2)
    hidden = (labels[:, None] == labels) & (pairs[:, None] != pairs) & torch.tensor(class_mask is not False)
    logits = (z @ z.T / 0.5).masked_fill(hidden | torch.eye(8, dtype=torch.bool), -torch.inf)
    torch.testing.assert_close(found, F.cross_entropy(logits, (torch.arange(8) + 4) % 8))


def test_more_reals_than_fakes():
    """Each row has its reals by the ids; one has none, and has no part."""
    fake, real = features(3, views=1)[0], features(5, views=1, seed=1)[0]
    images, of_reals = torch.tensor([0, 1, 8]), torch.tensor([0, 0, 1, 2, 2])
    found = distribution_loss([replace(F2R, symmetric=False)], fake, None, real, images=(images, of_reals))["f2r"]
    logits = F.normalize(fake, dim=1) @ F.normalize(real, dim=1).T / 0.1
    expected = (logits[0].logsumexp(0) - logits[0, :2].mean() + logits[1].logsumexp(0) - logits[1, 2]) / 2
    torch.testing.assert_close(found, expected)


# --- around it -------------------------------------------------------------------------------------------------------


def test_of_two_dtypes_the_wider():
    first, second, real = features(5)
    found = distribution_loss(BOTH, first.float(), second.float(), real)
    assert found["loss"].dtype == torch.float64
    half = distribution_loss(BOTH, first.bfloat16(), second.bfloat16(), real.bfloat16())
    assert half["loss"].dtype == torch.float32
    torch.testing.assert_close(
        half["loss"].double(), distribution_loss(BOTH, first, second, real)["loss"], rtol=0.1, atol=0
    )


def test_no_loss_and_no_weight():
    first, second, real = (x.requires_grad_() for x in features(4))
    assert distribution_loss((), first) == {"loss": 0}
    weightless = [replace(loss, weight=0.0) for loss in BOTH]
    found = distribution_loss(weightless, first, second, real)
    assert found["loss"] == 0 and found["f2f"] > 0
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(found["loss"], (first, second)))


def test_each_source_sees_each_view_once():
    seen: list[tuple[str, bool]] = []

    def source(name: str) -> Any:
        def features(pictures: Tensor) -> Tensor:
            seen.append((name, torch.is_grad_enabled()))
            return pictures.flatten(1) * (2 if name == "mine" else 1)

        return features

    mine, callers = source("mine"), source("the caller's")
    pictures = [torch.randn(3, 3, 4, 4) for _ in range(3)]
    first, second, real = features_of(BOTH, callers, *pictures)
    assert second is not None and real is not None
    assert first[0] is first[1] and second[0] is second[1] and real[0] is real[1]
    assert sorted(seen) == [("the caller's", False), ("the caller's", True), ("the caller's", True)]
    seen.clear()
    first, second, real = features_of([F2F, replace(F2R, features=mine)], callers, *pictures[:2])
    assert real is None and len(seen) == 4
    assert_differs(*first)
    with pytest.raises(ValueError, match=r"features_of: `f2r` must have a source of features.*FakeToReal\(features="):
        features_of([replace(F2F, features=mine), F2R], None, *pictures)


# --- messages --------------------------------------------------------------------------------------------------------

ONES = torch.ones(4, 3)
SOME = torch.arange(12.0).view(4, 3) + 1


def arguments(**changed: Any) -> dict[str, Any]:
    return {"losses": BOTH, "first": SOME, "second": SOME.flip(0), "real": SOME.flip(1)} | changed


MESSAGES = {
    "one row": (arguments(first=ONES[:1], second=ONES[:1], real=ONES[:1]), "at least 2 rows"),
    "zeros": (arguments(second=SOME * torch.tensor([[1], [0], [1], [1]])), "got 1 of 8, the first at 5"),
    "zeros in reals": (arguments(real=SOME * 0), "`real` must have no row of zero norm"),
    "one class": (arguments(classes=torch.zeros(4, dtype=torch.int64)), "leave some row a positive and a negative"),
    "one picture": (arguments(images=torch.zeros(4, dtype=torch.int64)), "ids by which `f2f` has nothing to compare"),
    "no positive": (
        arguments(losses=[F2R], images=(torch.arange(4), torch.arange(4, 8))),
        "ids by which `f2r` has nothing to compare",
    ),
    "no classes": (arguments(losses=[replace(F2F, class_mask=True)]), "`classes` must be given, since FakeToFake has"),
    "feature maps": (arguments(first=torch.ones(4, 3, 2, 2)), "`first` must be features [N, D], one row a picture"),
    "a vector": (arguments(real=torch.ones(4)), "`real` must be features [N, D]"),
    "widths": (arguments(real=torch.ones(4, 5)), "`real` must be as wide as `first`, 3; got 5"),
    "views of two lengths": (arguments(second=SOME[:3]), "a row for each row of `first`, 4; got 3"),
    "reals of another length": (arguments(real=SOME[:3]), "or `images` must say which belong together; got 3 rows"),
    "no second": (arguments(second=None), "`second` must be given for FakeToFake, features of the other view"),
    "no real": (arguments(real=None), "`real` must be given for FakeToReal, features of real pictures"),
    "twice": (arguments(losses=[F2F, F2F]), "`losses` must have each kind once; got ['f2f', 'f2f']"),
    "too few features": (arguments(first=[SOME]), "features for each of the 2 losses; got 1"),
    "ids of another length": (arguments(images=torch.arange(3)), "`images` must have an id for each of the 4 rows"),
    "ids of reals": (
        arguments(classes=(torch.arange(4), torch.arange(3))),
        "`classes` must have an id for each of the 4 reals; got [3]",
    ),
}
TYPES = {
    "features of a list": (arguments(second=[[1.0], [2.0]]), "`second` must be a tensor of features [N, D]; got list"),
    "integers": (arguments(first=torch.ones(4, 3).int()), "`first` must be of a float dtype; got torch.int32"),
    "a name": (arguments(losses="f2f"), "make them by losses_named('f2f')"),
    "no sequence": (arguments(losses=None), "must hold FakeToFake and FakeToReal; got NoneType; pass a tuple of them"),
    "another loss": (arguments(losses=[torch.nn.MSELoss()]), "must hold FakeToFake and FakeToReal; got MSELoss"),
    "ids of a list": (arguments(images=[1, 2]), "`images` must be a tensor of ids, or two"),
    "a mask": (arguments(classes=torch.ones(4).bool()), "`classes` must be integer ids; got torch.bool"),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_bad_values(case):
    given, message = MESSAGES[case]
    with pytest.raises(ValueError, match=r"distribution_loss: .*" + re.escape(message)):
        distribution_loss(**given)


@pytest.mark.parametrize("case", TYPES)
def test_bad_types(case):
    given, message = TYPES[case]
    with pytest.raises(TypeError, match=r"distribution_loss: .*" + re.escape(message)):
        distribution_loss(**given)


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        ("f2f", TypeError, "must hold FakeToFake and FakeToReal; got 'f2f'; make them by losses_named('f2f')"),
        (F2F, TypeError, "must hold FakeToFake and FakeToReal; got FakeToFake; pass a tuple of them"),
        ((F2F, "f2r"), TypeError, "must hold FakeToFake and FakeToReal; got str; make them by"),
        ((F2R, F2F, F2R), ValueError, "must have each kind once; got ['f2r', 'f2f', 'f2r']; leave all but one"),
    ],
)
def test_what_losses_are_not(losses, error, message):
    with pytest.raises(error, match=re.escape(f"fit: `distribution.losses` {message}")):
        check_losses(losses, who="fit", name="distribution.losses")


@pytest.mark.parametrize("losses", [(), [F2F], (F2R, F2F)])
def test_what_losses_are(losses):
    check_losses(losses, who="fit")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: losses_named("f2f,f2g"),
            "f2f and f2r with a comma between; got 'f2f,f2g', of which 'f2g' is unknown",
        ),
        (lambda: losses_named("f2f,f2f"), "must have each loss once; got 'f2f,f2f'"),
        (lambda: FakeToFake(temperature=0), "`temperature` must be above 0 and finite; got 0"),
        (lambda: FakeToReal(weight=-1), "`weight` must be at least 0 and finite; got -1"),
        (lambda: FakeToReal(weight=math.nan), "`weight` must be at least 0 and finite; got nan"),
        (lambda: FakeToFake("two_dogs"), "must be 'two_captions' or 'two_noises'; got 'two_dogs'"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FakeToFake(temperature="0.5"), "`temperature` must be a number; got str"),
        (lambda: FakeToReal(symmetric=1), "`symmetric` must be True or False; got 1"),
        (lambda: FakeToReal(class_mask="yes"), "`class_mask` must be True, False or None; got 'yes'"),
        (
            lambda: FakeToFake(features="clip"),
            "`features` must be callable, from pictures to [N, D], or None; got str",
        ),
    ],
)
def test_settings_of_the_wrong_type(make, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        make()
