"""``fit_residual`` on Flux: learns, resumes with the same bits, and its file draws the same in stock diffusers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_models import TINY, picture
from torch import Tensor

import weft
from weft.attach import resolve
from weft.attach.families import flux
from weft.attach.projections import GatedProjection, GatedProjections
from weft.train.core.config import LoopConfig
from weft.train.diffusion.noising import Flow
from weft.train.distribution import DistributionConfig
from weft.train.distribution.kinds import FakeToReal
from weft.train.residual import ResidualConfig, fit_residual
from weft.train.residual.objective import ResidualObjective
from weft.train.soft_tokens import SoftTokensConfig, fit_soft_tokens

FLUX = TINY["flux"]
CONFIG = ResidualConfig(
    loop=LoopConfig(steps=4, learning_rate=1e-2, batch_size=2, checkpoint_every=2),
    rank_share=0.25,
    precision="no",
    resolution=32,
)


@pytest.fixture(autouse=True)
def short_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen tokens of T5 in place of 512, as the pictures here are drawn with."""
    monkeypatch.setattr(flux.FluxFamily, "text_length", FLUX.options["max_sequence_length"])


def fitted(pipe: Any, changes: Any = None, **run: Any) -> weft.Residual:
    images = [picture(40, 36), Image.new("RGB", (36, 36), (200, 60, 30))]
    return fit_residual(pipe, images, "ball", "sks", config=replace(CONFIG, **(changes or {})), **run)


def equal(one: weft.Residual, other: weft.Residual) -> bool:
    pairs = [(one.up, other.up), (one.down, other.down)]
    return all(torch.equal(a[name], b[name]) for a, b in pairs for name in a)


def test_learns_and_leaves_the_model_as_it_was() -> None:
    pipe = FLUX.build()
    state = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
    types = [type(module) for module in pipe.transformer.modules()]
    residual = fitted(pipe)
    assert all(torch.equal(value, state[name]) for name, value in pipe.transformer.state_dict().items())
    assert [type(module) for module in pipe.transformer.modules()] == types
    assert sorted(residual.up) == [
        "single_transformer_blocks.0.proj_out",
        "single_transformer_blocks.1.proj_out",
        "transformer_blocks.0.attn.to_out.0",
        "transformer_blocks.1.attn.to_out.0",
    ]
    width, mlp = 32, 128
    assert residual.widths == dict.fromkeys(residual.up, width)
    assert {residual.in_widths[name] - width for name in residual.up if name.startswith("single")} == {mlp}
    assert min(up.abs().max() for up in residual.up.values()) > 1e-4, "every layer has learnt"


def test_the_loss_of_one_batch_falls() -> None:
    """By the gradients of the objective, in which nothing is drawn."""
    pipe = FLUX.build()
    host = resolve(pipe)
    pipe.transformer.requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    latents, noise = torch.randn(2, 2, 4, 4, 6, generator=generator)
    batch = (latents, noise, torch.tensor([200, 700]), torch.zeros(2, 6))
    text = host.encode_captions(["a photo of a sks ball"])
    with GatedProjections(pipe.transformer) as projections:
        objective = ResidualObjective(pipe.transformer, projections, Flow(), text, rank_share=0.25)
        optimizer = torch.optim.Adam([*objective.down, *objective.up], lr=1e-2)
        losses = []
        for _ in range(40):
            loss = objective(*batch)["loss"]
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_a_pass_is_that_of_the_pipeline() -> None:
    """Packing, positions, text and time: the family calls the transformer as the stock pipeline does."""
    pipe = FLUX.build()
    calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def watch(module: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        calls.append((kwargs["hidden_states"], kwargs["timestep"], out[0]))

    hook = pipe.transformer.register_forward_hook(watch, with_kwargs=True)
    FLUX.generate(pipe, guidance_scale=1.0)
    hook.remove()
    host = resolve(pipe)
    text = host.encode_captions(["a red circle and a blue square"])
    size = {"height": FLUX.options["height"], "width": FLUX.options["width"]}
    for packed, timestep, expected in calls:
        latents, velocity = (
            pipe._unpack_latents(tokens, **size, vae_scale_factor=pipe.vae_scale_factor)
            for tokens in (packed, expected)
        )
        with torch.no_grad():
            found = host.family.run(pipe.transformer, latents, timestep * 1000, text)
        torch.testing.assert_close(found, velocity, atol=1e-5, rtol=1e-5)


def test_resuming_gives_the_bits_of_a_straight_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = FLUX.build()
    straight = fitted(pipe)
    forward, calls = ResidualObjective.forward, []

    def forward_until(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(*args)

    monkeypatch.setattr(ResidualObjective, "forward", forward_until)
    with pytest.raises(KeyboardInterrupt):
        fitted(pipe, folder=tmp_path / "run")
    monkeypatch.setattr(ResidualObjective, "forward", forward)
    assert not any(isinstance(module, GatedProjection) for module in pipe.transformer.modules()), "it is given back"
    resumed = fitted(pipe, folder=tmp_path / "run", resume=True)
    assert equal(straight, resumed)
    steps = [json.loads(row)["step"] for row in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 4


@pytest.mark.parametrize("layout", ["artefact", "diffusers", "kohya"])
def test_what_was_learnt_draws_the_same_in_stock_diffusers(layout: str, tmp_path: Path) -> None:
    pipe, path = FLUX.build(), tmp_path / "ball.safetensors"
    residual = fitted(pipe, {"loop": replace(CONFIG.loop, learning_rate=0.3), "init": "random"})
    if layout == "artefact":
        residual.save(path)
        assert equal(weft.Residual.load(path), residual)
    else:
        residual.save_lora(path, layout)
    again = weft.Residual.from_lora(path, pipe, "ball", "sks")
    assert equal(again, residual) and again.part == "transformer"
    stock = FLUX.generate(pipe)
    with weft.attach(pipe, weft.LocalizedResiduals(again, "none")):
        ours = FLUX.generate(pipe)
    pipe.load_lora_weights(str(path))
    peft = FLUX.generate(pipe)
    pipe.unload_lora_weights()
    assert (ours - stock).abs().max() > 0.02
    torch.testing.assert_close(peft, ours, atol=1e-4, rtol=1e-4)
    assert torch.equal(FLUX.generate(pipe), stock)


def test_what_cannot_be_trained_is_refused_first() -> None:
    pipe = FLUX.build()
    losses = DistributionConfig(losses=(FakeToReal(),))
    with pytest.raises(ValueError, match=r"losses that compare pictures .* none of FluxTransformer2DModel"):
        fitted(pipe, {"distribution": losses})
    with pytest.raises(ValueError, match="takes the 4 channels of a latent; this one takes 12, as for inpainting"):
        fitted(TINY["flux-fill"].build())
    with pytest.raises(ValueError, match=r"nothing is trained on models like ChromaTransformer2DModel"):
        fitted(TINY["chroma"].build())
    pairs = [(picture(), f"a red ball {number}") for number in range(3)]
    with pytest.raises(ValueError, match="the text of FluxTransformer2DModel takes no further tokens"):
        fit_soft_tokens(pipe, pairs, config=SoftTokensConfig(resolution=32))
