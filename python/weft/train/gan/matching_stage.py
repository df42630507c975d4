"""The first stage of a run: train the matching model, or take the one that is already there."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from weft._files import whole_file
from weft.train.core import fit
from weft.train.gan.batches import GanBatches
from weft.train.gan.config import Gammas, MatchingRecipe
from weft.train.gan.image_encoder import PretrainedImages, SmallImageEncoder
from weft.train.gan.matching import Matching, MatchingObjective
from weft.train.gan.pictures import Pictures
from weft.train.gan.pretrained import GivenEncoders
from weft.train.gan.text import Pretrained, Recurrent, Vocabulary

WEIGHTS, RECORD = "matching.safetensors", "matching.json"
OWN = "own"  # in place of the digest of a pretrained encoder
WHO = "fit_gan"


def matching_stage(
    pictures: Pictures,
    recipe: MatchingRecipe,
    accelerator: Accelerator,
    folder: Path | None,
    *,
    given: Path | None,
    text: Any,
    vision: Any,
    length: int,
    seed: int,
    resume: bool,
    log_every: int,
) -> Matching:
    """A frozen matching model on the accelerator's device.

    Args:
        folder: Of this stage; a model that lies there is taken as it is.
        given: Folder of a model that another run has trained, which is taken instead.
        text: None for our own encoder; a folder; or a tokenizer and a model of transformers.
        vision: None for our own encoder; a folder; or a network.
        length: Words of a caption that are read.

    Raises:
        ValueError: A folder that holds none, or one of other encoders.
    """
    encoders = GivenEncoders.of(text, vision)
    identity: dict[str, Any] = {
        "pictures": pictures.digest(),
        "recipe": asdict(recipe),
        "text": encoders.text_digest or OWN,
        "vision": encoders.vision_digest or OWN,
        "seed": seed,
        "length": length,
    }
    if given is not None:
        for name in (WEIGHTS, RECORD):
            if not (given / name).is_file():
                raise ValueError(
                    f"{WHO}: `matching_folder` must hold {WEIGHTS} and {RECORD}; there is no {name} in {given}"
                )
        return _loaded(given, ("text", "vision", "length"), identity, encoders).to(accelerator.device)
    if folder is not None and (folder / WEIGHTS).is_file():
        return _loaded(folder, tuple(identity), identity, encoders).to(accelerator.device)

    vocabulary = Vocabulary.of(pictures.captions() if text is None else (), length)
    matching = _built(recipe, vocabulary, encoders, length, seed)
    fit(
        "matching",
        MatchingObjective(matching),
        GanBatches(
            pictures,
            matching.text.numbers,  # type: ignore[arg-type]
            recipe.batch_size,
            noise_width=1,
            seed=seed,
            process=accelerator.process_index,
        ),
        recipe.loop(log_every),
        accelerator,
        folder,
        resume=resume,
        identity=identity,
    )
    accelerator.free_memory()  # the game has optimizers of its own
    if folder is not None and accelerator.is_main_process:
        # rows of the longest caption's length, if that is less: longer ones would round otherwise
        _save(
            matching,
            {**identity, "words": list(vocabulary.words), "reads": vocabulary.length if text is None else length},
            folder,
        )
    accelerator.wait_for_everyone()
    return matching.requires_grad_(False).eval()


def untrained(pictures: Pictures, recipe: MatchingRecipe, *, length: int, seed: int) -> Matching:
    """Our own encoders for the words of ``pictures``, as training them begins."""
    return _built(recipe, Vocabulary.of(pictures.captions(), length), GivenEncoders(), length, seed)


def _built(
    recipe: MatchingRecipe, vocabulary: Vocabulary, encoders: GivenEncoders, length: int, seed: int
) -> Matching:
    """With parameters that follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder: nn.Module
        if encoders.text is None:
            encoder = Recurrent(vocabulary, width=recipe.width, embedding=recipe.embedding, dropout=recipe.dropout)
        else:
            encoder = Pretrained(*encoders.text, width=recipe.width, length=length)
        if encoders.vision is None:
            images: nn.Module = SmallImageEncoder(width=recipe.width, channels=recipe.channels, size=recipe.size)
        else:
            images = PretrainedImages(encoders.vision, width=recipe.width, **encoders.vision_options)
        return Matching(encoder, images, recipe.gammas)


def _loaded(folder: Path, alike: tuple[str, ...], identity: dict[str, Any], encoders: GivenEncoders) -> Matching:
    """The frozen model that ``_save`` has written.

    Args:
        alike: What must be as ``identity`` says.
    """
    expected = json.loads(json.dumps(identity))  # as it was written
    try:
        record = json.loads((folder / RECORD).read_text())
        recipe = MatchingRecipe(**{**record["recipe"], "gammas": Gammas(**record["recipe"]["gammas"])})
        vocabulary, seed = Vocabulary(record["words"], record["reads"]), record["seed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{WHO}: {folder / RECORD} cannot be read: {error!r}; choose another folder") from error
    other = [name for name in alike if record.get(name) != expected[name]]
    if other:
        differences = "; ".join(f"`{name}` was {record.get(name)!r}, is {expected[name]!r}" for name in other)
        raise ValueError(f"{WHO}: the matching model in {folder} is another: {differences}; choose another folder")
    matching = _built(recipe, vocabulary, encoders, vocabulary.length, seed)
    try:
        missing, unexpected = matching.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{WHO}: {folder / WEIGHTS} cannot be read, or does not fit {RECORD}: {error}; choose another folder"
        ) from error
    if unexpected or [key for key in missing if not _is_frozen(key)]:
        raise ValueError(f"{WHO}: {folder / WEIGHTS} does not fit {RECORD} beside it; choose another folder")
    return matching.requires_grad_(False).eval()


def _save(matching: Matching, record: dict[str, Any], folder: Path) -> None:
    tensors = {key: value for key, value in matching.state_dict().items() if not _is_frozen(key)}
    with whole_file(folder / RECORD) as path:
        path.write_text(json.dumps(record, indent=2) + "\n")
    with whole_file(folder / WEIGHTS) as path:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)


def _is_frozen(key: str) -> bool:
    """Whether a tensor belongs to a pretrained model, which is wherever the user keeps it."""
    return key.startswith(("text.model.", "images.model."))
