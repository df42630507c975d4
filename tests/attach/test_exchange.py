"""Processors and projections that are exchanged while a model is attached."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    IPAdapterAttnProcessor2_0,
)
from peft import LoraConfig

import weft
from weft.attach.processors.cross import CrossSeam
from weft.testing import assert_differs

CLIP_WIDTH = 24


def kinds_of(processors: Any) -> set[type]:
    return {CrossSeam if isinstance(processor, CrossSeam) else type(processor) for processor in processors.values()}


def load_ip_adapter(pipe: Any) -> None:
    """Give ``pipe`` an IP-Adapter with random weights, as ``load_ip_adapter`` does with those of a file."""
    generator = torch.Generator().manual_seed(3)
    width = pipe.unet.config.cross_attention_dim

    def weights(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    projection = {
        "proj.weight": weights(4 * width, CLIP_WIDTH),
        "proj.bias": weights(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    adapter = {}
    # diffusers numbers the layers in the order of attn_processors, cross-attention by odd numbers
    order = [name for name in pipe.unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(order):
        inner = pipe.unet.get_submodule(name.removesuffix(".processor")).inner_dim
        adapter[f"{2 * number + 1}.to_k_ip.weight"] = weights(inner, width)
        adapter[f"{2 * number + 1}.to_v_ip.weight"] = weights(inner, width)
    pipe.unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": adapter}], low_cpu_mem_usage=False)


def with_image(pipe: Any, **changes: Any) -> Any:
    embeds = torch.linspace(-1, 1, 2 * CLIP_WIDTH).view(2, 1, CLIP_WIDTH)
    return tiny.generate(pipe, ip_adapter_image_embeds=[embeds], **changes)


@pytest.fixture
def pipe(tmp_path: Path) -> Any:
    return tiny.sd1(tmp_path)


def test_fusing_while_attached(pipe: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stock = tiny.sd1(tmp_path)
    attachment = weft.attach(pipe, maps := weft.AttentionMaps("circle"))
    tiny.generate(pipe)
    plain_map = maps.maps["circle"]
    pipe.fuse_qkv_projections(vae=False)
    stock.fuse_qkv_projections(vae=False)
    assert kinds_of(pipe.unet.attn_processors) == {FusedAttnProcessor2_0}
    tiny.generate(pipe)
    assert kinds_of(pipe.unet.attn_processors) == {CrossSeam}, "taken over again at the next generation"
    assert torch.allclose(maps.maps["circle"], plain_map, atol=1e-5)
    attachment.remove(maps)
    assert np.array_equal(tiny.generate(pipe), tiny.generate(stock))
    attachment.detach()
    assert kinds_of(pipe.unet.attn_processors) == {FusedAttnProcessor2_0}
    assert kinds_of(pipe.unet.original_attn_processors) == {AttnProcessor2_0}
    pipe.unfuse_qkv_projections(vae=False)
    assert kinds_of(pipe.unet.attn_processors) == {AttnProcessor2_0}


def test_fusing_and_detaching_without_a_generation_in_between(pipe: Any) -> None:
    first = dict(pipe.unet.attn_processors)
    with weft.attach(pipe):
        pipe.fuse_qkv_projections(vae=False)
    assert kinds_of(pipe.unet.attn_processors) == {FusedAttnProcessor2_0}
    pipe.unfuse_qkv_projections(vae=False)
    assert all(pipe.unet.attn_processors[name] is first[name] for name in first)


def test_unfusing_while_attached(pipe: Any, tmp_path: Path) -> None:
    stock = tiny.generate(tiny.sd1(tmp_path))
    first = dict(pipe.unet.attn_processors)
    with weft.attach(pipe):
        pipe.fuse_qkv_projections(vae=False)
        tiny.generate(pipe)
        pipe.unfuse_qkv_projections(vae=False)
        # the layers still say `fused_projections`, but stock reads to_q, to_k and to_v again
        assert np.array_equal(tiny.generate(pipe), stock)
    assert all(pipe.unet.attn_processors[name] is first[name] for name in first)


def test_processors_set_by_the_user_are_taken_over(pipe: Any) -> None:
    with weft.attach(pipe, weft.AttentionMaps("circle")) as attachment:
        mine = AttnProcessor()
        pipe.unet.set_attn_processor(mine)
        tiny.generate(pipe)
        assert kinds_of(pipe.unet.attn_processors) == {CrossSeam}
        assert attachment.skipped == []
    assert all(processor is mine for processor in pipe.unet.attn_processors.values())


def test_default_processors_can_be_asked_for(pipe: Any) -> None:
    with weft.attach(pipe):
        pipe.unet.set_default_attn_processor()  # refuses processors whose class it does not know
        tiny.generate(pipe)


def test_unknown_processors_are_left_and_listed(pipe: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Custom(AttnProcessor2_0):
        """Same arithmetic, but how should weft know."""

    stock = tiny.generate(pipe)
    with weft.attach(pipe, maps := weft.AttentionMaps("circle")) as attachment:
        chosen = "mid_block.attentions.0.transformer_blocks.0.attn2"
        module = pipe.unet.get_submodule(chosen)
        module.set_processor(custom := Custom())
        with caplog.at_level(logging.WARNING, logger="weft"):
            images = tiny.generate(pipe)
            tiny.generate(pipe)
        assert sum("processors were exchanged" in record.message for record in caplog.records) == 1
        assert module.processor is custom
        assert chosen not in attachment.changed
        ((name, reason),) = attachment.skipped
        assert name == chosen and "keeps its own processor Custom" in reason
        assert reason in attachment.describe()
        assert maps.maps["circle"].shape == (1, 16, 16)
    assert np.abs(images - stock).max() < 1e-4
    assert module.processor is custom


def test_attaching_to_a_model_with_an_ip_adapter(pipe: Any) -> None:
    load_ip_adapter(pipe)
    stock = with_image(pipe)
    before = dict(pipe.unet.attn_processors)
    state = list(pipe.unet.state_dict())
    with weft.attach(pipe) as attachment:
        assert np.array_equal(with_image(pipe), stock)
        assert len(attachment.skipped) == len(attachment.changed) > 0
        assert all("IPAdapterAttnProcessor2_0" in reason for _, reason in attachment.skipped)
        assert list(pipe.unet.state_dict()) == state
    assert all(pipe.unet.attn_processors[name] is before[name] for name in before)


def test_loading_and_unloading_an_ip_adapter_while_attached(pipe: Any, tmp_path: Path) -> None:
    twin = tiny.sd1(tmp_path)
    stock = tiny.generate(twin)
    load_ip_adapter(twin)
    stock_adapted = with_image(twin)
    with weft.attach(pipe) as attachment:
        tiny.generate(pipe)
        load_ip_adapter(pipe)  # builds new processors by the class of those it finds
        assert np.array_equal(with_image(pipe), stock_adapted)
        assert len(attachment.skipped) == len(attachment.changed) > 0
        pipe.unload_ip_adapter()
        assert np.array_equal(tiny.generate(pipe), stock)
        assert attachment.skipped == []
        load_ip_adapter(pipe)
    assert kinds_of(pipe.unet.attn_processors) == {AttnProcessor2_0, IPAdapterAttnProcessor2_0}


def test_maps_need_a_layer_that_can_be_read(pipe: Any) -> None:
    load_ip_adapter(pipe)
    with pytest.raises(ValueError, match="no cross-attention that weft could take over"):
        weft.attach(pipe, weft.AttentionMaps("circle"))
    assert all(not isinstance(p, CrossSeam) for p in pipe.unet.attn_processors.values())


def lora(**changes: Any) -> LoraConfig:
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    return LoraConfig(**{"r": 2, "target_modules": targets, "init_lora_weights": False, **changes})


def test_attaching_to_a_model_with_lora(pipe: Any) -> None:
    plain = tiny.generate(pipe)
    torch.manual_seed(5)
    pipe.unet.add_adapter(lora())
    stock = tiny.generate(pipe)
    assert_differs(stock, plain)
    keys = list(pipe.unet.state_dict())
    with weft.attach(pipe) as attachment:
        assert np.array_equal(tiny.generate(pipe), stock)
        assert attachment.text_cache.hits == 0 and attachment.text_cache.bypassed > 0
        assert list(pipe.unet.state_dict()) == keys
    with weft.attach(pipe, weft.AttentionMaps("circle")):
        assert np.abs(tiny.generate(pipe) - stock).max() < 1e-4


def test_loading_lora_between_calls(pipe: Any, tmp_path: Path) -> None:
    twin = tiny.sd1(tmp_path)
    plain = tiny.generate(twin)
    torch.manual_seed(5)
    twin.unet.add_adapter(lora())
    adapted = tiny.generate(twin)
    with weft.attach(pipe):
        assert np.array_equal(tiny.generate(pipe), plain)
        torch.manual_seed(5)
        pipe.unet.add_adapter(lora())
        assert np.array_equal(tiny.generate(pipe), adapted)
        pipe.unet.disable_adapters()
        assert np.array_equal(tiny.generate(pipe), plain)
        pipe.unload_lora_weights()
        assert np.array_equal(tiny.generate(pipe), plain)
    assert kinds_of(pipe.unet.attn_processors) == {AttnProcessor2_0}


def test_perturbed_guidance_keeps_its_processors_and_maps_read_the_prompt(tmp_path: Path) -> None:
    """PAG exchanges processors during a call and stacks perturbed rows behind the conditional ones."""
    from diffusers import StableDiffusionPAGPipeline

    pipe = tiny.sd1(tmp_path, StableDiffusionPAGPipeline, pag_applied_layers=["mid"])
    call = {"pag_scale": 3.0, "num_inference_steps": 1}
    stock = tiny.generate(pipe, **call)
    before = dict(pipe.unet.attn_processors)
    with weft.attach(pipe) as attachment:
        assert np.array_equal(tiny.generate(pipe, **call), stock)
        assert any("PAG" in reason for _, reason in attachment.skipped)
    assert all(pipe.unet.attn_processors[name] is before[name] for name in before)
    for guidance_scale in (5.0, 1.0):
        with weft.attach(pipe, maps := weft.AttentionMaps("circle", layers="down_blocks.0")):
            tiny.generate(pipe, **call, guidance_scale=guidance_scale)
            perturbed = maps.maps["circle"]
            tiny.generate(pipe, guidance_scale=guidance_scale, pag_scale=0.0, num_inference_steps=1)
            torch.testing.assert_close(perturbed, maps.maps["circle"], atol=1e-5, rtol=1e-4)


def test_layers_that_go_after_attaching_are_named_with_the_call_that_brings_them_back(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe, weft.AttentionMaps("circle")):
        tiny.generate(pipe)
        pipe.enable_attention_slicing()
        with pytest.raises(
            ValueError, match=r"SlicedAttnProcessor \(\d+ layers\), call `pipe\.disable_attention_slicing"
        ):
            tiny.generate(pipe)
        pipe.disable_attention_slicing()
        tiny.generate(pipe)
