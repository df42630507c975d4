"""``weft evaluate``: how good the images of a model are, or images that were drawn before, in numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tqdm import tqdm

from weft._device import choose_device, choose_dtype
from weft._files import output_folder, whole_file
from weft.commands.loading import EMBEDDED, EMBEDDED_MODELS, load_pipeline, own_side
from weft.commands.numbers import check_numbers

if TYPE_CHECKING:
    from weft.evaluation.evaluating import Progress
    from weft.evaluation.observing import Report
    from weft.evaluation.samplers import Sampler
    from weft.evaluation.teachers import Teachers

SHAPES = "shapes"
GENERATOR_WEIGHTS = "generator.safetensors"  # marks a folder of `weft train gan`

Name = Literal["fid", "kid", "cmmd", "captions", "retrieval", "consistency", "diversity"]
NAMES: tuple[Name, ...] = ("fid", "kid", "cmmd", "captions", "retrieval", "consistency", "diversity")


@dataclass(frozen=True)
class Evaluate:
    """Measure how good images are: close to real ones, as their captions say, alike where they should be, and not
    where they should not. No measure downloads anything.
    """

    model: str | None = None
    """'embedded' (the default) or 'embedded-sd3', a folder of `weft train gan`, a diffusers folder, or a model id."""
    images: Path | None = None
    """In place of a model: a folder of images drawn before, whose metadata.jsonl says from which captions."""
    data: str = SHAPES
    """What a model draws from and is measured against: 'shapes', or a folder of pictures with captions."""
    layout: Literal["auto", "imagefolder", "cub", "coco"] = "auto"
    """How the folder of --data is laid out."""
    split: str | None = None
    """Of --data: test of CUB and val of COCO if not given; of shapes train, for scenes like those of training, or test
    for what training never showed."""
    against: Path | None = None
    """With --images: a folder of real pictures; scenes of the shapes world if not given."""
    extractor: str = SHAPES
    """What makes features of images: 'shapes', the judge of the shapes world, or the folder of a vision model of
    transformers, such as CLIP or DINOv2."""
    measures: Annotated[tuple[Name, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = NAMES
    """Which, of fid, kid, cmmd, captions, retrieval, consistency and diversity; diversity comes with any of them."""
    count: int = 512
    """Pictures; each is drawn once for the distances, captions and retrieval."""
    groups: int = 64
    """Of these, how many are also drawn from other wordings and other noises."""
    paraphrases: int = 6
    """Wordings of each of these, drawn from the same noise."""
    noises: int = 4
    """Noises of each of these."""
    seed: int = 0
    """Of the choice of pictures, and of noise, folds and resamples."""
    out: Path = Path("evaluation.json")
    """The file to write."""
    keep: Path | None = None
    """Folder for the images drawn, with a list that --images reads; not kept if not given."""
    steps: int = 25
    """Denoising steps of a diffusion model."""
    guidance_scale: float | None = None
    """Classifier-free guidance weight, 1 = off; the model's own default if not given."""
    resolution: int | None = None
    """Pixels of a side; the model's own if not given."""
    batch_size: int = 32
    """Images drawn at a time."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of a diffusion model; auto is float16 on a GPU, float32 elsewhere."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""


def evaluate(options: Evaluate) -> str:
    """Carry out ``weft evaluate``; writes the record and returns it as a table.

    Raises:
        ValueError: An option out of range, a model or extractor that cannot be loaded, images that cannot be read,
            or too few of them.
        OSError: A folder that is not there, or nothing can be written; found out before anything is drawn.
    """
    from weft.evaluation.reporting import table

    _check(options)
    output_folder(options.out.parent, who="evaluate")
    began = time.perf_counter()
    try:
        found = _of_images(options) if options.images is not None else _of_model(options)
    except ImportError as error:
        raise ValueError(f"evaluate: --measures: {error}") from error
    record = {
        **found,
        "options": asdict(options),
        "seconds": round(time.perf_counter() - began, 1),
        "versions": {name: _version(name) for name in ("weft", "torch", "torchmetrics", "transformers")},
    }
    with whole_file(options.out) as temporary:
        temporary.write_text(json.dumps(record, indent=1, default=str) + "\n")
    return f"{found['what']} against {found['against']}\n{table(found['measures'])}\nrecord: {options.out}"


def _of_model(options: Evaluate) -> dict[str, Any]:
    from weft.evaluation.evaluating import evaluate_sampler
    from weft.evaluation.extractors import open_extractor
    from weft.evaluation.planning import Plan
    from weft.evaluation.scenes import folder_pictures, shapes_pictures
    from weft.evaluation.words import given_folder, is_word

    data = None
    if not is_word(options.data, [SHAPES], option="--data"):
        data = given_folder(options.data, [SHAPES], option="--data", what="pictures with captions")
    plan = Plan(options.count, options.groups, options.paraphrases, options.noises, options.seed)
    keep = None if options.keep is None else output_folder(options.keep, who="evaluate", option="--keep")
    device = choose_device(options.device)
    extractor = open_extractor(options.extractor, device)
    sampler, size, what, teachers = _sampler(options, device)
    if data is None:
        split: Any = options.split or "train"
        pictures: Any = shapes_pictures(2 * plan.count, plan.paraphrases, seed=plan.seed, split=split)
        against = f"{plan.count} scenes of the shapes world, split {split}, seed {plan.seed}"
    else:
        wanted = {"layout": options.layout, "split": options.split, "seed": plan.seed}
        pictures = folder_pictures(data, size, plan.count, **wanted)  # type: ignore[arg-type]
        against = f"{plan.count} pictures of {options.data}, squares of {size} pixels, Pillow Lanczos"
    with _progress() as progress:
        found = evaluate_sampler(
            sampler,
            pictures,
            extractor,
            plan,
            measures=options.measures,
            teachers=teachers,
            batch_size=options.batch_size,
            keep=keep,
            progress=progress,
        )
    return {"what": what, "against": against, "plan": asdict(plan), "extractor": extractor.about(), **found}


def _of_images(options: Evaluate) -> dict[str, Any]:
    from weft.evaluation.drawings import read_drawings
    from weft.evaluation.evaluating import evaluate_drawings
    from weft.evaluation.extractors import open_extractor
    from weft.evaluation.scenes import shapes_pictures

    assert options.images is not None
    # distances need no captions; whatever else is asked for does
    captioned = not set(options.measures) <= {"fid", "kid", "cmmd"}
    drawings = read_drawings(options.images, who="evaluate: --images", captioned=captioned)
    against = None if options.against is None else read_drawings(options.against, who="evaluate: --against")
    extractor = open_extractor(options.extractor, choose_device(options.device))
    scenes = shapes_pictures(2 * options.count, 1, seed=options.seed) if against is None else []
    real: Sequence[Any] = against or scenes[: options.count]
    with _progress() as progress:
        found = evaluate_drawings(
            drawings,
            real,
            extractor,
            others=scenes[options.count :],
            measures=options.measures,
            seed=options.seed,
            progress=progress,
        )
    return {
        "what": f"{len(drawings)} images of {options.images}",
        "against": f"{len(real)} scenes of the shapes world"
        if against is None
        else f"{len(real)} of {options.against}",
        "extractor": extractor.about(),
        **found,
    }


def _sampler(options: Evaluate, device: Any) -> tuple[Sampler, int, str, Teachers]:
    """What draws, how many pixels a side, what it is in words, and who taught it."""
    from weft.evaluation.samplers import generator_sampler, pipeline_sampler
    from weft.evaluation.teachers import NO_TEACHERS, UNKNOWN, Teachers
    from weft.evaluation.words import is_word

    model = options.model or EMBEDDED
    embedded = options.model is None or is_word(options.model, EMBEDDED_MODELS, option="--model")
    folder = Path(model).expanduser()
    if not embedded and (folder / GENERATOR_WEIGHTS).is_file():
        from weft.train.gan import Generator

        generator = Generator.load(folder).to(device)
        if options.resolution not in (None, generator.resolution):
            raise ValueError(
                f"evaluate: --resolution of {model} is {generator.resolution}; got {options.resolution}; leave it out"
            )
        sampler = generator_sampler(generator, generator.noise_width)
        return sampler, generator.resolution, f"generator {model}", Teachers.of(generator)
    if not embedded and folder.is_dir() and not (folder / "model_index.json").is_file():
        raise ValueError(
            f"evaluate: --model must be {' or '.join(map(repr, EMBEDDED_MODELS))}, a folder of `weft train gan` or of "
            f"diffusers, or a model id; {folder} has neither {GENERATOR_WEIGHTS} nor model_index.json"
        )
    pipe = load_pipeline(model, choose_dtype(options.dtype, device), device)
    pipe.set_progress_bar_config(disable=True)
    size = options.resolution or own_side(pipe)
    sampler = pipeline_sampler(
        pipe, steps=options.steps, guidance_scale=options.guidance_scale, height=size, width=size
    )
    guidance = "its own guidance" if options.guidance_scale is None else f"guidance {options.guidance_scale:g}"
    what = f"{model}, {type(pipe.scheduler).__name__}, {options.steps} steps, {guidance}"
    return sampler, size, what, NO_TEACHERS if embedded else UNKNOWN


def _check(options: Evaluate) -> None:
    check_numbers(options, who="evaluate")
    for name in ("count", "batch_size", "paraphrases", "noises"):
        if getattr(options, name) < 1:
            raise ValueError(f"evaluate: {_flag(name)} must be at least 1; got {getattr(options, name)}")
    if options.out.suffix != ".json" or options.out.is_dir():
        raise ValueError(f"evaluate: --out must be a file that ends in .json; got {options.out}")
    default = Evaluate()
    of_models = ("model", "data", "layout", "split", "keep", "resolution", "guidance_scale")
    if options.images is not None and (given := [n for n in of_models if getattr(options, n) != getattr(default, n)]):
        raise ValueError(f"evaluate: {', '.join(map(_flag, given))} belong to a model; leave them out with --images")
    if options.images is None and options.against is not None:
        raise ValueError("evaluate: --against belongs to --images; a model is measured against --data")
    if options.data == SHAPES and options.split not in (None, "train", "test"):
        raise ValueError(f"evaluate: --split of the shapes world must be train or test; got {options.split!r}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@contextmanager
def _progress() -> Iterator[Progress]:
    """One bar a stage; the last is closed when the next begins, or the block ends."""
    bars: list[Any] = []

    def begin(stage: str, images: int) -> Report:
        if bars:
            bars.pop().close()
        bars.append(tqdm(total=images, desc=stage, unit="image", smoothing=0.05))
        update: Report = bars[-1].update
        return update

    try:
        yield begin
    finally:
        for bar in bars:
            bar.close()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
