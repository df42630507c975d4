"""Hypothesis strategies over the input makers. The one module here that needs hypothesis; import it in tests only."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from weft.kernels.attention.arguments import TABLE_NAMES
from weft.testing.attention_inputs import LAYOUTS, READOUTS, AttentionCase
from weft.testing.contrastive_loss_inputs import (
    FEATURE_LAYOUTS,
    FEATURES,
    PAIR_EXCLUSIONS,
    PAIRS,
    ContrastiveCase,
)
from weft.testing.lowrank_linear_inputs import ADDENDS, GATES, WEIGHTS, X_LAYOUTS, LowrankCase
from weft.testing.regions_inputs import GateCase, RegionSearch

# lengths around the tiles of the kernels and the text lengths of real models (77, 154, 300, 333)
SEQLENS_Q = (1, 2, 7, 16, 17, 31, 33, 64, 65, 100)
SEQLENS_K = (1, 2, 7, 16, 17, 63, 64, 77, 78, 81, 128, 129, 154, 300, 333)
HEAD_DIMS = (1, 5, 8, 16, 24, 40, 64, 72, 80, 88, 96, 112, 123, 128, 160, 256)
EXCLUSIONS: tuple[str | float, ...] = ("forbid", "scale", 0.0, 0.5)
LABEL_DTYPES = (torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8)


@st.composite
def attention_cases(
    draw: st.DrawFn,
    dtypes: tuple[torch.dtype, ...] = (torch.float32,),
    seqlens_q: tuple[int, ...] = SEQLENS_Q,
    seqlens_k: tuple[int, ...] = SEQLENS_K,
    head_dims: tuple[int, ...] = HEAD_DIMS,
    most_heads: int = 4,
) -> AttentionCase:
    """Any attention of the contract: every table, label, read-out, padding and layout, present or absent."""
    seqlen_k = draw(st.sampled_from(seqlens_k))
    tables = draw(st.sets(st.sampled_from(TABLE_NAMES)))
    label_dtype = draw(st.sampled_from(LABEL_DTYPES))
    own_fits = seqlen_k <= torch.iinfo(label_dtype).max
    heads = draw(st.integers(1, most_heads))
    counts = (1, 2, 3, 5, None, *(("own",) if own_fits else ()))
    return AttentionCase(
        samples=draw(st.integers(1, 3)),
        seqlen_q=draw(st.sampled_from((*seqlens_q, seqlen_k))),
        seqlen_k=seqlen_k,
        heads=heads,
        head_dim=draw(st.sampled_from(head_dims)),
        group=draw(st.sampled_from([group for group in range(1, heads + 1) if heads % group == 0])),
        dtype=draw(st.sampled_from(dtypes)),
        layout=draw(st.sampled_from(LAYOUTS)),
        tables=tuple(name for name in TABLE_NAMES if name in tables),
        query_labels=draw(st.sampled_from((1, 2, 4, 7, None))),
        key_labels=draw(st.sampled_from(counts)),
        label_dtype=label_dtype,
        removed=draw(st.sampled_from((0.0, 0.3, 0.9))),
        masked_label=draw(st.booleans()),
        readout=draw(st.sampled_from(READOUTS)),
        columns=draw(st.sampled_from((1, 3, 8, 17))),
        padding=draw(st.sampled_from((0.0, 0.0, 0.2, 0.9))),
        shared=tuple(sorted(draw(st.sets(st.sampled_from(("tables", "labels", "readout", "padding")))))),
        spread=draw(st.sampled_from((1.0, 1.0, 5.0))),
        hostile=draw(st.booleans()),
    )


@st.composite
def lowrank_cases(
    draw: st.DrawFn,
    dtypes: tuple[torch.dtype, ...] = (torch.float32,),
    widths: tuple[int, ...] = (1, 3, 8, 16, 17, 33, 40, 64, 80),
    sides: tuple[int, int] = (1, 9),
    most_rank: int = 20,
    most_concepts: int = 4,
    samples: tuple[int, int] = (1, 3),
) -> LowrankCase:
    """Any call of the contract: every layout, weight, gate, addend and number of concepts, present or absent.

    With more than four concepts, crowds of them are drawn too: up to so many of one small rank.
    """
    ranks = st.lists(st.integers(1, most_rank), max_size=min(most_concepts, 4))
    if most_concepts > 4:
        crowd = st.tuples(st.sampled_from((1, 2, 3, 4, 8, 10)), st.integers(1, most_concepts))
        ranks = ranks | crowd.map(lambda drawn: [drawn[0]] * drawn[1])
    return LowrankCase(
        samples=draw(st.integers(*samples)),
        grid=(draw(st.integers(*sides)), draw(st.integers(*sides))),
        width_in=draw(st.sampled_from(widths)),
        width_out=draw(st.sampled_from(widths)),
        ranks=tuple(draw(ranks)),
        dtype=draw(st.sampled_from(dtypes)),
        x_layout=draw(st.sampled_from(X_LAYOUTS)),
        weight=draw(st.sampled_from(WEIGHTS)),
        bias=draw(st.booleans()),
        gate=draw(st.sampled_from(GATES)),
        closed=draw(st.sampled_from((0.0, 0.2, 0.4, 0.5, 0.7, 0.9, 1.0))),
        residual=draw(st.sampled_from(ADDENDS)),
        as_image=draw(st.booleans()),
    )


@st.composite
def region_searches(draw: st.DrawFn, sides: tuple[int, int] = (4, 24)) -> RegionSearch:
    """Any search of the contract on a grid whose sides lie between these two, its maps full of equals."""
    grid = (draw(st.integers(*sides)), draw(st.integers(*sides)))
    margin = draw(st.integers(0, 2))
    exclusion = draw(st.sampled_from(EXCLUSIONS))
    space = (grid[0] - margin, grid[1] - margin)
    # a size may be too large for the grid, but the first fits
    first = (draw(st.integers(1, space[0])), draw(st.integers(1, space[1])))
    others = draw(st.lists(st.tuples(st.integers(1, 26), st.integers(1, 26)), max_size=4))
    return RegionSearch(
        samples=draw(st.integers(1, 3)),
        objects=draw(st.integers(0, 4)),
        grid=grid,
        sizes=(first, *others),
        margin=margin,
        protect_share=draw(st.sampled_from((0.0, 0.15, 0.5, 1.0))),
        protect_factor=draw(st.sampled_from((0.5, 0.0, 1.0, -1.0))),
        exclusion=exclusion,
        gap=draw(st.integers(0, 3)) if exclusion == "forbid" else 0,
        fallback=draw(st.sampled_from(("empty", "first"))),
        some_absent=draw(st.booleans()),
        # many equals, few equals, and maps in which nothing is positive
        span=draw(st.sampled_from(((0, 1), (-2, 2), (-1000, 1000), (-3, 0)))),
        seed=draw(st.integers(0, 2**20)),
    )


def gate_cases(most_cells: int = 70, most_concepts: int = 5) -> st.SearchStrategy[GateCase]:
    """Any call of ``concept_gate`` up to these sizes, from constant maps to such that hardly repeat a value."""
    return st.builds(
        GateCase,
        samples=st.integers(1, 3),
        cells=st.integers(1, most_cells),
        concepts=st.integers(1, most_concepts),
        values=st.sampled_from((1, 2, 5, 1000)),
        repeats=st.integers(1, 3),
        idle=st.booleans(),
        seed=st.integers(0, 2**20),
    )


@st.composite
def contrastive_cases(
    draw: st.DrawFn,
    dtypes: tuple[torch.dtype, ...] = (torch.float32,),
    sizes: tuple[int, ...] = (1, 2, 3, 7, 8, 9, 16, 17, 31, 33, 50),
    widths: tuple[int, ...] = (1, 2, 5, 16, 17, 40),
) -> ContrastiveCase:
    """Any loss of the contract: every relation of pairs, collapsed and far-apart features, one way and both."""
    return ContrastiveCase(
        rows=draw(st.sampled_from(sizes)),
        columns=draw(st.sampled_from(sizes)),
        width=draw(st.sampled_from(widths)),
        dtype=draw(st.sampled_from(dtypes)),
        features=draw(st.sampled_from(FEATURES)),
        layout=draw(st.sampled_from(FEATURE_LAYOUTS)),
        pairs=draw(st.sampled_from(PAIRS)),
        exclude=draw(st.sampled_from(PAIR_EXCLUSIONS)),
        classes=draw(st.booleans()),
        temperature=draw(st.sampled_from((0.01, 0.07, 0.5, 5.0))),
        symmetric=draw(st.booleans()),
    )
