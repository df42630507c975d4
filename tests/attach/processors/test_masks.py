"""Masks of processors in the terms of weft's attention, against their dense meaning in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from weft.attach.processors.masks import key_padding, product_labels, with_product
from weft.ops import Edit, attention

DIM = 8


@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 9),
    query_kinds=st.integers(1, 3),
    key_kinds=st.integers(1, 3),
    tables=st.sampled_from([(), ("alpha",), ("delta",), ("alpha", "delta")]),
    labelled=st.tuples(st.booleans(), st.booleans()),
    shared=st.booleans(),
    removes=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_a_product_mask_is_added_before_the_edit(
    batch: int,
    length: int,
    query_kinds: int,
    key_kinds: int,
    tables: tuple[str, ...],
    labelled: tuple[bool, bool],
    shared: bool,
    removes: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    query, key, value = (randn(batch, length, 2, DIM) for _ in range(3))
    has = torch.randint(0, 2, (batch, length), generator=generator)
    mask = (has[:, None, :, None] * has[:, None, None, :]).double()
    given_tables = {name: randn(1 if shared else batch, query_kinds, key_kinds) for name in tables}
    if removes and "delta" in given_tables and key_kinds > 1:
        given_tables["delta"][..., -1] = -torch.inf
    labels = [
        torch.randint(0, kinds, (1 if shared else batch, length), generator=generator).int() if is_labelled else None
        for kinds, is_labelled in zip((query_kinds, key_kinds), labelled, strict=True)
    ]
    if not tables:
        labels = [None, None]
    edit, query_labels, key_labels = with_product(
        Edit(**given_tables) if tables else None, labels[0], labels[1], mask, "layer"
    )
    found = attention(query, key, value, edit=edit, query_labels=query_labels, key_labels=key_labels)

    def dense(name: str, neutral: float) -> Tensor:
        """[batch, 1, length, length]."""
        if name not in given_tables:
            return torch.full((1, 1, 1, 1), neutral, dtype=torch.float64)
        rows, columns = (
            (torch.zeros(1, length, dtype=torch.int64) if x is None else x.long()).expand(batch, -1) for x in labels
        )
        table = given_tables[name].expand(batch, -1, -1)
        samples = torch.arange(batch)[:, None, None]
        return table[samples, rows[:, :, None], columns[:, None, :]][:, None]

    logits = torch.einsum("bqhd,bkhd->bhqk", query, key) * DIM**-0.5 + mask
    logits = dense("alpha", 1.0) * logits + dense("delta", 0.0)
    expected = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1).nan_to_num(0.0), value)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def test_the_vector_of_a_product_is_its_diagonal() -> None:
    has = torch.tensor([[1, 0, 1], [0, 0, 1]])
    labels = product_labels((has[:, None, :, None] * has[:, None, None, :]).float())
    assert labels.dtype == torch.int32 and torch.equal(labels, has.int())


@pytest.mark.parametrize("name", ["beta", "gamma"])
def test_edits_that_read_extreme_logits_are_refused(name: str) -> None:
    edit = Edit(**{name: torch.ones(1, 1, 1)})
    with pytest.raises(ValueError, match=r"the mask of blocks\.0 is added to its logits, which beta and gamma"):
        with_product(edit, None, None, torch.ones(1, 1, 3, 3), "blocks.0")


@pytest.mark.parametrize("shape", [(2, 4), (2, 1, 1, 4), (2, 3, 1, 4), (1, 1, 1, 4)])
@pytest.mark.parametrize("bias", [None, -10000.0, -torch.inf])
def test_a_mask_over_keys_is_padding(shape: tuple[int, ...], bias: float | None) -> None:
    padding = torch.tensor([[False, False, True, True], [False, True, True, True]])[: shape[0]]
    seen = ~padding if len(shape) == 2 else (~padding)[:, None, None].expand(shape)
    mask = seen if bias is None else torch.where(seen, 0.0, bias)
    found = key_padding(mask, 4, "layer")
    assert found is not None and torch.equal(found, padding)


def test_no_mask_is_no_padding_and_one_over_queries_is_refused() -> None:
    assert key_padding(None, 4, "layer") is None
    for shape in ((1, 1, 3, 4), (1, 4, 4), (1, 1, 1, 5)):
        with pytest.raises(ValueError, match=r"takes a mask over keys, \[B, 1, 1, 4\]; got .* in blocks\.0"):
            key_padding(torch.ones(shape, dtype=torch.bool), 4, "blocks.0")
