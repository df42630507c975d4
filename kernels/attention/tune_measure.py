"""What a sweep runs on the device: calls like those of real layers, checked against the reference, and timed.

Each tile is checked at a small ragged shape before it is timed at a large one: a tile that is fast because it is
wrong must not win.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from statistics import median

import torch
import triton
from torch import Tensor
from triton.errors import TritonError

from weft import _env
from weft.kernels.common.device import device_arch

from .arguments import TABLE_NAMES, Arguments
from .bwd import attention_bwd
from .fwd import attention_fwd
from .host import Call
from .launch_table import Tile
from .reference import attention_reference
from .reference_bwd import attention_backward_reference
from .tune_target import Target

LABELS = (4, 5)
COLUMNS = 8
# calls of one graph, so that a launch costs nothing, and replays of which the median is taken
CALLS, REPLAYS = 8, 15
# errors are measured in steps of the dtype at the largest value; a wrong index or mask is wrong by hundreds of steps
MOST_STEPS = 24


@dataclass(frozen=True)
class Shape:
    """Sizes of one call."""

    samples: int
    heads: int
    seqlen_q: int
    seqlen_k: int


# neither lengths nor their tiles come out even
SMALL = {True: Shape(1, 2, 150, 77), False: Shape(1, 2, 150, 333)}
# layers of Stable Diffusion 1.5 and XL, SD3 and Flux at 512 to 1024 pixels, by the largest D they are for
REAL = {
    True: {64: Shape(2, 10, 4096, 77), 128: Shape(2, 8, 1024, 77), 256: Shape(2, 8, 256, 77)},
    False: {64: Shape(2, 8, 4096, 4096), 128: Shape(1, 24, 4608, 4608), 256: Shape(1, 8, 1024, 1024)},
}


def refuse_device() -> str:
    """Why there is nothing to tune for; "" if there is."""
    if not torch.cuda.is_available():
        return "needs a CUDA device; torch finds none"
    if _env.triton_is_interpreted():
        return "needs Triton's compiler; TRITON_INTERPRET puts its interpreter in its place"
    return ""


def arch() -> int:
    return device_arch(torch.device("cuda", torch.cuda.current_device()))


def circumstances() -> str:
    """Where and when, for the comment beside a row."""
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return f"{day}, triton {triton.__version__}, {torch.cuda.get_device_name()}"


def shape(target: Target) -> Shape:
    """The shape that is timed."""
    return next(shape for widest, shape in REAL[target.short_keys].items() if target.head_dim <= widest)


def refuse(target: Target, tile: Tile) -> str:
    """Why ``tile`` cannot be taken, as "kind: details"; "" if it can."""
    try:
        for edited in _workloads(target):
            difference = check(target, tile, edited, "cuda")
            if difference:
                return f"wrong: {difference}"
    except TritonError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def time_ms(target: Target, tile: Tile) -> tuple[float, ...]:
    """The time of each workload: read-out alone, and every table with it."""
    return tuple(_time_ms(run(draw(target, shape(target), edited, "cuda", tile))) for edited in _workloads(target))


def _workloads(target: Target) -> tuple[bool, ...]:
    """Whether the logits are edited: the gradient of tables needs tables."""
    return (True,) if target.kernel == "bwd_tables" else (False, True)


@dataclass(frozen=True)
class Drawn:
    """The tensors of one call, gradients among them, and which kernels it is to run."""

    call: Call
    dout: Tensor
    dmaps: Tensor
    backward: bool
    table_gradients: bool


def draw(target: Target, sizes: Shape, edited: bool, device: str, tile: Tile | None = None) -> Drawn:
    """A call with a read-out, the same every time; with ``tile`` forced on the target's kernel if given."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    def labels(length: int, count: int) -> Tensor:
        return torch.randint(count, (1, length), generator=generator, device=device, dtype=torch.int32)

    dtype = {2: torch.float16, 4: torch.float32}[target.itemsize]
    samples, heads, seqlen_q, seqlen_k = sizes.samples, sizes.heads, sizes.seqlen_q, sizes.seqlen_k
    q, dout = (normal(samples, seqlen_q, heads, target.head_dim).to(dtype) for _ in range(2))
    k, v = (normal(samples, seqlen_k, heads, target.head_dim).to(dtype) for _ in range(2))
    rest: dict[str, Tensor] = {"readout": normal(1, seqlen_k, COLUMNS)}
    if edited:
        rest |= {name: 0.2 * normal(1, *LABELS) + float(name == "alpha") for name in TABLE_NAMES}
        rest |= {"query_labels": labels(seqlen_q, LABELS[0]), "key_labels": labels(seqlen_k, LABELS[1])}
    forced: Mapping[str, Tile] = {} if tile is None else {target.kernel: tile}
    call = Call(Arguments(q, k, v, target.head_dim**-0.5, **rest), forced_tiles=forced)
    dmaps = normal(samples, seqlen_q, COLUMNS)
    return Drawn(call, dout, dmaps, target.kernel.startswith("bwd"), target.kernel == "bwd_tables")


def run(drawn: Drawn) -> Callable[[], tuple[Tensor, ...]]:
    """What is timed and checked: forward, or backward of a forward that has been."""
    call = drawn.call
    if not drawn.backward:
        return lambda: attention_fwd(call)[:2]
    forward = attention_fwd(call, keep_rows=True)
    return partial(attention_bwd, call, drawn.dout, drawn.dmaps, forward, drawn.table_gradients, True)


def check(target: Target, tile: Tile, edited: bool, device: str) -> str:
    """How the result with ``tile`` differs from the reference, or from itself when run again; "" if it does not."""
    sizes = SMALL[target.short_keys]
    once = run(draw(target, sizes, edited, device, tile))
    found, again = once(), once()
    step = torch.finfo(found[0].dtype).eps
    for number, (one, other, gold) in enumerate(zip(found, again, _gold(target, edited, device), strict=True)):
        if not torch.equal(one, other):
            return f"result {number} is not the same twice"
        size = gold.abs().max().item() if gold.numel() else 0.0
        error = (one.double() - gold).abs().max().item() if gold.numel() else 0.0
        if not error <= MOST_STEPS * step * size:
            return f"result {number} is off by {error:.1e} where the largest value is {size:.1e}"
    return ""


@lru_cache(maxsize=2)
def _gold(target: Target, edited: bool, device: str) -> tuple[Tensor, ...]:
    """What ``check`` should find, in float64."""
    drawn = draw(target, SMALL[target.short_keys], edited, device)
    wide = drawn.call.given.mapped(lambda x: x.double() if x.is_floating_point() else x)
    if not drawn.backward:
        return attention_reference(wide)
    return attention_backward_reference(drawn.dout.double(), drawn.dmaps.double(), wide, drawn.table_gradients, True)


def _time_ms(call: Callable[[], object]) -> float:
    """Median milliseconds of one call, replayed from a graph."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call()
    graph.replay()
    times: list[float] = []
    for _ in range(REPLAYS):
        # torch leaves its events without types
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / CALLS)
    return median(times)
