"""What is relied on in diffusers: a change there fails here, and says what to look at."""

from __future__ import annotations

import inspect

import diffusers
import pytest
import tiny_pipelines as tiny
from diffusers import (
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.models.attention_processor import (
    AttnProcessor2_0,
    FusedJointAttnProcessor2_0,
    JointAttnProcessor2_0,
)
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor

from weft.attach.families import FAMILIES, family_of
from weft.attach.families.family import Family, attention_layers
from weft.attach.families.unet import RULES, UNET
from weft.attach.processors.cross import CrossSeam
from weft.attach.processors.joint import JointSeam
from weft.attach.processors.seam import Seam, bound

PROCESSORS = [
    *((host, CrossSeam) for host in RULES),
    *((host, JointSeam) for host in (JointAttnProcessor2_0, FusedJointAttnProcessor2_0, FluxAttnProcessor)),
]


@pytest.mark.parametrize(("host", "seam"), PROCESSORS, ids=lambda value: value.__name__)
def test_processors_take_the_same_arguments(host: type, seam: type[Seam]) -> None:
    def named(function: object) -> list[tuple[str, object, object]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    code_of = AttnProcessor2_0 if seam is CrossSeam else None
    assert named(host.__call__) == named(bound(seam, host, code_of).__call__)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.about)
def test_denoisers_take_what_their_family_says(family: Family) -> None:
    found = [getattr(diffusers, name, None) for name in family.model_names]
    for model in (model for model in found if model is not None):  # older versions of diffusers lack some
        parameters = inspect.signature(model.forward).parameters
        assert {family.latent, family.timestep, family.text} <= set(parameters)
        assert family.perturbs is None or family.perturbs in parameters


@pytest.mark.parametrize(
    "pipeline",
    [
        StableDiffusionPipeline,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionInpaintPipeline,
        StableDiffusionControlNetPipeline,
        StableDiffusionXLPipeline,
        StableDiffusionXLImg2ImgPipeline,
        StableDiffusionXLInpaintPipeline,
        StableDiffusion3Pipeline,
        StableDiffusion3Img2ImgPipeline,
        StableDiffusion3InpaintPipeline,
        StableDiffusion3ControlNetPipeline,
    ],
)
def test_pipelines_encode_their_prompt_through_the_public_method(pipeline: type) -> None:
    parameters = inspect.signature(pipeline.encode_prompt).parameters
    assert {"prompt", "num_images_per_prompt", "do_classifier_free_guidance", "prompt_embeds"} <= set(parameters)
    assert "self.encode_prompt(" in inspect.getsource(pipeline.__call__)


@pytest.mark.parametrize("config", [tiny.SD1, tiny.SD2, tiny.SDXL], ids=["sd1", "sd2", "sdxl"])
def test_every_layer_is_described_as_it_runs(config: dict) -> None:
    """Grids by name against the numbers of queries that really arrive, for an odd latent."""
    import torch

    model, seen = tiny.unet(config), {}
    family = family_of(model)
    assert family is UNET
    for name, attn in attention_layers(model):
        assert family.refuse_layer(model, name, attn) is None
        assert family.refuse_processor(attn, type(attn.processor)) is None
        attn.register_forward_pre_hook(lambda module, args, name=name: seen.__setitem__(name, args[0].shape[1]))
    extra = {}
    if config is tiny.SDXL:
        extra = {"added_cond_kwargs": {"text_embeds": torch.zeros(1, 32), "time_ids": torch.zeros(1, 6)}}
    with torch.no_grad():
        model(torch.zeros(1, 4, 21, 13), 1, torch.zeros(1, 3, config["cross_attention_dim"]), **extra)
    assert len(seen) == len(model.attn_processors)
    for name, attn in attention_layers(model):
        info = family.layer_info(model, name, attn)
        h, w = info.grid((21, 13))
        assert h * w == seen[name], name
        assert info.is_cross == name.endswith("attn2")
        assert info.heads * info.head_dim == attn.to_q.out_features
