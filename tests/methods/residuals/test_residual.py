"""``weft.Residual``: its file, the LoRA files it becomes and comes from, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import weft
from weft.attach import base_model
from weft.attach.projections import GatedProjections


def residual_for(pipe: Any, seed: int = 1) -> weft.Residual:
    """Random factors for every projection of ``pipe``; ranks differ from layer to layer."""
    base, generator = base_model(pipe), torch.Generator().manual_seed(seed)
    down = {p.name: torch.randn(p.width // 8, p.width, generator=generator) / 4 for p in base.projections}
    up = {p.name: torch.randn(p.width, p.width // 8, generator=generator) for p in base.projections}
    is_convolution = base.projections[0].is_convolution
    return weft.Residual(down, up, "V*", "ball", "tiny", base.text_width, is_convolution)


@contextmanager
def applied(pipe: Any, residual: weft.Residual, strength: float = 1.0) -> Iterator[None]:
    with GatedProjections(pipe.unet) as projections:
        for name, terms in residual.terms(strength).items():
            projections[name].terms = terms
        yield


def predict(pipe: Any, width: int = 32) -> torch.Tensor:
    """One pass of the denoiser, sensitive and quick."""
    generator = torch.Generator().manual_seed(3)
    sample, text = torch.randn(1, 4, 16, 16, generator=generator), torch.randn(1, 7, width, generator=generator)
    extra = {}
    if width == 64:
        extra["added_cond_kwargs"] = {"text_embeds": torch.ones(1, 32), "time_ids": torch.ones(1, 6)}
    with torch.no_grad():
        return pipe.unet(sample, 500, text, **extra).sample


WIDTH = {"sd1": 32, "sd2": 32, "sdxl": 64}


@pytest.fixture(params=list(WIDTH))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def same(one: weft.Residual, other: weft.Residual) -> bool:
    about = [(r.identifier, r.class_word, r.base_name, r.text_width, r.is_convolution, r.ranks) for r in (one, other)]
    factors = [(*(r.down[name] for name in one.down), *(r.up[name] for name in one.down)) for r in (one, other)]
    return about[0] == about[1] and all(map(torch.equal, *factors))


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    residual = residual_for(tiny.sd1(tmp_path))
    residual.save(tmp_path / "ball.safetensors")
    loaded = weft.Residual.load(tmp_path / "ball.safetensors")
    assert same(residual, loaded)
    assert loaded.phrase == "V* ball"
    with safe_open(tmp_path / "ball.safetensors", "pt") as opened:
        record = json.loads(opened.metadata()["weft"])
        names = set(opened.keys())
    assert record["version"] == weft.__version__
    assert (record["kind"], record["base_name"], record["ranks"]) == ("residual", "tiny", residual.ranks)
    # the layout of peft and diffusers, a convolution's as a convolution
    assert {f"unet.{name}.lora_{side}.weight" for name in residual.down for side in "AB"} == names


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    residual = residual_for(tiny.sd1(tmp_path))
    residual.save(tmp_path / "full.safetensors")
    residual.save(tmp_path / "half.safetensors", torch.float16)
    half = weft.Residual.load(tmp_path / "half.safetensors")
    assert all(torch.equal(half.down[name], down.half().float()) for name, down in residual.down.items())
    size = sum(t.numel() for t in (*residual.down.values(), *residual.up.values()))
    difference = (tmp_path / "full.safetensors").stat().st_size - (tmp_path / "half.safetensors").stat().st_size
    assert difference == pytest.approx(2 * size, abs=64)  # the header is padded


@pytest.mark.parametrize("layout", ["artefact", "diffusers", "kohya"])
def test_stock_diffusers_draws_the_same_from_the_file(kind: str, layout: str, tmp_path: Path) -> None:
    """With localisation off, peft's output equals ours."""
    pipe = tiny.build(kind, tmp_path)
    residual, path, width = residual_for(pipe), tmp_path / "ball.safetensors", WIDTH[kind]
    stock = predict(pipe, width)
    with applied(pipe, residual):
        ours = predict(pipe, width)
    if layout == "artefact":
        residual.save(path)
    else:
        residual.save_lora(path, layout)
    pipe.load_lora_weights(str(path), adapter_name="ball")
    peft = predict(pipe, width)
    pipe.unload_lora_weights()
    assert (ours - stock).abs().max() > 0.1
    torch.testing.assert_close(peft, ours, atol=1e-4, rtol=1e-4)
    assert torch.equal(predict(pipe, width), stock)


def test_strength_scales_the_terms(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    residual = residual_for(pipe)
    with applied(pipe, residual, 0.5):
        half = predict(pipe)
    doubled = weft.Residual(
        residual.down, {name: up / 2 for name, up in residual.up.items()}, "V*", "ball", "tiny", 32, True
    )
    with applied(pipe, doubled):
        torch.testing.assert_close(half, predict(pipe))


@pytest.mark.parametrize("layout", ["artefact", "diffusers", "kohya"])
def test_lora_files_come_back(kind: str, layout: str, tmp_path: Path) -> None:
    pipe = tiny.build(kind, tmp_path)
    residual, path = residual_for(pipe), tmp_path / "ball.safetensors"
    if layout == "artefact":
        residual.save(path)
    else:
        residual.save_lora(path, layout)
    again = weft.Residual.from_lora(path, pipe, "ball")
    assert again.base_name == "unnamed"
    assert all(torch.equal(again.down[name], down) for name, down in residual.down.items())
    assert all(torch.equal(again.up[name], up) for name, up in residual.up.items())


def test_a_lora_trained_by_peft_is_read_with_its_strength(tmp_path: Path) -> None:
    from peft import LoraConfig

    pipe = tiny.sd1(tmp_path)
    config = LoraConfig(
        r=4,
        lora_alpha=2,
        rank_pattern={"mid_block.attentions.0.proj_out": 2},
        alpha_pattern={"mid_block.attentions.0.proj_out": 6},
        target_modules=r".*attentions\.\d+\.proj_out",
        init_lora_weights=False,
    )
    pipe.unet.add_adapter(config)
    peft = predict(pipe)
    pipe.unet.save_lora_adapter(tmp_path / "saved")
    pipe.unet.delete_adapters("default")
    pipe.unload_lora_weights()
    path = next((tmp_path / "saved").glob("*.safetensors"))
    residual = weft.Residual.from_lora(path, pipe, "ball", "sks")
    assert (residual.phrase, residual.ranks["mid_block.attentions.0.proj_out"]) == ("sks ball", 2)
    with applied(pipe, residual):
        torch.testing.assert_close(predict(pipe), peft, atol=1e-5, rtol=1e-5)


def test_alpha_of_a_kohya_file_is_a_strength(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    residual = residual_for(pipe)
    residual.save_lora(tmp_path / "ball.safetensors")
    tensors = load_file(tmp_path / "ball.safetensors")
    halved = {name: tensor / 2 if name.endswith(".alpha") else tensor for name, tensor in tensors.items()}
    save_file(halved, tmp_path / "half.safetensors")
    again = weft.Residual.from_lora(tmp_path / "half.safetensors", pipe, "ball")
    assert all(torch.equal(again.up[name], up / 2) for name, up in residual.up.items())


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_file_cut_short_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "ball.safetensors"
    residual_for(tiny.sd1(tmp_path)).save(path)
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="no whole safetensors file: it is cut short, damaged or of another"):
            weft.Residual.load(path)


def test_foreign_files_are_reported(tmp_path: Path) -> None:
    path, pipe = tmp_path / "other.safetensors", tiny.sd1(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*missing.safetensors"):
        weft.Residual.load(tmp_path / "missing.safetensors")
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"not a residual of weft; .*use weft.Residual.from_lora"):
        weft.Residual.load(path)
    with pytest.raises(ValueError, match="is no LoRA of a UNet; it holds weight"):
        weft.Residual.from_lora(path, pipe, "ball")
    save_file({"weight": torch.ones(2)}, path, {"weft": json.dumps({"kind": "soft tokens", "format": 1})})
    with pytest.raises(ValueError, match="holds weft's 'soft tokens', not a residual"):
        weft.Residual.load(path)
    save_file({"weight": torch.ones(2)}, path, {"weft": json.dumps({"kind": "residual", "format": 2})})
    with pytest.raises(ValueError, match="has format 2; this version of weft reads up to 1; update weft"):
        weft.Residual.load(path)
    save_file({"weight": torch.ones(2)}, path, {"weft": "{"})
    with pytest.raises(ValueError, match="damaged: its record cannot be read"):
        weft.Residual.load(path)


def test_a_lora_of_other_layers_is_reported(tmp_path: Path) -> None:
    from peft import LoraConfig

    pipe = tiny.sd1(tmp_path)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    pipe.unet.save_lora_adapter(tmp_path / "saved")
    path = next((tmp_path / "saved").glob("*.safetensors"))
    with pytest.raises(ValueError, match=r"`proj_out` of transformer blocks alone; .* changes also .*to_q"):
        weft.Residual.from_lora(path, tiny.sd1(tmp_path), "ball")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"cross_attention_dim": 64}, "trained with text of width 32; this model's is 64"),
        ({"block_out_channels": (16, 64, 32)}, r"down_blocks.1.attentions.0.proj_out has width 32 there and 64 here"),
        ({"use_linear_projection": True}, r"is a 1x1 convolution there and a linear layer here"),
        ({"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")}, "this model does not have"),
    ],
    ids=["text", "width", "form", "layers"],
)
def test_another_base_model_is_refused(other: dict[str, Any], message: str, tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    residual = residual_for(pipe)
    assert residual.check_fits(pipe).text_width == 32
    with pytest.raises(ValueError, match=rf"'V\* ball' was trained on 'tiny' and does not fit 'unnamed': .*{message}"):
        residual.check_fits(tiny.unet(**other))


def test_factors_must_belong_together() -> None:
    def residual(down: torch.Tensor, up: torch.Tensor) -> weft.Residual:
        return weft.Residual({"a": down}, {"a": up}, "V*", "ball", "tiny", 32, True)

    with pytest.raises(ValueError, match=r"`down` \[r, m\] and `up` \[m, r\]; got \[2, 8\] and \[2, 8\] for a"):
        residual(torch.ones(2, 8), torch.ones(2, 8))  # the paper's letters, taken for peft's
    with pytest.raises(ValueError, match="must be finite; those of a are not"):
        residual(torch.full((2, 8), torch.nan), torch.ones(8, 2))
    with pytest.raises(ValueError, match="factors of the same layers, at least of one"):
        weft.Residual({}, {}, "V*", "ball", "tiny", 32, True)


def test_writing_where_there_is_no_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere is not there; make it first"):
        residual_for(tiny.sd1(tmp_path)).save(tmp_path / "nowhere" / "ball.safetensors")


def test_an_unknown_layout_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be 'kohya' or 'diffusers'; got 'a1111'"):
        residual_for(tiny.sd1(tmp_path)).save_lora(tmp_path / "ball.safetensors", "a1111")


def test_a_rank_stabilised_lora_is_refused(tmp_path: Path) -> None:
    """Its strength is alpha / sqrt(rank), which its tensors do not record."""
    from peft import LoraConfig

    pipe = tiny.sd1(tmp_path)
    pipe.unet.add_adapter(
        LoraConfig(r=4, lora_alpha=2, use_rslora=True, target_modules=r".*attentions\.\d+\.proj_out")
    )
    pipe.unet.save_lora_adapter(tmp_path / "saved")
    path = next((tmp_path / "saved").glob("*.safetensors"))
    with pytest.raises(ValueError, match="rank-stabilised LoRA"):
        weft.Residual.from_lora(path, pipe, "ball", "sks")
