"""Hypothesis strategies over the input makers. The one module here that needs hypothesis; import it in tests only."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from weft.testing.attention_inputs import LAYOUTS, READOUTS, TABLE_NAMES, AttentionCase

# lengths around the tiles of the kernels and the text lengths of real models (77, 154, 300, 333)
SEQLENS_Q = (1, 2, 7, 16, 17, 31, 33, 64, 65, 100)
SEQLENS_K = (1, 2, 7, 16, 17, 63, 64, 77, 78, 81, 128, 129, 154, 300, 333)
HEAD_DIMS = (1, 5, 8, 16, 24, 40, 64, 72, 80, 123, 128, 160, 256)
LABEL_DTYPES = (torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8)


@st.composite
def attention_cases(
    draw: st.DrawFn,
    dtypes: tuple[torch.dtype, ...] = (torch.float32,),
    seqlens_q: tuple[int, ...] = SEQLENS_Q,
    seqlens_k: tuple[int, ...] = SEQLENS_K,
    head_dims: tuple[int, ...] = HEAD_DIMS,
) -> AttentionCase:
    """Any attention of the contract: every table, label, read-out, padding and layout, present or absent."""
    seqlen_k = draw(st.sampled_from(seqlens_k))
    tables = draw(st.sets(st.sampled_from(TABLE_NAMES)))
    label_dtype = draw(st.sampled_from(LABEL_DTYPES))
    own_fits = seqlen_k <= torch.iinfo(label_dtype).max
    counts = (1, 2, 3, 5, None, *(("own",) if own_fits else ()))
    return AttentionCase(
        samples=draw(st.integers(1, 3)),
        seqlen_q=draw(st.sampled_from((*seqlens_q, seqlen_k))),
        seqlen_k=seqlen_k,
        heads=draw(st.integers(1, 3)),
        head_dim=draw(st.sampled_from(head_dims)),
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
    )
