"""An evaluation from end to end: of what draws, or of images that were drawn."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from weft.evaluation.drawings import Drawing, write_drawings
from weft.evaluation.enough import check_enough
from weft.evaluation.extractors import Extractor
from weft.evaluation.measuring import MEASURES, READ, Measure, measure
from weft.evaluation.observing import Report, features_of, observe
from weft.evaluation.planning import Captioned, Plan, Request, first_of_scenes, requests
from weft.evaluation.samplers import Sampler, draw
from weft.evaluation.teachers import UNKNOWN, Teachers, taught
from weft.shapes.caption_reader import objects_of

Progress = Callable[[str, int], Report]  # a stage and how many images it has, to what counts them
_BATCH = 64  # images that an extractor sees at a time


class Readable(Protocol):
    """An image that is read when it is asked for."""

    def read(self) -> Image.Image: ...


def _features(images: Sequence[Readable], extractor: Extractor, report: Report) -> Tensor | None:
    """[N, D], or None of no images."""
    if not images:
        return None
    return features_of((one.read() for one in images), extractor, batch_size=_BATCH, report=report)


def _silent(stage: str, images: int) -> Report:
    return lambda done: None


def evaluate_sampler(
    sampler: Sampler,
    pictures: Sequence[Captioned],
    extractor: Extractor,
    plan: Plan,
    *,
    measures: Sequence[Measure] = MEASURES,
    teachers: Teachers = UNKNOWN,
    batch_size: int = 32,
    keep: Path | None = None,
    progress: Progress = _silent,
) -> dict[str, Any]:
    """Draw from the captions of pictures and measure the drawn against these.

    Args:
        sampler: What draws.
        pictures: With captions. The first ``plan.count`` are what is drawn and measured against; as many more, if
            there are, measure the distance between two sets of real pictures.
        extractor: Of features.
        plan: What is drawn.
        measures: As of ``measure``, which adds diversity.
        teachers: Of the sampler: an extractor among them flatters it, and a warning says so.
        batch_size: Images drawn at a time.
        keep: An existing folder for what is drawn, and a list of it; nothing is kept if not given.
        progress: See ``Progress``.

    Returns:
        ``measures``, and how many images were ``drawn`` for them.

    Raises:
        As ``requests`` and ``measure``; what can be found out before anything is drawn is.
    """
    flatters = taught(extractor, teachers)
    requested = requests(pictures, plan)
    shown, others = pictures[: plan.count], pictures[plan.count : 2 * plan.count]
    if len(others) < plan.count:
        others = []
    report = progress("real images", len(shown) + len(others))
    real, spare = (_features(part, extractor, report) for part in (shown, others))
    assert real is not None
    check_enough(measures, real.shape[1], real=len(real), drawn=plan.count)
    images = draw(sampler, requested, batch_size)
    if keep is not None:
        images = write_drawings(keep, requested, images)
    report = progress("drawing", len(requested))
    reads = not READ.isdisjoint(measures)
    observed = observe(images, requested, extractor, batch_size=batch_size, with_reader=reads, report=report)
    found = measure(
        observed,
        real,
        extractor,
        measures=measures,
        others=spare,
        real_captions=[pair.captions[0] for pair in shown],
        meanings=[_meaning(number, pair) for number, pair in enumerate(shown)],
        taught=flatters,
        seed=plan.seed,
    )
    return {"drawn": len(requested), "measures": found}


def _meaning(number: int, pair: Captioned) -> Hashable:
    """What sets its first caption apart: the objects it names, the class of the picture, or the picture."""
    return objects_of(pair.captions[0]) or (("picture", number) if pair.group is None else ("class", pair.group))


def evaluate_drawings(
    drawings: Sequence[Drawing],
    against: Sequence[Readable],
    extractor: Extractor,
    *,
    others: Sequence[Readable] = (),
    measures: Sequence[Measure] = MEASURES,
    seed: int = 0,
    progress: Progress = _silent,
) -> dict[str, Any]:
    """Measure images that were drawn before against real ones.

    Args:
        drawings: Where one has no caption, only distances are measured, and diversity says why it is not.
        against: Real images.
        others: Real images that are none of these; as of ``measure``.
        extractor, measures, seed, progress: As above.

    Returns, raises:
        As ``evaluate_sampler``.
    """
    if not drawings or not against:
        raise ValueError(
            f"evaluate: needs images on each side; got {len(against)} real and {len(drawings)} drawn; give some of "
            "both"
        )
    captioned = all(one.request is not None for one in drawings)
    requested = [one.request or Request(number, "", 0) for number, one in enumerate(drawings)]
    chosen: Sequence[Measure] = measures if captioned else [one for one in measures if one in ("fid", "kid", "cmmd")]
    report = progress("real images", len(against) + len(others))
    real, spare = (_features(part, extractor, report) for part in (against, others))
    assert real is not None
    counts = {"real": len(against), "drawn": len(first_of_scenes(requested)), "others": len(others)}
    check_enough(chosen, real.shape[1], **counts)
    images = (one.read() for one in drawings)
    report, reads = progress("drawn images", len(drawings)), not READ.isdisjoint(chosen)
    observed = observe(images, requested, extractor, batch_size=_BATCH, with_reader=reads, report=report)
    return {
        "drawn": len(requested),
        "measures": measure(observed, real, extractor, measures=chosen, others=spare, seed=seed),
    }
