"""``python -m benchmarks.efficacy.gan_losses FOLDER``: what fake-to-fake and fake-to-real do to a GAN.

FOLDER holds what ``weft train gan`` wrote, a folder a run, named BASELINE-LOSSES-SEED: ssa-none-0, ssa-f2f-0,
ssa-f2r-0, ssa-f2f,f2r-0 and so on. Other weights and features are other folders (--others). Evaluations are kept, so a
run that is cut short goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from tqdm import tqdm

from benchmarks.efficacy.digest import digest
from benchmarks.efficacy.gan_losses.summary import LOSSES, METHOD, summarise, table
from benchmarks.efficacy.record import publish
from benchmarks.measuring.circumstances import ROOT, circumstances
from weft._files import whole_file
from weft.evaluation import (
    Extractor,
    Plan,
    Teachers,
    evaluate_sampler,
    generator_sampler,
    open_extractor,
    shapes_pictures,
)
from weft.train.gan import WEIGHTS, Generator
from weft.train.pictures import Pair

OUT = ROOT / "benchmarks" / "results" / "gan_losses_efficacy_shapes.json"
KEPT = ROOT / "runs" / "efficacy" / "gan_losses"


@dataclass(frozen=True)
class Run:
    """A trained generator and what its folder's name says of it."""

    folder: Path
    baseline: str
    losses: str
    seed: int
    variant: str = ""

    @classmethod
    def of(cls, folder: Path, variant: str = "") -> Run:
        """By name.

        Args:
            variant: What else it was trained with.

        Raises:
            ValueError: The name says something else.
        """
        baseline, _, rest = folder.name.partition("-")
        losses, _, seed = rest.rpartition("-")
        if losses not in LOSSES or not seed.isdigit():
            raise ValueError(
                f"efficacy: a run must be named BASELINE-LOSSES-SEED, with losses of {' '.join(LOSSES)}; got "
                f"{folder.name}"
            )
        return cls(folder, baseline, losses, int(seed), variant)

    @property
    def weights(self) -> str:
        """Digest of its file of weights."""
        return hashlib.sha256((self.folder / WEIGHTS).read_bytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Options:
    """Evaluate every run on the same scenes and noise, and sum up over seeds.

    Attributes:
        runs: Folder of the runs.
        others: Folders of runs that were trained with other options, NAME-VARIANT; compared with their own without
            losses, or where there are none with those of ``runs``.
        plan: What is drawn.
        extractor: As of ``weft evaluate``.
        kept: Folder of the evaluations so far, distinguished by weights and settings, not by code.
        out: JSON file of the results; a table of the same name lies beside it.
    """

    runs: tyro.conf.Positional[Path]
    others: tuple[Path, ...] = ()
    plan: Plan = field(default_factory=Plan)
    extractor: str = "shapes"
    kept: Path = KEPT
    out: Path = OUT


def runs_of(folder: Path, variant: str = "") -> list[Run]:
    """Every run in a folder, by baseline, losses and seed.

    Raises:
        ValueError: There is none, or a name that says something else.
    """
    found = [Run.of(path.parent, variant) for path in sorted(folder.glob(f"*/{WEIGHTS}"))]
    if not found:
        raise ValueError(f"efficacy: {folder} must hold folders of trained generators; there is no */{WEIGHTS}")
    return sorted(found, key=lambda run: (run.baseline, LOSSES.index(run.losses), run.seed))


def evaluated(run: Run, pictures: Sequence[Pair], extractor: Extractor, options: Options) -> dict[str, Any]:
    """The measures of a run; of one that is kept nothing is drawn again."""
    settings = [run.weights, asdict(options.plan), extractor.about()]
    kept = options.kept / f"{run.folder.name}-{digest(settings)}.json"
    if not kept.exists():
        generator = Generator.load(run.folder)
        sampler = generator_sampler(generator, generator.noise_width)
        teachers = Teachers.of(generator)
        found = evaluate_sampler(sampler, pictures, extractor, options.plan, teachers=teachers)["measures"]
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(kept) as temporary:
            temporary.write_text(json.dumps(found))
    measures: dict[str, Any] = json.loads(kept.read_text())
    return measures


def measure(options: Options) -> dict[str, Any]:
    """The record, but for circumstances."""
    runs, extractor = runs_of(options.runs), open_extractor(options.extractor)
    for folder in options.others:
        name = folder.resolve().name
        runs += runs_of(folder, name.partition("-")[2] or name)
    pictures = shapes_pictures(2 * options.plan.count, options.plan.paraphrases, seed=options.plan.seed)
    found = []
    for run in tqdm(runs, unit="run"):
        measures = evaluated(run, pictures, extractor, options)
        about = {"baseline": run.baseline, "losses": run.losses, "seed": run.seed, "weights": run.weights}
        about |= {"variant": run.variant} if run.variant else {}
        found.append({**about, "measures": measures})
    return {
        "method": METHOD,
        "plan": asdict(options.plan),
        "extractor": extractor.about(),
        "results": summarise(found),
        "runs": found,
    }


def main() -> None:
    """Command-line entry."""
    options = tyro.cli(Options, description=__doc__)
    record = measure(options)
    record["circumstances"] = circumstances(torch.get_num_threads(), "benchmarks.efficacy.gan_losses")
    publish(record, table, options.out)
