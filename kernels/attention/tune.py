"""Autotune of the Triton kernels of ``attention``: an explicit sweep on the device present, which writes the table.

Nothing is tuned at a first call. ``weft bench --tune`` calls ``main``; what it finds are rows of ``launch_table.py``
or of the file in WEFT_LAUNCH_TABLE. Which tiles are tried and which wins is plain arithmetic, tested with made-up
times; ``tune_measure.py`` runs them.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path

from weft import _env
from weft._errors import BackendUnavailableError

from . import launch, launch_file, launch_table
from .launch_table import Row, Tile
from .tune_target import Target

HEAD_DIMS = (40, 64, 80, 128, 160, 256)
BLOCKS, WARPS, STAGES, MOST_TILES = (16, 32, 64, 128), (4, 8), (1, 2, 3), (1, 2, 4)
# fp32 values of accumulators and logits that a thread can hold beside what it loads; more spill
MOST_VALUES_A_THREAD = 208
# fewer logits a warp leave its tensor-core fragments half empty
FEWEST_LOGITS_A_WARP = 256
# a tile replaces the one in force only if it is faster by more than two runs of the same tile differ
LEAST_GAIN = 0.02


@dataclass(frozen=True)
class Trial:
    """What became of one tile.

    Attributes:
        tile: What was tried.
        times_ms: Median of each workload, in their order; empty where it was refused.
        refused: Why it cannot be taken, as "kind: details".
    """

    tile: Tile
    times_ms: tuple[float, ...] = ()
    refused: str = ""


def targets(kernels: Sequence[str], arch: int, itemsizes: Sequence[int], head_dims: Sequence[int]) -> list[Target]:
    """Every row to be written: forward kernels have their own number of keys, backward ones are tuned for both."""
    regimes = {"fwd_short": (True,), "fwd_long": (False,)}
    unknown = [kernel for kernel in kernels if kernel not in launch_file.KERNELS]
    if unknown:
        known = ", ".join(launch_file.KERNELS)
        raise ValueError(f"attention: kernels to tune must be of {known}; got {', '.join(unknown)}")
    return [
        Target(kernel, arch, itemsize, head_dim, short_keys)
        for kernel, itemsize, head_dim in product(kernels, itemsizes, head_dims)
        for short_keys in regimes.get(kernel, (True, False))
    ]


def candidates(target: Target) -> list[Tile]:
    """Tiles worth compiling, the smallest first."""
    of_rows = target.kernel == "fwd_short"
    tiles = product(
        BLOCKS,
        (launch.MOST_SHORT_KEYS,) if of_rows else BLOCKS,
        WARPS,
        # whole rows are loaded once: there is no loop to buffer
        (1,) if of_rows else STAGES,
        MOST_TILES if of_rows else (1,),
    )
    return [tile for values in tiles if _is_worth_it(tile := Tile(*values), target)]


def neighbours(tile: Tile, target: Target) -> list[Tile]:
    """Those candidates that are one step from ``tile`` in one direction, and ``tile``."""

    def steps(other: Tile) -> int:
        distances = (
            abs(math.log2(other.block_q / tile.block_q)),
            abs(math.log2(other.block_k / tile.block_k)),
            abs(math.log2(other.num_warps / tile.num_warps)),
            abs(math.log2(other.most_tiles / tile.most_tiles)),
            abs(other.num_stages - tile.num_stages),
        )
        return round(sum(distances))

    return [tile, *(other for other in candidates(target) if steps(other) == 1)]


def _is_worth_it(tile: Tile, target: Target) -> bool:
    parts = launch.split_head_dim(target.head_dim)
    width = parts.first + parts.second
    logits = tile.block_q * tile.block_k
    # rows of fp32 accumulators as wide as D, and tiles of logits alive at once (S; P, dP and dS in backward)
    rows, tiles_of_logits = {
        "fwd_short": (tile.block_q, 1),
        "fwd_long": (tile.block_q, 1),
        "bwd_q": (tile.block_q, 2),
        "bwd_kv": (2 * tile.block_k, 2),
        "bwd_tables": (0, 2),
    }[target.kernel]
    values = (rows * width + tiles_of_logits * logits) / (32 * tile.num_warps)
    return values <= MOST_VALUES_A_THREAD and logits >= FEWEST_LOGITS_A_WARP * tile.num_warps


def sweep(
    target: Target,
    tiles: Sequence[Tile],
    refuse: Callable[[Target, Tile], str],
    time_ms: Callable[[Target, Tile], tuple[float, ...]],
) -> list[Trial]:
    """Try ``tiles`` in turn.

    Args:
        target: What they are for.
        tiles: In the order in which they are tried.
        refuse: Why a tile cannot be taken: it does not compile, or its result is wrong; "" if it can.
        time_ms: The time of each workload with a tile.
    """
    trials = []
    for tile in tiles:
        reason = refuse(target, tile)
        trials.append(Trial(tile, refused=reason) if reason else Trial(tile, time_ms(target, tile)))
    return trials


def choose(trials: Sequence[Trial], current: Tile) -> Trial:
    """The fastest trial over all workloads by the geometric mean, or the one of ``current`` where little is gained.

    Raises:
        ValueError: Every tile was refused.
    """
    timed = [trial for trial in trials if not trial.refused]
    if not timed:
        reasons = "; ".join(f"{trial.tile}: {trial.refused}" for trial in trials)
        raise ValueError(f"attention: no tile can be taken: {reasons}")

    best = min(timed, key=_mean_ms)
    in_force = next((trial for trial in timed if trial.tile == current), None)
    little = in_force is not None and _mean_ms(in_force) <= (1 + LEAST_GAIN) * _mean_ms(best)
    return in_force if in_force is not None and little else best


def _mean_ms(trial: Trial) -> float:
    return math.exp(sum(math.log(time) for time in trial.times_ms) / len(trial.times_ms))


def destination() -> Path:
    """The file that is written: the user's if one is named, else the source of the table.

    Raises:
        PermissionError: The package is installed where it cannot be changed, and no file is named.
    """
    named = _env.settings().launch_table
    if named:
        return Path(named)
    source = Path(launch_table.__file__)
    if not (os.access(source, os.W_OK) and os.access(source.parent, os.W_OK)):
        variable = _env.variable("launch_table")
        raise PermissionError(f"attention: {source} cannot be written; set {variable} to a file for the rows")
    return source


def write(path: Path, rows: Mapping[Row, str]) -> None:
    """Put ``rows``, each with where and when it was measured, into a table of either kind."""
    (launch_file.write_source if path.suffix == ".py" else launch_file.write_rows)(path, rows)


def main(
    kernels: Sequence[str] = launch_file.KERNELS,
    head_dims: Sequence[int] = HEAD_DIMS,
    itemsizes: Sequence[int] = (2,),
    quick: bool = False,
    report: Callable[[str], None] = print,
) -> list[Row]:
    """Tune the Triton kernels of ``attention`` on the device present and write what was found, row by row.

    Args:
        kernels: Of ``launch_file.KERNELS``.
        head_dims: D of the rows to be written; a row serves every smaller D down to the next.
        itemsizes: Bytes of one value: 2 for fp16 and bf16 (timed in fp16), 4 for fp32.
        quick: Try only tiles one step away from the one in force, instead of all.
        report: Takes one line a row, see ``describe``.

    Returns:
        The rows, as written.

    Raises:
        BackendUnavailableError: There is no device to tune for, or no compiler for it.
        PermissionError: There is nowhere to write.
        ValueError: A kernel is not known, or no tile of one can be taken.
    """
    if find_spec("triton") is None:
        raise BackendUnavailableError("attention: tuning needs triton; it is not installed")
    from . import tune_measure

    reason = tune_measure.refuse_device()
    if reason:
        raise BackendUnavailableError(f"attention: tuning {reason}")
    path = destination()
    found = []
    for target in targets(kernels, tune_measure.arch(), itemsizes, head_dims):
        shape = tune_measure.shape(target)
        current = launch.choose_tile(
            target.kernel, target.arch, target.itemsize, target.head_dim, shape.seqlen_q, shape.seqlen_k
        )
        tiles = neighbours(current, target) if quick else list(dict.fromkeys([current, *candidates(target)]))
        trials = sweep(target, tiles, tune_measure.refuse, tune_measure.time_ms)
        best = choose(trials, current)
        found.append(target.row(best.tile))
        write(path, {found[-1]: tune_measure.circumstances()})
        report(describe(target, trials, best, current))
    return found


def describe(target: Target, trials: Sequence[Trial], best: Trial, current: Tile) -> str:
    """One line: what was tuned, what was found and how much it gains, why how many tiles were refused."""
    keys = "few" if target.short_keys else "many"
    name = f"{target.kernel} sm_{target.arch} D = {target.head_dim}, {target.itemsize} bytes, {keys} keys"
    before = next((trial for trial in trials if trial.tile == current and not trial.refused), None)
    gain = f", {_mean_ms(before) / _mean_ms(best):.2f} times as fast as before" if before else ""
    kinds = Counter(trial.refused.split(":")[0] for trial in trials if trial.refused)
    refused = "".join(f", {count} refused ({kind})" for kind, count in sorted(kinds.items()))
    tile = best.tile
    found = f"{tile.block_q} x {tile.block_k}, {tile.num_warps} warps, {tile.num_stages} stages"
    return f"{name}: {found}, {_mean_ms(best):.4f} ms{gain}; {len(trials)} tried{refused}"
