"""The emulation finds what it is there to find: each test breaks one line of a kernel and expects an error.

A fault that is not found fails its test, and so does a line that is no longer there to be broken.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from weft.kernels.attention.reference import attention_reference
from weft.testing import AttentionCase, attention_eager, error_budget, make_attention_inputs

# enough queries that each warp takes several tiles, and a last tile that is not full
CASE = AttentionCase(
    samples=1,
    seqlen_q=700,
    heads=1,
    head_dim=40,
    dtype=torch.float16,
    tables=("alpha", "beta", "gamma", "delta"),
    key_labels=5,
    readout="dense",
    columns=3,
)
SHORT, LONG = 77, 150
WRONG_NUMBERS = "numbers"


@dataclass(frozen=True)
class Fault:
    """In ``file``, the ``which``-th ``line`` becomes ``instead``; a run with ``seqlen_k`` keys then says ``found``."""

    file: str
    line: str
    instead: str
    found: str
    seqlen_k: int = SHORT
    which: int = 0


NO_BARRIER, NOT_WAITED, UNWRITTEN = "without a barrier", "has not been waited for", "never written"
WAIT, BARRIER, WARP_BARRIER = "cp_async_wait<0>();", "__syncthreads();", "__syncwarp();"
FAULTS = {
    # barriers and waits that are gone
    "short: barrier after loading": Fault("short.cuh", f"{WAIT}\n  {BARRIER}", WAIT, NO_BARRIER),
    "short: wait for keys and values": Fault("short.cuh", WAIT, "", f"{NOT_WAITED}|{NO_BARRIER}"),
    "short: wait for queries": Fault("short.cuh", "cp_async_wait<1>();", "", NOT_WAITED),
    "short: barrier after queries": Fault("short.cuh", WARP_BARRIER, "", f"{NOT_WAITED}|{NO_BARRIER}"),
    "short: barrier before the read mask": Fault("short.cuh", BARRIER, "", f"{NO_BARRIER}|{UNWRITTEN}"),
    "long: wait for keys and values": Fault("long.cuh", WAIT, "", NOT_WAITED, LONG),
    "long: barrier of a tile": Fault("long.cuh", BARRIER, "", NO_BARRIER, LONG),
    "long: barrier between sweeps": Fault("long.cuh", BARRIER, "", NO_BARRIER, LONG, which=1),
    "output: barrier before staging": Fault("products.cuh", WARP_BARRIER, "", NO_BARRIER),
    "output: barrier before storing": Fault("products.cuh", WARP_BARRIER, "", NO_BARRIER, which=1),
    # the wrong place
    "long: labels in the stage in use": Fault("long.cuh", "stage ^ 1, label)", "stage, label)", NO_BARRIER, LONG),
    "short: weights beyond the last key": Fault("short.cuh", "(kKeys - keys)", "(kKeys - keys - 1)", UNWRITTEN),
    "short: tables over labels": Fault("short.cuh", "Shared::kTables)", "Shared::kTables - 32)", NO_BARRIER),
    "keys: one row too many": Fault("rows.cuh", "= row < count &&", "= row <= count &&", "out of bounds"),
    "keys: off by one": Fault("products.cuh", "k_row + n * 8", "k_row + (n * 8 + 1)", WRONG_NUMBERS),
    "values: off by one": Fault("products.cuh", "a[i][2] = pack<T>(p[i][n + 1]", "a[i][2] = pack<T>(p[i][n]",
                                WRONG_NUMBERS),
    "output: one row too many": Fault("rows.cuh", "row >= count", "row > count", "out of bounds"),
    "output: one unit too far": Fault("rows.cuh", "row * stride + column;", "row * stride + column + 8;",
                                        "out of bounds"),
    "maps: one column too many": Fault("readout.cuh", "m < columns) visit", "m <= columns) visit", "`maps`"),
    # a warp that falls apart
    "shuffle: some lanes only": Fault("softmax.cuh", "x += __shfl", "if (x > 1.5f) x += __shfl", "is at|never reach"),
}  # fmt: skip

# many builds of one head width: compiling takes longer than running
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-w", "-ffp-contract=off")


@pytest.fixture(scope="module")
def one_instance(emulation, tmp_path_factory) -> Path:
    """A folder with the kernels' sources, of which only D = 40 in fp16 is built, and with the launch compiled."""
    folder = tmp_path_factory.mktemp("planted_faults")
    shutil.copytree(emulation.csrc / "attention", folder / "csrc/attention")
    (folder / "csrc/include").symlink_to(emulation.csrc / "include")
    instances = folder / "csrc/attention/cuda/instances/instances.h"
    lines = instances.read_text()
    instances.write_text(lines[: lines.index("\\\n")] + "X(Half, 40, attention_half_40)\n")
    attention = folder / "csrc/attention"
    sources = [attention / "attention.cu", attention / "check.cpp", emulation.csrc / "device/workspace.cpp"]
    emulation.compile_all(folder, folder / "csrc", sources, FLAGS)
    return folder


def planted(emulation, folder: Path, number: int, fault: Fault):
    """The library with one fault."""
    path = folder / "csrc/attention/cuda" / fault.file
    whole = path.read_text()
    pieces = whole.split(fault.line)
    assert len(pieces) > fault.which + 1, f"{fault.file} has no line {fault.line!r} to break"
    before, after = pieces[: fault.which + 1], pieces[fault.which + 1 :]
    try:
        path.write_text(fault.line.join(before) + fault.instead + fault.line.join(after))
        source = folder / "csrc/attention/cuda/instances/attention_half_40.cu"
        target = emulation.compile_all(folder / str(number), folder / "csrc", [source], FLAGS)
    finally:
        path.write_text(whole)
    launch = [folder / f"{name}.o" for name in ("attention", "check", "workspace")]
    rest = [*launch, *emulation.machine_objects]
    return emulation.native(emulation.link(folder / f"{number}.so", [*target, *rest]))


def symptom(emulation, library, seqlen_k: int) -> str:
    inputs = make_attention_inputs(replace(CASE, seqlen_k=seqlen_k))
    try:
        out, _ = emulation.attend(library, inputs)
    except RuntimeError as error:
        return str(error)
    gold, _ = attention_reference(inputs.in_float64().arguments())
    budget = error_budget(attention_eager(inputs)[0], gold, factor=2.0)
    return "nothing" if (out.double() - gold).abs().max().item() <= budget else WRONG_NUMBERS


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(emulation, one_instance, name):
    library = planted(emulation, one_instance, list(FAULTS).index(name), FAULTS[name])
    assert re.search(FAULTS[name].found, symptom(emulation, library, FAULTS[name].seqlen_k))


@pytest.mark.parametrize("seqlen_k", [SHORT, LONG])
def test_without_a_fault_nothing_is_found(emulation, one_instance, seqlen_k):
    nothing = Fault("short.cuh", WAIT, WAIT, "nothing")
    assert symptom(emulation, planted(emulation, one_instance, len(FAULTS), nothing), seqlen_k) == "nothing"
