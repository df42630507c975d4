"""The tables of MaskDiffusion against its formulas, written out pixel by pixel and token by token."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from weft.methods.maskdiffusion.tables import (
    BACKGROUND,
    FIRST_OBJECT,
    NEUTRAL,
    TAIL,
    Pull,
    cross_edit,
    disjoint_labels,
    overlapping_labels,
    self_edit,
)
from weft.ops import attention

STRENGTH = 0.7378
HEAD, ATTRIBUTE, END = 1.0, 0.2, 0.2


def classes(objects: int, last_is_object: bool) -> Tensor:
    """A prompt: start, then (attribute, head, other) for each object, end, pads."""
    body = [c for o in range(objects) for c in (FIRST_OBJECT + 2 * o, FIRST_OBJECT + 2 * o + 1, 0)]
    return torch.tensor([NEUTRAL, *body[: -1 if last_is_object else None], TAIL, TAIL, TAIL])


def literal_cross(logits: Tensor, covers: Tensor, kinds: Tensor, strength: float, doubled: bool) -> Tensor:
    """Formula by formula as the released code has it; logits [N, T], covers [n, N]."""
    edited = logits.clone()
    for x, j in itertools.product(*map(range, logits.shape)):
        s, top, low = logits[x, j], logits[x].max(), logits[x].min()
        kind = int(kinds[j])
        weight = {0: 0.0, NEUTRAL: 0.01, TAIL: END}.get(kind)
        if weight is None:
            own = covers[(kind - FIRST_OBJECT) // 2, x]
            weight = (HEAD if (kind - FIRST_OBJECT) % 2 else ATTRIBUTE) if own else 0.0
        first = s + strength * (weight > 0.05) * weight * (top - s)
        edited[x, j] = first - strength * (weight == 0) * (first - low) + doubled * (weight >= 0.05) * first
    return edited


def literal_self(logits: Tensor, covers: Tensor, strength: float) -> Tensor:
    edited = logits.clone()
    for x, y in itertools.product(*map(range, logits.shape)):
        s, top, low = logits[x, y], logits[x].max(), logits[x].min()
        same = bool((covers[:, x] & covers[:, y]).any())
        edited[x, y] = s + strength * (top - s) if same else s - strength * (s - low)
    return edited


def covered(objects: int, pixels: int, overlap: bool) -> Tensor:
    """Regions in which every set of objects occurs when they may overlap."""
    numbers = torch.arange(pixels) % (2**objects if overlap else objects + 1)
    if overlap:
        return (numbers >> torch.arange(objects)[:, None] & 1).bool()
    return numbers == 1 + torch.arange(objects)[:, None]


def pixel_labels(covers: Tensor, overlap: bool) -> Tensor:
    weights = 2 ** torch.arange(len(covers)) if overlap else 1 + torch.arange(len(covers))
    return BACKGROUND + (covers * weights[:, None]).sum(0)


def apply(edit: object, logits: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """What the tables make of logits, [N, T]."""
    alpha, beta, gamma, _ = edit.tables()  # type: ignore[attr-defined]
    a, b, c = (table[0][queries][:, keys] for table in (alpha, beta, gamma))
    return a * logits + b * logits.amax(1, keepdim=True) + c * logits.amin(1, keepdim=True)


@pytest.mark.parametrize("doubled", [False, True], ids=["plain", "doubled"])
@pytest.mark.parametrize("last_is_object", [False, True])
@pytest.mark.parametrize("overlap", [False, True], ids=["disjoint", "overlapping"])
@pytest.mark.parametrize("objects", [1, 2, 3])
def test_cross_tables_are_the_formulas(objects: int, overlap: bool, last_is_object: bool, doubled: bool) -> None:
    torch.manual_seed(0)
    covers, kinds = covered(objects, 24, overlap), classes(objects, last_is_object)
    inside = (overlapping_labels(objects) if overlap else disjoint_labels(objects, 1)).double()
    scaled = cross_edit(inside, *(Pull(weight, 1.0 + doubled) for weight in (HEAD, ATTRIBUTE, END)))
    scaled.scale(STRENGTH)
    logits = torch.randn(24, len(kinds), dtype=torch.float64)
    found = apply(scaled.edit, logits, pixel_labels(covers, overlap), kinds)
    torch.testing.assert_close(found, literal_cross(logits, covers, kinds, STRENGTH, doubled), rtol=0, atol=1e-14)
    alpha, beta, gamma, _ = scaled.edit.tables()
    sums = (alpha + beta + gamma)[0, 1:]  # type: ignore[operator]
    assert bool((sums == 1).all()) is not doubled, "without doubling a shift of the logits changes nothing"


@pytest.mark.parametrize("overlap", [False, True], ids=["disjoint", "overlapping"])
@pytest.mark.parametrize("objects", [1, 2, 3])
def test_self_tables_are_the_formulas(objects: int, overlap: bool) -> None:
    torch.manual_seed(1)
    covers = covered(objects, 24, overlap)
    inside = (overlapping_labels(objects) if overlap else disjoint_labels(objects, 1)).double()
    scaled = self_edit(inside)
    scaled.scale(0.3 * STRENGTH)
    logits, labels = torch.randn(24, 24, dtype=torch.float64), pixel_labels(covers, overlap)
    found = apply(scaled.edit, logits, labels, labels)
    torch.testing.assert_close(found, literal_self(logits, covers, 0.3 * STRENGTH), rtol=0, atol=1e-14)
    background = (labels == BACKGROUND).nonzero()[:, 0]
    cooled = ((1 - 0.3 * STRENGTH) * logits[background]).softmax(1)
    torch.testing.assert_close(found[background].softmax(1), cooled, rtol=0, atol=1e-14)


def test_rows_that_are_left_alone_are_bit_equal() -> None:
    torch.manual_seed(2)
    q, k, v = (torch.randn(1, n, 2, 8) for n in (6, 9, 9))
    scaled = cross_edit(disjoint_labels(2, 1), Pull(HEAD), Pull(ATTRIBUTE), Pull(END))
    scaled.scale(STRENGTH)
    queries = torch.tensor([[0, 1, 2, 3, 0, 1]])
    keys = torch.tensor([[NEUTRAL, 3, 4, 0, 5, 6, TAIL, TAIL, TAIL]])
    plain = attention(q, k, v)
    edited = attention(q, k, v, edit=scaled.edit, query_labels=queries, key_labels=keys)
    alone = queries[0] == 0
    assert torch.equal(edited[:, alone], plain[:, alone])
    assert not torch.isclose(edited[:, ~alone], plain[:, ~alone]).all(-1).any()


def test_strength_nothing_is_no_edit() -> None:
    torch.manual_seed(3)
    q, k, v = (torch.randn(1, n, 2, 8) for n in (6, 9, 9))
    scaled = cross_edit(disjoint_labels(2, 1), Pull(HEAD), Pull(ATTRIBUTE), Pull(END))
    scaled.scale(0.9)
    scaled.scale(0.0)
    labels = {"query_labels": torch.arange(6)[None] % 4, "key_labels": torch.arange(9)[None] % 7}
    assert torch.equal(attention(q, k, v, edit=scaled.edit, **labels), attention(q, k, v))


def test_a_negative_tail_is_pushed_down_inside_regions_only() -> None:
    scaled = cross_edit(disjoint_labels(2, 1), Pull(HEAD), Pull(ATTRIBUTE), Pull(-0.5))
    scaled.scale(0.8)
    alpha, beta, gamma, _ = scaled.edit.tables()
    tail = [[float(table[0, label, TAIL]) for table in (alpha, beta, gamma)] for label in range(4)]  # type: ignore[index]
    assert tail[0] == tail[BACKGROUND] == [1, 0, 0]
    assert tail[2] == tail[3] == pytest.approx([0.6, 0, 0.4])


def test_what_is_pushed_less() -> None:
    scaled = cross_edit(disjoint_labels(1, 1), Pull(HEAD), Pull(ATTRIBUTE), Pull(END), outside=0.5, other=0.25)
    scaled.scale(0.8)
    _, _, gamma, _ = scaled.edit.tables()
    assert gamma[0, BACKGROUND].tolist() == pytest.approx([0.2, 0, 0, 0.4, 0.4])  # type: ignore[index]
    assert gamma[0, 2].tolist() == pytest.approx([0.2, 0, 0, 0, 0])  # type: ignore[index]


def test_soft_edges_lie_between() -> None:
    scaled = cross_edit(disjoint_labels(1, 4), Pull(HEAD), Pull(ATTRIBUTE), Pull(END))
    scaled.scale(0.5)
    alpha, beta, gamma, _ = scaled.edit.tables()
    assert beta[0, 1:, FIRST_OBJECT + 1].tolist() == pytest.approx([0, 0.125, 0.25, 0.375, 0.5])  # type: ignore[index]
    assert gamma[0, 1:, FIRST_OBJECT + 1].tolist() == pytest.approx([0.5, 0.375, 0.25, 0.125, 0])  # type: ignore[index]
    assert alpha[0, 1:, FIRST_OBJECT + 1].tolist() == pytest.approx([0.5] * 5)  # type: ignore[index]
    assert alpha[0, 0].tolist() == [1.0] * 5  # type: ignore[index]


@pytest.mark.parametrize("background", [0.0, 0.25])
def test_the_background_gets_a_share_of_all_pushes_and_pulls(background: float) -> None:
    whole, part = (
        cross_edit(disjoint_labels(2, 1), Pull(HEAD), Pull(ATTRIBUTE), Pull(END), background=share)
        for share in (1.0, background)
    )
    identity = {"alpha": 1.0, "beta": 0.0, "gamma": 0.0}
    for scaled in (whole, part):
        scaled.scale(0.6)
    for name, neutral in identity.items():
        (of_whole, of_part) = (getattr(scaled.edit, name)[0] for scaled in (whole, part))
        assert torch.equal(of_part[BACKGROUND + 1 :], of_whole[BACKGROUND + 1 :])
        expected = neutral + background * (of_whole[BACKGROUND] - neutral)
        torch.testing.assert_close(of_part[BACKGROUND], expected, rtol=0, atol=1e-6)
        assert not torch.allclose(of_whole[BACKGROUND], torch.full_like(expected, neutral)) or name == "beta"
