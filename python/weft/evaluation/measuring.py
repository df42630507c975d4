"""Every measure of one evaluation, each with what it was found from, as a record for JSON."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from weft.evaluation.distances import CMMD_SCALE, CMMD_SIGMA, cmmd, fid, kid
from weft.evaluation.extractors import Extractor
from weft.evaluation.intervals import CONFIDENCE, RESAMPLES, interval
from weft.evaluation.observing import Observed
from weft.evaluation.planning import first_of_scenes, noises, wordings
from weft.evaluation.retrieval import CANDIDATES, FOLDS, r_precision
from weft.evaluation.spreading import spreads
from weft.shapes.caption_reader import objects_of, prompt_of
from weft.shapes.scoring import MIN_CONFIDENCE, score
from weft.train.pictures import METADATA

Measure = Literal["fid", "kid", "cmmd", "captions", "retrieval", "consistency", "diversity"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
READ: frozenset[Measure] = frozenset({"captions", "consistency"})  # those that the reader of the shapes world serves
KID_SUBSET = 256  # images, at most
_RULER = 512  # pairs of unrelated images
_BOOTSTRAP = {"confidence": CONFIDENCE, "resamples": RESAMPLES}


def measure(
    drawn: Observed,
    real: Tensor,
    extractor: Extractor,
    *,
    measures: Sequence[Measure] = MEASURES,
    others: Tensor | None = None,
    real_captions: Sequence[str] | None = None,
    meanings: Sequence[Hashable] | None = None,
    taught: bool | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure drawn images against real ones.

    Args:
        drawn: Images and what they were drawn from. Distances, captions and retrieval take the first of each scene.
        real: [M, D] features of the images they are compared with.
        extractor: That made the features.
        measures: Which. Diversity is never left out: each of the others is easily had for it.
        others: [M', D] features of real images that are none of these: their distances are the "floor", which no
            sampler can be expected to beat, and of few images most of what FID finds.
        real_captions: Of the first real images, one for each scene: what retrieval achieves on them is its ceiling.
        meanings: Of the first image of each scene, in their order, what its caption says, equal where two say the
            same; what captions of the shapes world name, or the scene, if not given.
        taught: Whether the extractor has taught what drew, as ``Teachers.include``.
        seed: Of subsets, folds and resamples.

    Returns:
        A record by measure; one that cannot be found says under "absent" why.

    Raises:
        ValueError: Too few images for a measure, or an unknown one.
        ImportError: A distance of torchmetrics without torchmetrics.
    """
    if unknown := set(measures) - set(MEASURES):
        raise ValueError(f"measure: knows {', '.join(MEASURES)}; got {', '.join(sorted(unknown))}")
    found: dict[str, Callable[[], dict[str, Any]]] = {
        "fid": lambda: _with_floor("fid", drawn, real, others, seed),
        "kid": lambda: _with_floor("kid", drawn, real, others, seed),
        "cmmd": lambda: _with_floor("cmmd", drawn, real, others, seed),
        "captions": lambda: _captions(drawn, seed),
        "retrieval": lambda: _retrieval(drawn, real, extractor, real_captions, meanings, seed),
        "consistency": lambda: _consistency(drawn, seed),
        "diversity": lambda: _diversity(drawn, real, seed),
    }
    wanted = {*measures, "diversity"}
    about = {
        "extractor": extractor.name,
        "extractor_taught": taught,
        "features": real.shape[1],
        "resize": extractor.resize,
        "seed": seed,
    }
    return {name: {**find(), **about} for name, find in found.items() if name in wanted}


def _with_floor(name: str, drawn: Observed, real: Tensor, others: Tensor | None, seed: int) -> dict[str, Any]:
    found = _distance(name, real, drawn.features[first_of_scenes(drawn.requests)], seed)
    return found if others is None else {**found, "floor": _distance(name, real, others, seed)["value"]}


def _distance(name: str, real: Tensor, drawn: Tensor, seed: int) -> dict[str, Any]:
    counts = {"real": len(real), "drawn": len(drawn)}
    if name == "fid":
        return {"value": fid(real, drawn), **counts}
    if name == "kid":
        subset_size = max(2, min(KID_SUBSET, len(real) // 2, len(drawn) // 2))
        return {**kid(real, drawn, subset_size=subset_size, seed=seed), **counts}
    return {"value": cmmd(real, drawn), "sigma": CMMD_SIGMA, "scale": CMMD_SCALE, "unbiased": True, **counts}


def _captions(drawn: Observed, seed: int) -> dict[str, Any]:
    """Shares of images that show what their caption says, by the reader of the shapes world."""
    if drawn.seen is None:
        return {"absent": "images or captions are not of the shapes world, and the reader knows no other"}
    verdicts = []
    for place in first_of_scenes(drawn.requests):
        prompt = prompt_of(drawn.requests[place].caption)
        assert prompt is not None
        verdicts.append(score(prompt, drawn.seen[place]))
    return {
        "bound": asdict(interval([all(one.bound) for one in verdicts], seed=seed)),
        "correct": asdict(interval([one.correct for one in verdicts], seed=seed)),
        **_BOOTSTRAP,
    }


def _retrieval(
    drawn: Observed,
    real: Tensor,
    extractor: Extractor,
    real_captions: Sequence[str] | None,
    meanings: Sequence[Hashable] | None,
    seed: int,
) -> dict[str, Any]:
    if extractor.shared is None or extractor.texts is None:
        return {"absent": f"the extractor {extractor.name!r} embeds no texts"}
    first = first_of_scenes(drawn.requests)
    captions = [drawn.requests[place].caption for place in first]
    if meanings is None:
        meanings = [objects_of(drawn.requests[place].caption) or drawn.requests[place].scene for place in first]
    if len(set(meanings)) < 2:
        return {"absent": "all captions say the same, or are of one class: none is wrong"}
    texts = extractor.texts(captions)
    folds = min(FOLDS, len(first))

    def precision(features: Tensor, embedded: Tensor) -> dict[str, Any]:
        assert extractor.shared is not None
        # a quick run may have fewer scenes than candidates
        candidates = min(CANDIDATES, _most_candidates(meanings))
        result = r_precision(
            extractor.shared(features), embedded, meanings, candidates=candidates, folds=folds, seed=seed
        )
        return {**asdict(result), "hits": sum(result.hits), "total": len(result.hits), "chance": result.chance}

    found = precision(drawn.features[first], texts)
    if real_captions is not None:
        real_texts = texts if list(real_captions) == captions else extractor.texts(real_captions)
        found["real"] = {name: precision(real[: len(first)], real_texts)[name] for name in ("mean", "std")}
    return found


def _most_candidates(meanings: Sequence[Hashable]) -> int:
    """Of a caption that says what most say, itself and all that say something else."""
    counts = {meaning: 0 for meaning in meanings}
    for meaning in meanings:
        counts[meaning] += 1
    return 1 + len(meanings) - max(counts.values())


def _consistency(drawn: Observed, seed: int) -> dict[str, Any]:
    """How little the wording changes: distances between images of a scene and noise; do they show the same?"""
    groups = wordings(drawn.requests)
    if len(groups) < 2:
        return {"absent": f"needs two scenes that are each drawn from two captions and one noise; got {len(groups)}"}
    found: dict[str, Any] = {
        **asdict(interval(spreads(drawn.features, groups), seed=seed)),
        "most_wordings": max(map(len, groups)),
        **_BOOTSTRAP,
    }
    if drawn.seen is not None:
        shown = [_objects(seen) for seen in drawn.seen]
        same = [len({shown[place] for place in group}) == 1 for group in groups]
        found["same_objects"] = asdict(interval(same, seed=seed))
    return found


def _objects(seen: Sequence[Any]) -> tuple[Any, ...]:
    """What an image shows, wherever it is."""
    return tuple(sorted(item.pair for item in seen if item.confidence >= MIN_CONFIDENCE))


def _diversity(drawn: Observed, real: Tensor, seed: int) -> dict[str, Any]:
    """How much the noise changes: distances between images of one caption; as a ruler, of unrelated real images."""
    groups = noises(drawn.requests)
    if len(groups) < 2:
        return {
            "absent": f"needs two captions that are each drawn from two noises; got {len(groups)}; draw more groups "
            f"and noises, or give `text`, `scene` and `noise` of drawn images in {METADATA}"
        }
    found: dict[str, Any] = {
        **asdict(interval(spreads(drawn.features, groups), seed=seed)),
        "most_noises": max(map(len, groups)),
        **_BOOTSTRAP,
    }
    return found if len(real) < 2 else {**found, "unrelated": _unrelated(real, seed)}


def _unrelated(real: Tensor, seed: int) -> float:
    """Mean distance between two of the real images."""
    rng = np.random.default_rng(seed)
    pairs = [rng.choice(len(real), 2, replace=False) for _ in range(_RULER)]
    one, other = (real[[int(pair[i]) for pair in pairs]].double() for i in (0, 1))
    return float((one - other).norm(dim=1).mean())
