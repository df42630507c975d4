"""Caches of diffusers that skip blocks: maps are means over what ran."""

from __future__ import annotations

from diffusers import FirstBlockCacheConfig
from tiny_models import TINY

import weft


def test_maps_say_in_how_many_steps_each_layer_was_read() -> None:
    model = TINY["flux"]
    pipe = model.build()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    with weft.attach(pipe, weft.AttentionMaps("circle")) as attachment:
        model.generate(pipe, num_inference_steps=4)
        maps = attachment.maps
    assert maps.reads["transformer_blocks.0.attn"] == 4, "the first block decides whether the others run"
    assert 1 <= min(maps.reads.values()) < 4
    assert f"read in {min(maps.reads.values())} to 4 steps" in repr(maps)


def test_without_a_cache_every_layer_is_read_in_every_step() -> None:
    model = TINY["flux"]
    pipe = model.build()
    with weft.attach(pipe, weft.AttentionMaps("circle", steps=[0, 1])) as attachment:
        model.generate(pipe, num_inference_steps=3)
        assert attachment.maps.reads == dict.fromkeys(attachment.changed, 2)
