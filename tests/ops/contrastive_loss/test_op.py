"""``contrastive_loss`` and its gradients against float64 autograd, and what its contract promises."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weft.ops import Columns, contrastive_loss
from weft.ops.contrastive_loss import cpu
from weft.testing import (
    FEATURE_LAYOUTS,
    FEATURES,
    PAIR_EXCLUSIONS,
    PAIRS,
    ContrastiveCase,
    ContrastiveInputs,
    assert_as_accurate_as_eager,
    assert_bitwise,
    assert_unbiased,
    contrastive_loss_eager,
    make_contrastive_inputs,
    relative_l2,
)
from weft.testing.strategies import contrastive_cases

# triton has files of its own: interpreted, a call takes seconds
BACKENDS = ("cpu", "reference")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CASE = ContrastiveCase()
NAMES = ("rows", "cols", "temperature")
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 8, so that a small shape has many of them, the last ones cut."""
    monkeypatch.setattr(cpu, "TILE", 8)


def call(inputs: ContrastiveInputs, backend: str | None = None) -> Tensor:
    return contrastive_loss(**inputs.arguments(), backend=backend)


def differentiate(inputs: ContrastiveInputs, function) -> dict[str, Tensor]:
    """The loss and its gradients, the one that arrives being other than 1."""
    leaves = inputs.with_gradients()
    loss = function(leaves)
    gradients = torch.autograd.grad(1.5 * loss, leaves.leaves(), materialize_grads=True, allow_unused=True)
    return {"loss": loss.detach()} | {f"d{name}": x for name, x in zip(NAMES, gradients, strict=True)}


def check(case: ContrastiveCase, backend: str, seed: int = 0) -> dict[str, Tensor]:
    inputs = make_contrastive_inputs(case, seed)
    found = differentiate(inputs, lambda x: call(x, backend))
    eager = differentiate(inputs, contrastive_loss_eager)
    gold = differentiate(inputs.in_float64(), contrastive_loss_eager)
    # a logit, and what the gradients are differences of
    logit = inputs.rows.double().norm(dim=1).max() * inputs.cols.double().norm(dim=1).max() / case.temperature
    sizes = {"loss": 1 + logit, "drows": logit, "dcols": logit, "dtemperature": logit / case.temperature}
    for name, x in found.items():
        size = sizes[name].item()
        assert_as_accurate_as_eager(name, x, eager[name], gold[name], factor=3.0, size=size)
        assert_unbiased(name, x, eager[name], gold[name], factor=3.0, size=size)
    return found


# --- against float64 ------------------------------------------------------------------------------------------------


@given(case=contrastive_cases(dtypes=DTYPES), backend=st.sampled_from(BACKENDS), seed=st.integers(0, 99))
@settings(max_examples=150)
def test_any_loss_is_as_accurate_as_eager(case, backend, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "TILE", 8)
        check(case, backend, seed)


@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("symmetric", [False, True], ids=["one way", "symmetric"])
def test_features(backend, dtype, features, symmetric):
    check(replace(CASE, dtype=dtype, features=features, symmetric=symmetric), backend)


@each_backend
@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("exclude", PAIR_EXCLUSIONS)
@pytest.mark.parametrize("classes", [False, True], ids=["", "classes"])
@pytest.mark.parametrize("features", ["normal", "spread"])
def test_pairs(backend, pairs, exclude, classes, features):
    case = replace(CASE, pairs=pairs, exclude=exclude, classes=classes, features=features)
    for symmetric in (False, True):
        check(replace(case, symmetric=symmetric), backend)


@each_backend
@pytest.mark.parametrize("layout", FEATURE_LAYOUTS)
def test_layouts(backend, layout):
    check(replace(CASE, layout=layout, symmetric=True), backend)


@each_backend
@pytest.mark.parametrize("temperature", [0.001, 0.01, 0.07, 0.5, 100.0])
def test_temperatures(backend, temperature):
    """From probabilities of 0 and 1 to nearly equal ones; below 1/60 exponentials need their maximum."""
    check(replace(CASE, temperature=temperature, symmetric=True), backend)


@each_backend
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 20), (3, 64), (33, 7), (65, 67)])
def test_sizes(backend, rows, columns):
    for pairs in PAIRS:
        check(replace(CASE, rows=rows, columns=columns, width=5, pairs=pairs, symmetric=True), backend)


def test_the_tile_that_is_used(monkeypatch):
    monkeypatch.undo()
    found = check(ContrastiveCase(700, 1100, 24, pairs="groups", exclude="ids", symmetric=True), "cpu")
    assert found["drows"].abs().max() > 1e-4


def test_finite_differences():
    case = replace(CASE, rows=5, columns=6, width=3, dtype=torch.float64, pairs="groups", exclude="self", classes=True)
    for symmetric in (False, True):
        inputs = make_contrastive_inputs(replace(case, symmetric=symmetric)).with_gradients()
        arguments = inputs.arguments()

        def function(rows, cols, temperature, arguments=arguments):
            return contrastive_loss(**arguments | {"rows": rows, "cols": cols, "temperature": temperature})

        assert torch.autograd.gradcheck(function, inputs.leaves())


@each_backend
@pytest.mark.parametrize("exclude", ["none", "self"])
def test_collapsed_bf16_features_of_a_large_batch(monkeypatch, backend, exclude):
    """Every probability is near 1/N: what drops small ones, or rounds them, loses the gradient here."""
    monkeypatch.undo()
    case = ContrastiveCase(2000, 2000, 32, torch.bfloat16, "collapsed", pairs="views", exclude=exclude)
    inputs = make_contrastive_inputs(replace(case, temperature=0.5))
    found = differentiate(inputs, lambda x: call(x, backend))
    gold = differentiate(inputs.in_float64(), contrastive_loss_eager)
    for name in ("drows", "dcols"):
        assert relative_l2(found[name], gold[name]) < 3e-3


# --- forms that have names ------------------------------------------------------------------------------------------


@each_backend
def test_nt_xent_is_the_positive_first_then_masked_negatives(backend):
    z = F.normalize(torch.randn(10, 6, dtype=torch.float64), dim=1)
    logits = z @ z.T / 0.5
    rest = ~torch.eye(10, dtype=torch.bool)
    expected = 0
    for i in range(10):
        positive = logits[i, (i + 5) % 10]
        expected += (torch.logsumexp(logits[i, rest[i]], 0) - positive) / 10
    found = contrastive_loss(
        z, z, positives=torch.arange(5).repeat(2), exclude="self", temperature=0.5, backend=backend
    )
    torch.testing.assert_close(found, expected)


@each_backend
def test_symmetric_is_clips_loss(backend):
    a, c = (torch.randn(9, 6, dtype=torch.float64) for _ in range(2))
    scale = torch.tensor(2.5, dtype=torch.float64)
    logits = scale.exp() * F.normalize(a, dim=1) @ F.normalize(c, dim=1).T
    target = torch.arange(9)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    found = contrastive_loss(a, c, temperature=(-scale).exp(), symmetric=True, normalize=True, backend=backend)
    torch.testing.assert_close(found, expected)


@each_backend
@pytest.mark.parametrize("n", [1, 10, 24])
def test_collapsed_features_have_known_losses(backend, n):
    z = torch.ones(2 * n, 4)
    views = {"positives": torch.arange(n).repeat(2), "exclude": "self", "temperature": 0.5}
    torch.testing.assert_close(contrastive_loss(z, z, **views, backend=backend), torch.tensor(2 * n - 1.0).log())
    found = contrastive_loss(z[:n], z[n:], temperature=0.1, symmetric=True, backend=backend)
    torch.testing.assert_close(found, torch.tensor(float(n)).log())


@each_backend
def test_losses_stay_above_their_bound(backend):
    # one direction for each pair of views, all others opposite: the least that cosines allow
    for n in (10, 24):
        z = torch.cat([torch.ones(1, 1), -torch.ones(n - 1, 1)]).repeat(2, 1)
        bound = math.log(1 + (2 * n - 2) * math.exp(-2 / 0.5))
        views = {"positives": torch.arange(n).repeat(2), "exclude": "self", "temperature": 0.5}
        assert contrastive_loss(z, z, **views, backend=backend) >= bound


@each_backend
def test_two_segments_in_one_call_are_two_losses(backend):
    """Fake-to-fake and fake-to-real: each has its own denominator, and detached reals cost no gradient."""
    fake, real = torch.randn(12, 6, dtype=torch.float64), torch.randn(7, 6, dtype=torch.float64)
    fake.requires_grad_()
    pairs, of_real = torch.arange(6).repeat(2), (torch.arange(12) % 6, torch.arange(7))
    kinds = [
        Columns(fake, pairs, "self", temperature=0.5, weight=0.2),
        Columns(real, of_real, temperature=0.3, symmetric=True),
    ]
    both = contrastive_loss(fake, kinds, normalize=True, backend=backend)
    (together,) = torch.autograd.grad(both, [fake])
    first = contrastive_loss(
        fake, fake, positives=pairs, exclude="self", temperature=0.5, normalize=True, backend=backend
    )
    second = contrastive_loss(
        fake, real, positives=of_real, temperature=0.3, symmetric=True, normalize=True, backend=backend
    )
    apart = 0.2 * first + second
    torch.testing.assert_close(both, apart)
    torch.testing.assert_close(together, torch.autograd.grad(apart, [fake])[0])


@each_backend
def test_classes_hide_negatives_alone(backend):
    """A pair of one class is no negative, but the diagonal stays positive."""
    a, c = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    classes = torch.tensor([0, 0, 1, 1, 2, 3])
    hidden = (classes[:, None] == classes) & ~torch.eye(6, dtype=torch.bool)
    expected = F.cross_entropy((a @ c.T).masked_fill(hidden, -torch.inf), torch.arange(6))
    torch.testing.assert_close(contrastive_loss(a, c, classes=classes, backend=backend), expected)


@each_backend
def test_many_positives_are_averaged(backend):
    a, c = torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    of_rows, of_columns = torch.tensor([1, 2, 1, 9]), torch.tensor([1, 1, 2, 2, 2])
    s = a @ c.T
    terms = [s[i].logsumexp(0) - s[i, of_columns == of_rows[i]].mean() for i in range(3)]
    # the last row has no positive and no part in the mean
    expected = sum(terms) / 3
    torch.testing.assert_close(contrastive_loss(a, c, positives=(of_rows, of_columns), backend=backend), expected)


# --- what the contract promises -------------------------------------------------------------------------------------


@each_backend
def test_a_row_without_a_positive_has_no_part(backend):
    inputs = make_contrastive_inputs(replace(CASE, pairs="none_for_some", symmetric=True))
    found = differentiate(inputs, lambda x: call(x, backend))
    assert found["loss"].isfinite() and found["drows"].isfinite().all()
    one_way = differentiate(replace(inputs, symmetric=False), lambda x: call(x, backend))
    assert not one_way["drows"][::3].any() and one_way["drows"][1].any()


@each_backend
def test_no_positive_at_all_is_zero(backend):
    a = torch.randn(3, 4).requires_grad_()
    for ids in ((torch.zeros(3).long(), torch.ones(5).long()),):
        loss = contrastive_loss(a, torch.randn(5, 4), positives=ids, symmetric=True, backend=backend)
        (gradient,) = torch.autograd.grad(loss, [a])
        assert loss.item() == 0 and not gradient.any()


@each_backend
def test_a_fully_excluded_row_is_no_nan(backend):
    a, c = torch.randn(3, 4).requires_grad_(), torch.randn(3, 4).requires_grad_()
    gone = (torch.tensor([0, 7, 7]), torch.zeros(3).long())
    loss = contrastive_loss(a, c, exclude=gone, temperature=0.1, symmetric=True, backend=backend)
    gradients = torch.autograd.grad(loss, [a, c])
    assert loss.isfinite() and all(x.isfinite().all() for x in gradients)
    assert not gradients[0][0].any()


@each_backend
def test_not_a_number_is_not_hidden(backend):
    a = torch.randn(20, 4)
    a[11, 2] = torch.nan
    assert contrastive_loss(a, torch.randn(20, 4), backend=backend).isnan()


@each_backend
def test_permuted_together_is_the_same(backend):
    a, c = torch.randn(11, 4, dtype=torch.float64), torch.randn(11, 4, dtype=torch.float64)
    order = torch.randperm(11)
    found = contrastive_loss(a[order], c[order], temperature=0.2, symmetric=True, backend=backend)
    torch.testing.assert_close(found, contrastive_loss(a, c, temperature=0.2, symmetric=True, backend=backend))


@each_backend
def test_ids_are_only_compared(backend):
    inputs = make_contrastive_inputs(replace(CASE, pairs="groups", exclude="ids", classes=True))
    others = {name: tuple(7 - 2**33 * ids for ids in pair) for name, pair in inputs.relations.items()}
    assert_bitwise("loss", call(replace(inputs, relations=others), backend), call(inputs, backend))
    narrow = {name: tuple(ids.to(torch.int8) for ids in pair) for name, pair in inputs.relations.items()}
    assert_bitwise("loss", call(replace(inputs, relations=narrow), backend), call(inputs, backend))


@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_normalize_is_normalized_features(backend, dtype):
    a, c = (3 * torch.randn(9, 6)).to(dtype), torch.randn(9, 6).to(dtype)
    a[4] = 0
    unit = [F.normalize(x.float(), dim=1).to(dtype) for x in (a, c)]
    found = contrastive_loss(a, c, temperature=0.1, normalize=True, backend=backend)
    assert_bitwise("loss", found, contrastive_loss(*unit, temperature=0.1, backend=backend))


@each_backend
@pytest.mark.parametrize("name", NAMES)
def test_one_gradient_at_a_time(backend, name):
    """Only what is asked for is computed, with the bits that it has among the others."""
    inputs = make_contrastive_inputs(replace(CASE, symmetric=True))
    every = differentiate(inputs, lambda x: call(x, backend))
    alone = {"rows": inputs.rows, "cols": inputs.cols, "temperature": inputs.temperature}
    leaf = alone[name].detach().requires_grad_()
    loss = call(replace(inputs, **{name: leaf}), backend)
    assert_bitwise(name, torch.autograd.grad(1.5 * loss, [leaf])[0], every[f"d{name}"])


@each_backend
def test_rows_that_are_their_own_columns(backend):
    z = torch.randn(8, 4, dtype=torch.float64).requires_grad_()
    arguments = {"positives": torch.arange(4).repeat(2), "exclude": "self", "temperature": 0.5}
    (found,) = torch.autograd.grad(contrastive_loss(z, z, **arguments, backend=backend), [z])
    a, c = z.detach().requires_grad_(), z.detach().requires_grad_()
    apart = torch.autograd.grad(contrastive_loss(a, c, **arguments, backend=backend), [a, c])
    torch.testing.assert_close(found, sum(apart))


@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_twice_the_same_bits(backend, dtype):
    inputs = make_contrastive_inputs(replace(CASE, dtype=dtype, pairs="groups", symmetric=True))
    once = differentiate(inputs, lambda x: call(x, backend))
    for name, x in differentiate(inputs, lambda x: call(x, backend)).items():
        assert_bitwise(name, x, once[name])


def test_with_and_without_gradients_the_same_bits():
    inputs = make_contrastive_inputs(CASE)
    assert_bitwise("loss", call(inputs.with_gradients()).detach(), call(inputs))


@pytest.mark.serial
def test_memory_is_linear(monkeypatch):
    """Nothing of the size of all pairs is allocated, forward or backward: tiles of fp32 at the most."""
    monkeypatch.undo()
    a, c = torch.randn(3000, 16).requires_grad_(), torch.randn(3000, 16).requires_grad_()
    with torch.profiler.profile(profile_memory=True) as profile:
        contrastive_loss(a, c, temperature=0.5, symmetric=True, normalize=True).backward()
    largest = max((event.self_cpu_memory_usage for event in profile.events()), default=0)
    assert 0 < largest <= 3 * 4 * cpu.TILE**2 < 4 * 3000**2 / 10
