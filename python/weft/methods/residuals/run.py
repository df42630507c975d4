"""One generation with localized residuals: what every layer and projection gets, and where concepts acted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.attach import Generation, LayerInfo, LayerRequest, ProjectionInfo, ProjectionTerms, Step
from weft.methods.residuals.factors import Factors
from weft.methods.residuals.gates import AttentionGate, Workspace
from weft.methods.residuals.regions import on_grid
from weft.methods.residuals.words import Positions

Grid = tuple[int, int]
Table = tuple[tuple[float, ...], ...]  # [images][concepts]
Rows = tuple[int, int, int]  # of a pass: how many, and from where to where they carry the prompt
Pixels = tuple[int, int]  # among the rows of a projection: the first pixel, and how many rows there are


@dataclass(frozen=True)
class Rules:
    """How masks are made of maps, and which rows of a batch have them.

    Attributes:
        threshold, overlap: ``rule`` and ``overlap`` of ``regions.concept_gate``.
        conditional_only: Rows without the prompt are left to the model.
        exact: Where a gate is closed the projection keeps its bits.
    """

    threshold: str | float
    overlap: str
    conditional_only: bool
    exact: bool


@dataclass(frozen=True, eq=False)
class Sources:
    """What opens the gates of a generation: attention to words, masks, or, with neither, nothing but the strengths.

    Attributes:
        named: Token positions, [images][concepts].
        feeders: Block -> names of the layers whose maps make its gate, in the order in which they run.
        masks: [K, h, w] of the image's size.
    """

    named: tuple[tuple[Positions, ...], ...] | None = None
    feeders: Mapping[str, tuple[str, ...]] | None = None
    masks: Tensor | None = None


class LocalizedRun:
    """The state of one generation. All tensors are the workspace's, written in place."""

    def __init__(
        self, generation: Generation, sources: Sources, rules: Rules, factors: Mapping[str, Factors], space: Workspace
    ) -> None:
        self._generation, self._sources, self._rules = generation, sources, rules
        self._factors, self._space = factors, space
        self._table: Table = ()
        self._batches: dict[Rows, Tensor] = {}  # rows of a pass -> their strengths, [B, K]
        self._requests: dict[tuple[str, Rows, int], LayerRequest] = {}
        self._terms: dict[tuple[str, Rows, Pixels], ProjectionTerms] = {}
        self._regions: dict[tuple[Rows, Grid, Pixels], Tensor] = {}  # gates of masks, [B, N, K]
        # of the last pass that carries the prompt, by projection
        self._last: dict[str, tuple[ProjectionInfo, Rows, Pixels]] = {}

    def scale(self, table: Table) -> None:
        """Let concepts act with these strengths, [images][concepts], where the prompt of an image names them."""
        named = self._sources.named
        if named is not None:
            table = tuple(
                tuple(strength if positions else 0.0 for strength, positions in zip(row, image, strict=True))
                for row, image in zip(table, named, strict=True)
            )
        self._table = table
        for rows, strengths in self._batches.items():
            strengths.copy_(self._of_rows(rows))
        for key, gate in self._regions.items():
            gate.copy_(self._covered(*key))

    @property
    def acts(self) -> bool:
        """Whether any concept acts in any image."""
        return any(strength != 0 for row in self._table for strength in row)

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        """The read-out of the concepts' words, for layers that feed a gate."""
        feeders = self._sources.feeders
        # words are where they were found only in the prompt of this generation
        if not self.acts or feeders is None or not step.has_rows or step.prompt is not self._generation.prompt:
            return None
        rows = _rows(step)
        key = (layer.name, rows, step.seqlen_k)
        if key not in self._requests:
            block = layer.name.partition(".transformer_blocks.")[0]
            names = feeders.get(block, ())
            if layer.name not in names:
                return None
            h, w = layer.grid(self._generation.latent_size)
            gate = self._attention_gate(block, rows, h * w, several=len(names) > 1)
            sink = gate.sink(first=layer.name == names[0], last=layer.name == names[-1])
            self._requests[key] = LayerRequest(readout=self._readout(step), sink=sink)
        return self._requests[key]

    def terms(self, projection: ProjectionInfo, step: Step) -> ProjectionTerms | None:
        """What ``projection`` adds; None where no concept acts."""
        factors = self._factors.get(projection.name)
        if factors is None or not self.acts or (self._rules.conditional_only and not step.has_rows):
            return None
        rows, (pixels, total) = _rows(step), projection.pixels(step)
        place = (pixels.start, total)
        if step.has_rows:
            self._last[projection.name] = projection, rows, place
        key = (projection.name, rows, place)
        if key not in self._terms:
            gate = self._gate(projection, rows, place)
            terms = ProjectionTerms(factors.down, factors.up, factors.ranks, gate, keeps_base=self._rules.exact)
            self._terms[key] = terms
        return self._terms[key]

    def open_shares(self) -> Tensor:
        """The share of blocks whose gate was open at every cell of the latent in the last pass, [K, images, h, w]."""
        latent = height, width = self._generation.latent_size
        concepts, images = len(self._table[0]), self._generation.images
        shares = torch.zeros(concepts, images, height, width)
        shown = list(self._last.values()) if self.acts else []
        for projection, rows, place in shown:
            gate = self._terms[projection.name, rows, place].gate
            assert gate is not None
            gate, grid, (first, _) = gate[slice(*rows[1:])], (1, 1), place
            if gate.ndim == 3:
                grid = projection.grid(latent)
                gate = gate[:, first : first + grid[0] * grid[1]]
            is_open = (gate if gate.ndim == 3 else gate[:, None]).ne(0).float().cpu()
            shares += F.interpolate(is_open.transpose(1, 2).reshape(images, concepts, *grid), latent).transpose(0, 1)
        return shares / max(len(shown), 1)

    def _gate(self, projection: ProjectionInfo, rows: Rows, place: Pixels) -> Tensor:
        """What gates ``projection``: [B, N, K] by attention or by masks, else the strengths [B, K]."""
        grid = projection.grid(self._generation.latent_size)
        if self._sources.feeders is not None:
            return self._mask_tensor(projection.block, rows[0], grid[0] * grid[1])
        if self._sources.masks is None:
            return self._strengths(rows)
        key = (rows, grid, place)
        if key not in self._regions:
            covered = self._covered(*key)
            gate = self._space.tensor(f"regions {grid} of {rows} at {place}", tuple(covered.shape), self._generation)
            self._regions[key] = gate.copy_(covered)
        return self._regions[key]

    def _covered(self, rows: Rows, grid: Grid, place: Pixels) -> Tensor:
        """The gate of masks on ``grid``, [B, N, K], on the CPU; closed for what is no pixel: text and references."""
        assert self._sources.masks is not None
        gate, (first, total) = self._of_rows(rows)[:, None] * on_grid(self._sources.masks, grid), place
        return F.pad(gate, (0, 0, first, total - first - gate.shape[1]))

    def _attention_gate(self, block: str, rows: Rows, cells: int, several: bool) -> AttentionGate:
        total = None
        if several:
            shape = (self._generation.images, cells, len(self._table[0]))
            total = self._space.tensor(f"sum of {cells}", shape, self._generation)  # of one block at a time
        gate, carrying = self._mask_tensor(block, rows[0], cells), slice(*rows[1:])
        return AttentionGate(gate, self._strengths(rows), carrying, self._rules.threshold, self._rules.overlap, total)

    def _mask_tensor(self, block: str, batch: int, cells: int) -> Tensor:
        return self._space.tensor(f"gate of {block}", (batch, cells, len(self._table[0])), self._generation)

    def _strengths(self, rows: Rows) -> Tensor:
        if rows not in self._batches:
            found = self._of_rows(rows)
            strengths = self._space.tensor(f"strengths of {rows}", tuple(found.shape), self._generation)
            self._batches[rows] = strengths.copy_(found)
        return self._batches[rows]

    def _of_rows(self, rows: Rows) -> Tensor:
        """The strengths of every row of a pass, [B, K] fp64 on the CPU."""
        batch, start, stop = rows
        images = torch.tensor(self._table, dtype=torch.float64)
        if batch % len(images):
            raise ValueError(
                f"LocalizedResiduals: a batch must have the rows of all {len(images)} images that the generation "
                f"began with, once or several times; got {batch}; call `attachment.reset()` where another begins"
            )
        if not self._rules.conditional_only:
            return images.repeat(batch // len(images), 1)  # rows repeat the images
        strengths = images.new_zeros(batch, images.shape[1])
        if stop > start:
            strengths[start:stop] = images
        return strengths

    def _readout(self, step: Step) -> Tensor:
        """W, [B, Nk, K]: 1 at the tokens of each concept in the rows that carry the prompt."""
        named = self._sources.named
        assert named is not None
        readout = torch.zeros(step.batch, step.seqlen_k, len(self._table[0]))
        for row, concepts in zip(readout[step.conditional], named, strict=True):
            for concept, positions in enumerate(concepts):
                row[list(positions), concept] = 1
        space = self._space.tensor("read-out", tuple(readout.shape), self._generation)
        return space.copy_(readout)


def _rows(step: Step) -> Rows:
    return step.batch, step.conditional.start, step.conditional.stop
