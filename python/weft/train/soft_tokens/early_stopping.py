"""When to stop: something is measured every so often, and the best state so far is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from weft._files import whole_file
from weft.train.core import load_checkpoint, save_atomically

BEST, RECORD = "best.pt", "measured.jsonl"


class EarlyStopping:
    """Asks to stop once ``patience`` measurements in a row were no better than the best before.

    With a folder a resumed run remembers what was measured up to where it resumes.

    Attributes:
        best: The parameters at the least value so far; None before the first.
    """

    def __init__(
        self,
        measure: Callable[[], float],
        parameters: Callable[[], dict[str, Tensor]],
        *,
        every: int,
        patience: int,
        folder: Path | None = None,
        resume: bool = False,
    ) -> None:
        """``measure`` gives what is to be small; ``parameters`` what is to be kept; ``every`` and ``patience`` count
        steps and measurements.
        """
        self.best: dict[str, Tensor] | None = None
        self._best_step = 0
        self._measure, self._parameters = measure, parameters
        self._every, self._patience, self._folder = every, patience, folder
        self._values: dict[int, float] = {}
        kept = load_checkpoint(folder / BEST) if resume and folder is not None else None
        if kept is not None and folder is not None:
            rows = map(json.loads, (folder / RECORD).read_text().splitlines())
            self._values = {row["step"]: row["value"] for row in rows}
            self.best, self._best_step = kept["parameters"], kept["step"]

    def __call__(self, step: int) -> bool:
        """Whether to stop after ``step``."""
        if step % self._every:
            return False
        # those of a run that went further before it was resumed from here are measured again
        self._values = {known: value for known, value in self._values.items() if known < step}
        if self._best_step >= step:
            self.best = None
        with torch.no_grad():
            value = self._measure()
        is_best = self.best is None or all(value < known for known in self._values.values())
        self._values[step] = value
        if is_best:
            self._best_step = step
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self._parameters().items()}
        if self._folder is not None:
            if is_best:
                save_atomically({"step": step, "value": value, "parameters": self.best}, self._folder / BEST)
            lines = [json.dumps({"step": known, "value": value}) + "\n" for known, value in self._values.items()]
            with whole_file(self._folder / RECORD) as temporary:
                temporary.write_text("".join(lines))
        steps = sorted(self._values)
        since_best = len(steps) - 1 - min(range(len(steps)), key=lambda place: self._values[steps[place]])
        return since_best >= self._patience
