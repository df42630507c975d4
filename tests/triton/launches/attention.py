"""Calls of ``attention`` whose launches are compiled: all kernels, and all rows of the launch table in force."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from launches.case import Case, empty

from weft.kernels.attention import launch
from weft.kernels.attention.arguments import Arguments
from weft.kernels.attention.bwd import attention_bwd
from weft.kernels.attention.fwd import attention_fwd
from weft.kernels.attention.host import Call
from weft.kernels.attention.launch_table import TABLE, Row


@dataclass(frozen=True)
class Attention(Case):
    """Forward and, where asked for, backward."""

    samples: int
    heads: int
    seqlen_q: int
    seqlen_k: int
    head_dim: int
    tables: tuple[str, ...] = ()
    labels: tuple[int, int] = (4, 5)
    columns: int = 0
    dtype: str = "bfloat16"
    backward: bool = False
    padding: bool = False
    group: int = 1

    def run(self) -> None:
        dtype = getattr(torch, self.dtype)
        q = empty(self.samples, self.seqlen_q, self.heads, self.head_dim, dtype=dtype)
        k, v = (
            empty(self.samples, self.seqlen_k, self.heads // self.group, self.head_dim, dtype=dtype) for _ in range(2)
        )
        rest: dict[str, torch.Tensor] = {name: empty(1, *self.labels) for name in self.tables}
        if self.tables:
            rest["query_labels"] = empty(self.samples, self.seqlen_q, dtype=torch.int32)
            rest["key_labels"] = empty(1, self.seqlen_k, dtype=torch.int32)
        if self.columns:
            rest["readout"] = empty(1, self.seqlen_k, self.columns)
        if self.padding:
            rest["key_padding"] = empty(self.samples, self.seqlen_k, dtype=torch.bool)
        call = Call(Arguments(q, k, v, self.head_dim**-0.5, **rest))
        done = attention_fwd(call, keep_rows=self.backward)
        if self.backward:
            attention_bwd(call, done.out, done.maps, done, bool(self.tables), bool(self.columns))

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names that the launch table has for the kernels of this call."""
        forward = launch.choose_forward(self.seqlen_k)
        if not self.backward:
            return (forward,)
        return (forward, "bwd_q", "bwd_kv", *(("bwd_tables",) if self.tables else ()))

    def row(self, kernel: str, arch: int) -> int:
        itemsize = getattr(torch, self.dtype).itemsize
        width = launch.value_width(self.head_dim, self.columns)
        return TABLE.index(launch.choose_row(kernel, arch, itemsize, width, self.seqlen_k))

    def rows(self, arch: int) -> set[int]:
        return {self.row(kernel, arch) for kernel in self.kernels}


ALL_TABLES = ("alpha", "beta", "gamma", "delta")
CASES = (
    Attention("sdxl_64_plain", 2, 10, 4096, 77, 64),
    Attention("sdxl_64_maps", 2, 10, 4096, 77, 64, columns=8),
    Attention("sdxl_64_edit", 2, 10, 4096, 77, 64, ALL_TABLES, (4, 5), 8, backward=True),
    Attention("sd15_64_edit", 2, 8, 4096, 77, 40, ALL_TABLES, (4, 5), 8, "float16"),
    Attention("sd15_16_edit", 2, 8, 256, 77, 160, ALL_TABLES, (4, 77), 8, backward=True),
    Attention("sd15_self_edit", 2, 8, 4096, 4096, 40, ("alpha", "beta", "gamma"), (4, 4)),
    Attention("sd3_joint_maps", 2, 24, 4429, 4429, 64, columns=8),
    Attention("flux_joint_maps", 1, 24, 4608, 4608, 128, columns=8, backward=True),
    Attention("pixart_edit", 2, 16, 4096, 300, 72, ALL_TABLES, (4, 20), 8, padding=True),
    Attention("widest", 1, 4, 512, 512, 256, ALL_TABLES, (4, 5), 8, backward=True),
    Attention("many_columns", 2, 10, 4096, 300, 64, columns=128),
    Attention("shared_keys", 2, 24, 1024, 300, 96, ALL_TABLES, (4, 5), 8, backward=True, group=3),
    Attention("wide_shared_keys", 2, 24, 1024, 77, 112, ALL_TABLES, (4, 5), 8, group=4),
    Attention("float32", 2, 8, 1024, 77, 80, ALL_TABLES, (4, 5), 8, "float32", backward=True),
)


def case_of(row: Row) -> Attention:
    """A call that is launched by ``row``, with all that can be asked of its kernel."""
    few_keys = row.kernel == "fwd_short" or row.max_seqlen_k <= launch.MOST_SHORT_KEYS
    return Attention(
        f"{row.kernel}_{8 * row.itemsize}_bits_{row.max_head_dim}",
        *(2, 8, 1024, 77 if few_keys else 300, row.max_head_dim, ALL_TABLES),
        columns=8,
        dtype={2: "float16", 4: "float32"}[row.itemsize],
        backward=row.kernel.startswith("bwd"),
        padding=True,
    )


def cases(arch: int) -> Iterator[Attention]:
    """The calls above, then one for whatever row in force none of them is launched by."""
    taken: set[int] = set()
    for case in CASES:
        taken |= case.rows(arch)
        yield case
    for place, row in enumerate(TABLE):
        case = case_of(row)
        if place not in taken and case.row(row.kernel, arch) == place:
            taken |= case.rows(arch)
            yield case
