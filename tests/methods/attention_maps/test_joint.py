"""AttentionMaps on Stable Diffusion 3: the share of a word in what pixels give to the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_joint as tiny
import torch
from eager_joint import eager

import weft
from weft import shapes

PROMPT = "a red circle and a blue square"
CLIP, T5 = 16, 12


@pytest.fixture
def pipe(tmp_path: Path) -> Any:
    return tiny.pipeline(tmp_path, **{name: tiny.SD35[name] for name in ("dual_attention_layers", "qk_norm")})


def test_images_stay_what_they_are(pipe: Any) -> None:
    stock = tiny.generate(pipe)
    with weft.attach(pipe, weft.AttentionMaps(["circle"])):
        assert np.abs(tiny.generate(pipe) - stock).max() < 1e-4
    assert np.array_equal(tiny.generate(pipe), stock)


def test_a_map_is_the_share_of_a_word(pipe: Any) -> None:
    """Mean over heads of its tokens in both texts, by the mean over heads of all text; rows with the prompt alone."""
    with eager(pipe.transformer) as layers:
        tiny.generate(pipe, num_inference_steps=1)
        name = "transformer_blocks.1.attn"
        towards_text = layers[name].probabilities[1:, :, :64, 64:].mean(1)  # [1, Nq, Nk] of the conditional row
    share = towards_text / towards_text.sum(-1, keepdim=True)
    with weft.attach(pipe, maps := weft.AttentionMaps(["circle", "red circle", 3], layers="s.1.attn", size=8)):
        tiny.generate(pipe, num_inference_steps=1)
        found = maps.maps
    circle = share[..., [3, CLIP + 2]].mean(-1).view(1, 8, 8)
    torch.testing.assert_close(found["circle"], circle, atol=1e-6, rtol=1e-4)
    phrase = share[..., [2, 3, CLIP + 1, CLIP + 2]].mean(-1).view(1, 8, 8)
    torch.testing.assert_close(found["red circle"], phrase, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found[3], share[..., 3].view(1, 8, 8), atol=1e-6, rtol=1e-4)


def test_maps_of_all_tokens_sum_to_one(pipe: Any) -> None:
    with weft.attach(pipe, maps := weft.AttentionMaps(list(range(CLIP + T5)), size=8)):
        tiny.generate(pipe, PROMPT, num_images_per_prompt=2)
    together = torch.stack(list(maps.maps.values())).sum(0)
    torch.testing.assert_close(together, torch.ones(2, 8, 8), atol=1e-5, rtol=0)
    with weft.attach(pipe, weft.AttentionMaps([CLIP + T5])), pytest.raises(ValueError, match="positions 0 to 27"):
        tiny.generate(pipe)


def test_passes_with_layers_left_out_are_not_read(pipe: Any) -> None:
    guided = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    stock = tiny.generate(pipe, num_inference_steps=4, **guided)
    rows: list[int] = []
    with weft.attach(pipe, maps := weft.AttentionMaps("circle", reduce="layers")):
        pipe.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
        )
        assert np.abs(tiny.generate(pipe, num_inference_steps=4, **guided) - stock).max() < 1e-4
    assert rows == [2, 2, 1, 2, 1, 2, 1], "the pipeline makes passes of the conditional half alone"
    assert maps.maps.steps == (0, 1, 2, 3)
    with weft.attach(pipe, plain := weft.AttentionMaps("circle", reduce="layers")):
        tiny.generate(pipe, num_inference_steps=4)
    # up to the second step the latent is that of a run without such guidance
    torch.testing.assert_close(maps.maps["circle"][:2], plain.maps["circle"][:2], atol=1e-6, rtol=1e-4)


def test_the_second_attention_is_not_chosen(pipe: Any) -> None:
    with pytest.raises(ValueError, match=r"'attn2' fits no cross-attention layer; there are transformer_blocks\.0\."):
        weft.attach(pipe, weft.AttentionMaps("circle", layers="attn2"))
    with weft.attach(pipe, maps := weft.AttentionMaps("circle", layers=8)):
        tiny.generate(pipe)
    assert maps.maps["circle"].shape == (1, 16, 16)


def test_words_light_up_where_the_shipped_model_draws_them() -> None:
    """Each object's map is larger on its own pixels than on the other's."""
    pipe = shapes.pipeline("sd3")
    with weft.attach(pipe, maps := weft.AttentionMaps(["red circle", "blue square"], size=64)):
        image = pipe(
            PROMPT,
            num_inference_steps=12,
            guidance_scale=4.0,
            max_sequence_length=1,
            generator=torch.Generator().manual_seed(1),
        ).images[0]
    pixels = torch.from_numpy(np.array(image)).float()
    red = (pixels[..., 0] > 150) & (pixels[..., 2] < 110)
    blue = (pixels[..., 2] > 150) & (pixels[..., 0] < 110)
    assert red.sum() > 50 and blue.sum() > 50
    for phrase, own, other in (("red circle", red, blue), ("blue square", blue, red)):
        heat = maps.maps[phrase][0]
        assert heat[own].mean() > 1.5 * heat[other].mean()
