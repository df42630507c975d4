"""Text keys and values: kept while nothing changed, computed again as soon as anything did."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch

import weft
from weft.attach.processors.text_cache import TextCache, project
from weft.testing import assert_differs


@pytest.fixture
def attn() -> Any:
    torch.manual_seed(0)
    return tiny.unet().mid_block.attentions[0].transformer_blocks[0].attn2.requires_grad_(False)


@pytest.fixture
def text() -> torch.Tensor:
    return torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))


def served(cache: TextCache, attn: Any, text: torch.Tensor, fused: bool = False) -> str:
    """Ask for the projections, check them bit for bit, and return where they came from."""
    counts = {name: getattr(cache, name) for name in ("hits", "misses", "bypassed")}
    key, value = cache.project("layer", attn, text, fused)
    expected = project(attn, text, fused)
    assert torch.equal(key, expected[0]) and torch.equal(value, expected[1])
    (how,) = (name for name, count in counts.items() if getattr(cache, name) == count + 1)
    return how


def test_the_same_tensor_hits(attn: Any, text: torch.Tensor) -> None:
    cache = TextCache()
    assert [served(cache, attn, text) for _ in range(3)] == ["misses", "hits", "hits"]
    assert cache.project("layer", attn, text, False)[0] is cache.project("layer", attn, text, False)[0]
    assert served(cache, attn, text.clone()) == "misses", "equal values in another tensor are not looked at"


def test_two_tensors_may_alternate(attn: Any, text: torch.Tensor) -> None:
    cache, other = TextCache(), text + 1
    assert [served(cache, attn, x) for x in (text, other, text, other)] == ["misses", "misses", "hits", "hits"]


def test_layers_do_not_mix(attn: Any, text: torch.Tensor) -> None:
    cache = TextCache()
    cache.project("one", attn, text, False)
    cache.project("two", attn, text, False)
    assert cache.misses == 2 and cache.hits == 0


def test_a_tensor_changed_in_place_misses(attn: Any, text: torch.Tensor) -> None:
    cache = TextCache()
    served(cache, attn, text)
    text[0, 0] += 1
    assert served(cache, attn, text) == "misses"
    assert served(cache, attn, text) == "hits"


@pytest.mark.parametrize("projection", ["to_k", "to_v"])
def test_a_weight_changed_in_place_misses(attn: Any, text: torch.Tensor, projection: str) -> None:
    cache = TextCache()
    served(cache, attn, text)
    with torch.no_grad():
        getattr(attn, projection).weight.mul_(2)
    assert served(cache, attn, text) == "misses"


def test_weights_exchanged_miss(attn: Any, text: torch.Tensor) -> None:
    cache = TextCache()
    served(cache, attn, text)
    attn.to_k.weight = torch.nn.Parameter(attn.to_k.weight * 2, requires_grad=False)
    assert served(cache, attn, text) == "misses"
    attn.to_v.weight.data = attn.to_v.weight.data * 2
    assert served(cache, attn, text) == "misses"
    attn.to_k = torch.nn.Linear(32, attn.inner_dim, bias=False).requires_grad_(False)
    assert served(cache, attn, text) == "misses"


def test_a_tensor_freed_and_another_at_its_address_misses(attn: Any) -> None:
    cache, addresses = TextCache(), set()
    for round_ in range(200):
        text = torch.full((2, 5, 32), float(round_))
        again = text.data_ptr() in addresses
        assert served(cache, attn, text) == "misses"
        if again:
            return
        addresses.add(text.data_ptr())
        del text
        gc.collect()
    raise AssertionError("the allocator never gave an address out twice; the test did not test")


def test_a_freed_tensor_is_not_kept_alive(attn: Any, text: torch.Tensor) -> None:
    import weakref

    cache, copy = TextCache(), text.clone()
    served(cache, attn, copy)
    watch = weakref.ref(copy)
    del copy
    assert watch() is None
    served(cache, attn, text)
    assert len(cache._entries["layer"]) == 1, "the entry of the dead tensor went"


def test_the_norm_before_the_projection_counts(text: torch.Tensor) -> None:
    from diffusers.models.attention_processor import Attention

    for norm, weight in (("layer_norm", "norm_cross"), ("group_norm", "norm_cross")):
        attn = Attention(16, 32, heads=2, dim_head=8, cross_attention_norm=norm, cross_attention_norm_num_groups=4)
        attn.requires_grad_(False)
        cache = TextCache()
        assert [served(cache, attn, text) for _ in range(2)] == ["misses", "hits"]
        getattr(attn, weight).weight.add_(1)
        assert served(cache, attn, text) == "misses"


def test_fused_projections_are_distinguished(attn: Any, text: torch.Tensor) -> None:
    cache = TextCache()
    served(cache, attn, text)
    attn.fuse_projections()
    attn.requires_grad_(False)
    assert served(cache, attn, text, fused=True) == "misses"
    assert served(cache, attn, text, fused=True) == "hits"
    assert served(cache, attn, text) == "misses"


def test_autocast_is_distinguished(attn: Any, text: torch.Tensor) -> None:
    cache = TextCache()
    served(cache, attn, text)
    with torch.autocast("cpu", torch.bfloat16):
        assert served(cache, attn, text) == "misses"
        assert cache.project("layer", attn, text, False)[0].dtype == torch.bfloat16
    assert cache.project("layer", attn, text, False)[0].dtype == torch.float32


def test_a_device_without_autocast(attn: Any, text: torch.Tensor) -> None:
    key, value = TextCache().project("layer", attn.to("meta"), text.to("meta"), False)[:2]
    assert key.is_meta and value.is_meta


def test_what_cannot_be_known_again_is_not_kept(attn: Any, text: torch.Tensor) -> None:
    cache = TextCache()
    with torch.inference_mode():
        assert served(cache, attn, text.clone()) == "bypassed"
        served(cache, attn, text)
    assert not cache.project("layer", attn, text, False)[0].is_inference()

    attn.to_k.weight.requires_grad_(True)
    assert served(cache, attn, text) == "bypassed"
    with torch.no_grad():
        assert served(cache, attn, text) in ("misses", "hits")
    attn.requires_grad_(False)
    assert served(cache, attn, text.clone().requires_grad_(True)) == "bypassed"

    handle = attn.to_v.register_forward_hook(lambda module, args, out: out + 1)
    assert served(cache, attn, text) == "bypassed"
    handle.remove()
    attn.to_v.forward = lambda x: torch.zeros(2, 5, attn.inner_dim)  # as accelerate's hooks do
    assert served(cache, attn, text) == "bypassed"
    del attn.to_v.forward

    class Adapted(torch.nn.Linear):
        pass

    attn.to_k.__class__ = Adapted
    assert served(cache, attn, text) == "bypassed"


@pytest.mark.parametrize(
    "then",
    [{"prompt": "a blue ball"}, {"guidance_scale": 1.0}, {"guidance_scale": 9.0}, {"negative_prompt": "red"}],
    ids=["prompt", "guidance-off", "guidance-up", "negative"],
)
def test_a_changed_call_gives_the_stock_images(then: dict[str, Any], tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    stock = tiny.generate(pipe), tiny.generate(pipe, **then)
    with weft.attach(pipe):
        assert np.array_equal(tiny.generate(pipe), stock[0])
        assert np.array_equal(tiny.generate(pipe, **then), stock[1])
        assert np.array_equal(tiny.generate(pipe), stock[0])


def test_conditioning_changed_in_place_by_a_callback(tmp_path: Path) -> None:
    def blend(pipe: Any, index: int, timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
        kept["prompt_embeds"].mul_(0.5)
        return kept

    pipe = tiny.sd1(tmp_path)
    call = {"callback_on_step_end": blend, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    stock = tiny.generate(pipe, **call)
    assert_differs(stock, tiny.generate(pipe))
    with weft.attach(pipe):
        assert np.array_equal(tiny.generate(pipe, **call), stock)


def test_a_loop_that_reuses_its_conditioning_through_data_tricks(tmp_path: Path) -> None:
    """``.data`` escapes every version counter; a new generation starts from an empty cache all the same."""
    torch.manual_seed(0)
    model = tiny.unet()
    sample, text = torch.randn(1, 4, 16, 16), torch.randn(1, 5, 32)

    def run() -> torch.Tensor:
        with torch.no_grad():
            return model(model(sample, 900, text).sample, 100, text).sample

    attachment = weft.attach(model)
    run()
    for weight in model.parameters():
        weight.data.mul_(1.1)
    after = run()
    attachment.detach()
    assert torch.equal(after, run())


def test_offloaded_models_are_served(tmp_path: Path) -> None:
    """accelerate's hook gives the UNet a ``forward`` of its own; processors and hooks do not mind."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    pipe = tiny.sd1(tmp_path)
    stock = tiny.generate(pipe)
    add_hook_to_module(pipe.unet, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    assert "forward" in pipe.unet.__dict__
    with weft.attach(pipe, maps := weft.AttentionMaps("circle", steps=2)) as attachment:
        images = tiny.generate(pipe)
        assert attachment.text_cache.hits > 0
        assert maps.maps["circle"].amin() > 0
    assert np.abs(images - stock).max() < 1e-4
    assert np.array_equal(tiny.generate(pipe), stock)
