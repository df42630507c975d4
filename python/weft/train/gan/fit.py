"""``fit_gan``: train a text-to-image GAN from pictures with captions, with or without losses over pairs of views."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from weft.train.core import digest_of_weights, fit, make_accelerator
from weft.train.distribution import FakeToFake
from weft.train.gan.attn import AttnDiscriminator
from weft.train.gan.batches import GanBatch, GanBatches
from weft.train.gan.config import GENERATOR, GanConfig
from weft.train.gan.games import AttnGame, Game, SsaGame
from weft.train.gan.generator import Generator, averaged, network_of
from weft.train.gan.matching import Matching
from weft.train.gan.matching_stage import matching_stage
from weft.train.gan.objective import GanObjective
from weft.train.gan.pictures import read_pictures
from weft.train.gan.samples import sampling
from weft.train.gan.ssa import SsaDiscriminator

MATCHING, SAMPLES = "matching", "samples"  # folders of a run
SETTLING = 8  # batches that give an averaged generator its running statistics


def fit_gan(
    pictures: Any,
    *,
    config: GanConfig | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    accelerator: Accelerator | None = None,
    text: Any = None,
    vision: Any = None,
) -> Generator:
    """Train a generator to draw what captions say.

    First a matching model learns how well captions fit pictures; frozen, it encodes the captions and teaches the
    generator. Then generator and discriminator take turns.

    Args:
        pictures: Pictures with several captions each: a folder with ``metadata.jsonl`` (``text`` is one or a list), or
            as CUB or COCO have it; or a sequence of (picture, captions), such as ``weft.shapes.CaptionedScenes``.
        config: Numbers; None for the smallest SSA-GAN.
        folder: Keeps checkpoints, logs, the matching model and grids of samples. None keeps nothing, and then Ctrl-C
            raises at once.
        resume: Go on from the checkpoint in ``folder``; on a CPU with the same bits as if nothing had happened.
        accelerator: Device, precision and processes; None makes one for a GPU if there is any.
        text: What encodes captions, frozen but for a projection: a folder of transformers or diffusers, or (tokenizer,
            model); None trains a small recurrent one.
        vision: What looks at pictures in the matching model, likewise: a folder, or a network from pictures to
            features [B, R, C] or [B, C, h, w]; None trains a small one.

    Returns:
        The generator, with the moving average of its parameters, on the accelerator's device.

    Raises:
        TypeError: Pictures that are none.
        FileNotFoundError: A folder that is not there.
        ValueError: Pictures without captions or too few, an option out of range, classes asked for where pictures have
            none, or a checkpoint of another run.
        weft.train.Diverged: A loss is not finite; the last good checkpoint is kept.
        weft.train.Interrupted: Ctrl-C or SIGTERM with ``folder``; the checkpoint has been written.

    Source:
        The designs: ``weft.train.gan.ssa`` and ``weft.train.gan.attn``. The losses over pairs of views:
        ``weft.train.distribution.losses``.
    """
    config = config or GanConfig()
    folder = None if folder is None else Path(folder)
    config.check(folder)
    found = read_pictures(pictures, config.resolution, crop=config.crop, flip=config.flip, split=config.split)
    losses = config.chosen_losses()
    needs_classes = any(loss.class_mask for loss in losses)
    if needs_classes:
        found.check_classes()
    if accelerator is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        accelerator = make_accelerator(device, config.precision, folder, tensorboard=config.tensorboard)
    matching = matching_stage(
        found,
        config.chosen_matching,
        accelerator,
        None if folder is None else folder / MATCHING,
        given=None if config.matching_folder is None else Path(config.matching_folder),
        text=text,
        vision=vision,
        length=config.length,
        seed=config.seed,
        resume=resume,
        log_every=config.log_every,
    )

    objective = objective_of(config, matching)
    network, record = objective.generator, config.record(matching.text.width)  # type: ignore[arg-type]
    batches = GanBatches(
        found,
        matching.text.numbers,  # type: ignore[arg-type]
        config.batch_size,
        network.noise_width,  # type: ignore[arg-type]
        seed=config.seed,
        process=accelerator.process_index,
        needs_classes=needs_classes,
    )

    # a model given as an object may hold another encoder, and be known by another digest
    given = [config.features, *(loss.features for loss in losses), text, vision]
    knows_teachers = all(one is None or isinstance(one, (str, Path)) for one in given)

    def generator(average: dict[str, torch.Tensor] | None) -> Generator:
        own = None if average is None else {key.removeprefix(f"{GENERATOR}."): value for key, value in average.items()}
        settling = [_noise_and_text(objective, replace(batches, process=0)(i * batches.size)) for i in range(SETTLING)]
        drawn_by = averaged(network, own, settling)
        teachers = {"taught_by": matching.taught_by, "knows_teachers": knows_teachers}
        return Generator(drawn_by, matching.text, {**record, **teachers})  # type: ignore[arg-type]

    draw = None
    if config.sample_every is not None and folder is not None:
        draw = sampling(
            found,
            lambda: generator(objective.average),
            folder / SAMPLES,
            every=config.sample_every,
            last=config.steps,
            seed=config.seed,
        )
    average = fit(
        "gan",
        objective,
        batches,
        config.loop(),
        accelerator,
        folder,
        resume=resume,
        identity={
            **record,
            "pictures": found.digest(),
            "matching": digest_of_weights([matching]),
            "losses": [_loss_record(loss, config) for loss in losses],
            "both_views": config.both_views,
            "crop": config.crop,
            "flip": config.flip,
            "seed": config.seed,
        },
        after_step=draw,
    )
    for tracker in accelerator.trackers:
        tracker.finish()
    return generator(average)


def objective_of(config: GanConfig, matching: Matching, kind: type[GanObjective] = GanObjective) -> GanObjective:
    """What learns, as its training begins: parameters follow from the seed."""
    width: int = matching.text.width  # type: ignore[assignment]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network, game = network_of(config.record(width)), _game(config, width)
    return kind(
        network,
        game,
        matching,
        players=config.players(),
        turns=config.turns(),
        weights=config.chosen.weights,
        losses=config.chosen_losses(),
        source=config.features,
        both_views=config.both_views,
    )


def _game(config: GanConfig, sentence: int) -> Game:
    recipe = config.chosen
    if config.baseline == "ssa":
        return SsaGame(SsaDiscriminator(config.resolution, width=recipe.discriminator_width, sentence=sentence))
    return AttnGame(
        AttnDiscriminator(config.resolution, stages=recipe.stages, width=recipe.discriminator_width, sentence=sentence)
    )


def _noise_and_text(objective: GanObjective, batch: GanBatch) -> tuple[torch.Tensor, Any]:
    """The first view of a batch, on the generator's device."""
    device = next(objective.generator.parameters()).device
    with torch.no_grad():
        return batch.noise[:, 0].to(device), objective.matching.text(batch.numbers[:, 0].to(device))


def _loss_record(loss: Any, config: GanConfig) -> dict[str, Any]:
    """A loss as a record of the run."""
    source = loss.features or config.features
    settings = {key: value for key, value in asdict(replace(loss, features=None)).items() if key != "features"}
    name = "f2f" if isinstance(loss, FakeToFake) else "f2r"
    return {"name": name, **settings, "features": source if isinstance(source, str) else "given"}
