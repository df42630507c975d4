"""What an attachment gives back: the same objects, no hook, no attribute, also after trouble."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from diffusers.models.attention_processor import AttnProcessor2_0, FusedAttnProcessor2_0

import weft
from weft.attach import Control
from weft.attach.processors.cross import CrossSeam


def snapshot(pipe: Any) -> dict[str, Any]:
    """Everything that an attachment could have touched, by identity."""
    unet = pipe.unet
    return {
        "processors": {name: id(processor) for name, processor in unet.attn_processors.items()},
        "module dicts": {name: sorted(module.__dict__) for name, module in unet.named_modules()},
        "hooks": {
            name: (
                list(module._forward_pre_hooks),
                list(module._forward_hooks),
                list(module._forward_hooks_with_kwargs),
            )
            for name, module in unet.named_modules()
        },
        "state": {name: id(weight) for name, weight in unet.named_parameters()},
        "keys": list(unet.state_dict()),
        "pipe": sorted(pipe.__dict__),
    }


@pytest.fixture
def pipe(tmp_path: Path) -> Any:
    pipe = tiny.sd1(tmp_path)
    tiny.generate(pipe, num_inference_steps=1)  # the first call leaves attributes of its own
    return pipe


def test_detach_restores_everything(pipe: Any) -> None:
    before = snapshot(pipe)
    attachment = weft.attach(pipe, weft.AttentionMaps("circle"))
    assert all(isinstance(p, CrossSeam) for p in pipe.unet.attn_processors.values())
    assert list(pipe.unet.state_dict()) == before["keys"]
    assert "encode_prompt" in pipe.__dict__
    tiny.generate(pipe)
    attachment.detach()
    assert snapshot(pipe) == before
    attachment.detach()
    assert snapshot(pipe) == before


def test_an_exception_inside_with_restores_everything(pipe: Any) -> None:
    before = snapshot(pipe)
    with pytest.raises(ZeroDivisionError), weft.attach(pipe):
        raise ZeroDivisionError
    assert snapshot(pipe) == before


def test_an_exception_in_the_sampler_restores_everything(pipe: Any) -> None:
    before = snapshot(pipe)

    def stop(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), weft.attach(pipe, weft.AttentionMaps("circle")):
        tiny.generate(pipe, callback_on_step_end=stop)
    assert snapshot(pipe) == before


def test_a_failure_half_way_rolls_back(pipe: Any) -> None:
    class Picky(Control):
        detached_times = 0

        def attached(self, layers: Any) -> None:
            raise ValueError("not this model")

    class Easy(Control):
        detached_times = 0

        def detached(self) -> None:
            self.detached_times += 1

    before, easy = snapshot(pipe), Easy()
    with pytest.raises(ValueError, match="not this model"):
        weft.attach(pipe, easy, Picky())
    assert snapshot(pipe) == before
    assert easy.detached_times == 1
    weft.attach(pipe, easy).detach()  # and neither model nor control counts as taken


def test_fused_processors_come_back_as_the_same_objects(pipe: Any) -> None:
    first = dict(pipe.unet.attn_processors)
    pipe.fuse_qkv_projections(vae=False)
    fused = dict(pipe.unet.attn_processors)
    with weft.attach(pipe):
        tiny.generate(pipe)
    assert all(pipe.unet.attn_processors[name] is fused[name] for name in fused)
    pipe.unfuse_qkv_projections(vae=False)
    assert all(pipe.unet.attn_processors[name] is first[name] for name in first)


def test_attachments_on_other_models_nest_in_any_order(tmp_path: Path) -> None:
    one, two = tiny.sd1(tmp_path / "1"), tiny.sd1(tmp_path / "2")
    before = snapshot(one), snapshot(two)
    first, second = weft.attach(one), weft.attach(two)
    first.detach()
    assert snapshot(one) == before[0]
    assert isinstance(next(iter(two.unet.attn_processors.values())), CrossSeam)
    second.detach()
    assert snapshot(two) == before[1]


def test_a_wrapper_put_over_ours_is_left_alone_and_reported(pipe: Any) -> None:
    attachment = weft.attach(pipe)
    ours = pipe.encode_prompt
    pipe.encode_prompt = lambda *args, **kwargs: ours(*args, **kwargs)
    theirs = pipe.encode_prompt
    with pytest.warns(RuntimeWarning, match="last on, first off"):
        attachment.detach()
    assert pipe.encode_prompt is theirs
    tiny.generate(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        attachment.detach()


def test_a_wrapper_found_under_ours_comes_back(pipe: Any) -> None:
    theirs = pipe.encode_prompt
    pipe.encode_prompt = theirs
    with weft.attach(pipe):
        assert pipe.encode_prompt is not theirs
        tiny.generate(pipe)
    assert pipe.__dict__["encode_prompt"] is theirs


def test_a_deep_copy_of_an_attached_model_is_stock(pipe: Any) -> None:
    sample, text = torch.randn(1, 4, 16, 16), torch.randn(1, 5, 32)
    with weft.attach(pipe, weft.AttentionMaps([1])) as attachment:
        twin = copy.deepcopy(pipe.unet)
        assert {type(p) for p in twin.attn_processors.values()} == {AttnProcessor2_0}
        with torch.no_grad():
            twin(sample, 500, text)
        with pytest.raises(ValueError, match="no image was made"):
            _ = attachment.maps
        with torch.no_grad():
            stock = twin(sample, 500, text).sample
        with weft.attach(twin), torch.no_grad():
            assert torch.equal(twin(sample, 500, text).sample, stock)


def test_a_pickle_of_an_attached_model_is_stock(pipe: Any) -> None:
    pipe.fuse_qkv_projections(vae=False)
    with weft.attach(pipe):
        twin = pickle.loads(pickle.dumps(pipe.unet))
    assert {type(p) for p in twin.attn_processors.values()} == {FusedAttnProcessor2_0}
    with torch.no_grad():
        twin(torch.randn(1, 4, 16, 16), 500, torch.randn(1, 5, 32))


def test_saving_while_attached_writes_a_stock_pipeline(pipe: Any, tmp_path: Path) -> None:
    with weft.attach(pipe):
        pipe.save_pretrained(tmp_path / "saved")
    again = type(pipe).from_pretrained(tmp_path / "saved")
    assert {type(p) for p in again.unet.attn_processors.values()} == {AttnProcessor2_0}


def test_nothing_keeps_the_pipeline_alive(tmp_path: Path) -> None:
    pipe, maps = tiny.sd1(tmp_path), weft.AttentionMaps("circle")
    attachment = weft.attach(pipe, maps)
    tiny.generate(pipe)
    attachment.detach()
    watched = weakref.ref(pipe), weakref.ref(pipe.unet), weakref.ref(pipe.tokenizer)
    del pipe
    gc.collect()
    assert [watch() for watch in watched] == [None, None, None]
    assert maps.maps["circle"].shape == (1, 16, 16), "results outlive the model"
    assert attachment.maps["circle"].shape == (1, 16, 16)


def test_an_attached_pipeline_can_be_collected_too(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    weft.attach(pipe)
    tiny.generate(pipe)
    watched = weakref.ref(pipe.unet)
    del pipe
    gc.collect()
    assert watched() is None
