"""One clear error for everything that cannot be attached to or with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from diffusers import DiTPipeline, DiTTransformer2DModel, StableDiffusionPipeline

import weft
from weft.attach.versions import check_diffusers


def dit() -> DiTPipeline:
    from diffusers import DDIMScheduler

    transformer = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=4, num_layers=1, sample_size=8)
    return DiTPipeline(transformer, tiny.vae(), DDIMScheduler())


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (None, TypeError, "needs a diffusers pipeline or its denoiser; got NoneType"),
        ("a/model", TypeError, r"got str 'a/model'; load it first: StableDiffusionPipeline\.from_pretrained"),
        (StableDiffusionPipeline, TypeError, "StableDiffusionPipeline; hand in an instance"),
        (
            dit,
            ValueError,
            "supports UNet2DConditionModel .*; SD3Transformer2DModel .*; got DiTTransformer2DModel, whose",
        ),
        (tiny.vae, ValueError, "supports UNet2DConditionModel .*; got AutoencoderKL"),
        (lambda: torch.nn.Linear(1, 1), ValueError, "supports UNet2DConditionModel .*; got Linear"),
    ],
    ids=["nothing", "name", "class", "transformer-pipeline", "vae", "linear"],
)
def test_what_cannot_be_attached_to(target: Any, error: type[Exception], message: str) -> None:
    if callable(target) and not isinstance(target, type):
        target = target()
    with pytest.raises(error, match=message):
        weft.attach(target)


def test_a_pipeline_without_a_denoiser(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    pipe.unet = None
    with pytest.raises(
        ValueError, match=r"needs a pipeline with one of UNet.*; SD3.*; StableDiffusionPipeline has sch"
    ):
        weft.attach(pipe)


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ("circle", "must be a weft control such as AttentionMaps; got str"),
        (weft.AttentionMaps, r"must be an instance; got the class, write AttentionMaps\(\.\.\.\)"),
        (None, "got NoneType"),
    ],
)
def test_what_cannot_be_a_control(control: Any, message: str) -> None:
    model = tiny.unet()
    with pytest.raises(TypeError, match=message):
        weft.attach(model, control)
    with weft.attach(model) as attachment, pytest.raises(TypeError, match=message):
        attachment.add(control)


def test_attaching_twice(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe):
        for target in (pipe, pipe.unet):
            with pytest.raises(ValueError, match=r"is attached already; use `\.add\(control\)`"):
                weft.attach(target)
    weft.attach(pipe).detach()


def test_one_control_in_two_places() -> None:
    one, two, maps = tiny.unet(), tiny.unet(), weft.AttentionMaps([1])
    with pytest.raises(ValueError, match="given twice"):
        weft.attach(one, maps, maps)
    with weft.attach(one, maps) as attachment:
        with pytest.raises(ValueError, match="in use already; make another"):
            weft.attach(two, maps)
        with pytest.raises(ValueError, match="in use already"):
            attachment.add(maps)
    weft.attach(two, maps).detach()


def test_an_unknown_backend() -> None:
    with pytest.raises(ValueError, match=r"backend: must be one of auto.*got 'fast'"):
        weft.attach(tiny.unet(), backend="fast")


def test_a_backend_that_refuses_says_so() -> None:
    model = tiny.unet().double()
    with (
        weft.attach(model, weft.AttentionMaps([1]), backend="cpu"),
        pytest.raises(weft.BackendUnavailableError, match="cpu"),
        torch.no_grad(),
    ):
        model(torch.randn(1, 4, 16, 16).double(), 500, torch.randn(1, 5, 32).double())


def test_an_old_or_untested_diffusers(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    import diffusers

    monkeypatch.setattr(diffusers, "__version__", "0.20.2")
    with pytest.raises(ImportError, match=r"needs diffusers >= 0\.35; found 0\.20\.2"):
        check_diffusers()
    monkeypatch.setattr(diffusers, "__version__", "9.1.0.dev0")
    for _ in range(2):
        check_diffusers()
    assert [record.message for record in caplog.records] == [
        "attach: checked on diffusers up to 0.42; found 9.1.0.dev0"
    ]


def test_the_package_is_the_function() -> None:
    import weft.attach.families.unet

    assert callable(weft.attach)
    assert weft.attach.Attachment is weft.Attachment
    with pytest.raises(TypeError, match="got list"):
        weft.attach([])
