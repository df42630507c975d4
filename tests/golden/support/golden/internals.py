"""Everything of weft that the record needs and that has no public name: the one file to change when modules move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from weft.train import GanConfig


def branch_beside(unet: Any) -> nn.Module:
    """A branch for ``weft.TaskBranch`` that begins as a copy of ``unet``."""
    from weft.methods.powerpaint.network import beside

    return beside(unet)


def smallest_gan(baseline: Any) -> GanConfig:
    """One step of a GAN as narrow as can be, after one of its matching model."""
    from weft.train.gan.config import MATCHING, RECIPES

    narrow = {"generator_width": 2, "discriminator_width": 2, "noise": 4, "hidden": 8, "mask_width": 4}
    recipe = replace(RECIPES[baseline, "cpu"], **narrow)
    matching = replace(MATCHING["cpu"], width=8, embedding=6, channels=4, steps=1, batch_size=4)
    return GanConfig(baseline=baseline, recipe=recipe, matching=matching, steps=1, batch_size=4, precision="no")


def generator_modules(generator: Any) -> dict[str, nn.Module]:
    """What a ``weft.train.Generator`` is made of."""
    return {"network": generator.network, "text": generator.text}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as the training loop reads it."""
    from weft.train.core.checkpoint import load_checkpoint

    state = load_checkpoint(path)
    assert state is not None, path
    return state


def read_encoded(pipe: Any, pairs: Sequence[Any], folder: Path) -> dict[str, Tensor]:
    """All rows of encoded pairs, read as training reads them; what is missing or of other pairs is encoded again."""
    from weft.attach import resolve
    from weft.train.encoded.pairs import open_encoded
    from weft.train.pictures.pairs import read_pairs

    found = read_pairs(pairs, who="golden")
    latents, text = open_encoded(resolve(pipe), found, folder, 64, accelerator=None, base_name="golden", who="golden")
    assert text is not None
    stored = latents.part(range(len(found)))
    states = text.part([(place, number) for place, pair in enumerate(found) for number in range(len(pair.texts))])
    return {"mean": stored.mean, "std": stored.std, "states": states.states}
