"""What looks at generated latents: the denoiser itself, decoded pictures, a vision model in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import tiny_sd3
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from weft.attach import TextStates, resolve
from weft.testing import assert_differs
from weft.train.diffusion.noising import noising_of
from weft.train.distribution.features import SHARE, DecodedPictures, DenoiserFeatures
from weft.train.distribution.vision import vision_features

SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SMALL, "image_size": 12, "patch_size": 4}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


def latents(count: int = 3, size: int = 16, channels: int = 4) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_states_of_a_unet(tmp_path: Path) -> None:
    """By a plain pass with a hook: the fourth powers' mean of both signs, at a share of the schedule, no noise."""
    pipe, kept = tiny.sd1(tmp_path), []
    empty = resolve(pipe).encode_captions([""])

    def denoise(noisy: Tensor, timestep: Tensor, text: TextStates) -> Tensor:
        return pipe.unet(noisy, timestep, text.states).sample

    found = DenoiserFeatures(resolve(pipe), denoise, noising_of(resolve(pipe)), empty)(latents())
    hook = pipe.unet.up_blocks[0].register_forward_hook(lambda module, args, out: kept.append(out))
    time = round(1000 * SHARE)
    with torch.no_grad():
        pipe.unet(pipe.scheduler.alphas_cumprod[time] ** 0.5 * latents(), time, empty.states.expand(3, -1, -1))
    hook.remove()
    mean = torch.cat([kept[0].clamp(min=0), (-kept[0]).clamp(min=0)], 1).pow(4).mean((2, 3)).pow(1 / 4)
    torch.testing.assert_close(found, mean.clamp(min=1e-3), atol=1e-5, rtol=1e-5)
    assert not any(module._forward_hooks for module in pipe.unet.modules())


def test_states_of_a_joint_attention(tmp_path: Path) -> None:
    pipe = tiny_sd3.pipeline(tmp_path)
    run = pipe.transformer

    def denoise(noisy: Tensor, timestep: Tensor, text: TextStates) -> Tensor:
        options = {"encoder_hidden_states": text.states, "pooled_projections": text.pooled}
        return run(noisy, timestep=timestep.expand(len(noisy)), **options).sample

    source = DenoiserFeatures(
        resolve(pipe), denoise, noising_of(resolve(pipe)), resolve(pipe).encode_captions([""], tiny_sd3.TEXT_LENGTH)
    )
    found = source(latents())
    assert found.shape == (3, 2 * run.inner_dim)
    assert_differs(found[0], found[1])


def test_features_have_finite_slopes_where_nothing_is(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    layer = pipe.unet.up_blocks[0] = torch.nn.Identity()
    source = DenoiserFeatures(
        resolve(pipe),
        lambda noisy, timestep, text: layer(noisy),
        noising_of(resolve(pipe)),
        TextStates(torch.zeros(1, 1, 1), None),
    )
    x = torch.zeros(2, 3, 4, 4).requires_grad_()
    (slope,) = torch.autograd.grad(source(x).sum(), x)
    assert slope.isfinite().all()


def test_decoded_pictures_are_those_of_the_pipeline(tmp_path: Path) -> None:
    pipe, x = tiny.sd1(tmp_path), latents()
    with torch.no_grad():
        found = DecodedPictures(pipe.vae, lambda pictures: pictures.flatten(1))(x)
        expected = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
    assert torch.equal(found, expected.flatten(1))


def test_an_autoencoder_that_overflows_decodes_in_full_precision(tmp_path: Path) -> None:
    vae, seen = tiny.sd1(tmp_path).vae.half(), []
    vae.register_to_config(force_upcast=True)
    DecodedPictures(vae, lambda pictures: seen.append(pictures) or pictures.flatten(1))(latents())  # type: ignore[func-returns-value]
    assert vae.dtype == torch.float16, "it is left as it is"
    assert seen[0].isfinite().all()


def saved(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return folder


def clip() -> CLIPModel:
    text = CLIPTextConfig(**SMALL, vocab_size=9, max_position_embeddings=4)
    config = CLIPConfig(text_config=text.to_dict(), vision_config={**VISION, "projection_dim": 6}, projection_dim=6)
    return CLIPModel(config)


MODELS: dict[str, Any] = {
    "CLIP": (clip, 6),
    "half of CLIP": (lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION, projection_dim=6)), 6),
    "DINO": (lambda: Dinov2Model(Dinov2Config(**{k: v for k, v in VISION.items() if k != "intermediate_size"})), 8),
    "ViT": (lambda: ViTModel(ViTConfig(**VISION), add_pooling_layer=False), 8),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_of_transformers(name: str, tmp_path: Path) -> None:
    """Seen as its processor has it; frozen, and pictures have gradients."""
    make, width = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    source = vision_features(saved(tmp_path / "vision", model))
    pictures = (torch.rand(2, 3, 12, 12) * 2 - 1).requires_grad_()
    found = source(pictures)
    assert found.shape == (2, width) and source.name == str(tmp_path / "vision")
    # weighted, since a plain sum over a layer norm is a constant: its gradient is rounding and nothing else
    (slope,) = torch.autograd.grad((found * torch.randn(found.shape)).sum(), pictures)
    assert slope.abs().max() > 1e-5
    pixels = ((pictures + 1) / 2 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    if name == "CLIP":
        expected = model.visual_projection(model.vision_model(pixels).pooler_output)
    else:
        output = model(pixel_values=pixels)
        expected = {
            "half of CLIP": lambda: output.image_embeds,
            "DINO": lambda: output.pooler_output,
            "ViT": lambda: output.last_hidden_state.mean(1),
        }[name]()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    larger = F.interpolate(pictures.detach(), (48, 48), mode="nearest")
    assert source(larger).shape == (2, width)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold config.json; there is none in .*nowhere"):
        vision_features(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(FileNotFoundError, match=r"must hold preprocessor_config.json"):
        vision_features(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"needs a model of pictures; .* holds one of kind bert"):
        vision_features(tmp_path)
