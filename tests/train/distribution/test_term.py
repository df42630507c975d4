"""The distribution losses through a denoiser: against plain passes of the stock network, in both fits."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_pipelines as tiny
import tiny_sd3
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

import weft
from weft.attach import TextStates, resolve
from weft.testing import assert_differs
from weft.testing.soft_tokens_eager import longer_text
from weft.train.core.config import LoopConfig
from weft.train.core.stopping import Diverged, Interrupted
from weft.train.diffusion.latents import frozen, training_scheduler
from weft.train.diffusion.noising import noising_of
from weft.train.distribution.config import DistributionConfig
from weft.train.distribution.kinds import FakeToReal, losses_named
from weft.train.distribution.losses import distribution_loss
from weft.train.distribution.term import DistributionTerm
from weft.train.distribution.views import Views
from weft.train.residual import ResidualConfig, fit_residual
from weft.train.soft_tokens.bank import TrainedTokens
from weft.train.soft_tokens.config import SoftTokensConfig
from weft.train.soft_tokens.fit import fit_soft_tokens
from weft.train.soft_tokens.frozen_denoiser import FrozenDenoiser

BOTH = losses_named("f2f,f2r")
LOOP = LoopConfig(steps=4, learning_rate=1e-2, batch_size=3, checkpoint_every=2, log_every=1)
SOFT = SoftTokensConfig(
    loop=LOOP, objective="agsm", negatives=1, precision="no", distribution=DistributionConfig(BOTH)
)
RESIDUAL = ResidualConfig(
    loop=LOOP,
    rank_share=0.25,
    precision="no",
    distribution=DistributionConfig(BOTH),
    paraphrases=("the {class_word} {identifier}", "{identifier}"),
)
CAPTIONS = (("a red circle", "circle"), ("a blue square", "the square"), ("a green ball", "a ball"))


def pairs() -> list[tuple[Image.Image, list[str]]]:
    return [(picture, list(captions)) for picture, captions in zip(pictures(), CAPTIONS, strict=True)]


def pictures(count: int = 3) -> list[Image.Image]:
    return [Image.new("RGB", (40, 36), (60 * number, 200, 30)) for number in range(count)]


def pooled(latents: Tensor) -> Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(latents, 4).flatten(1)


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(row) for row in (folder / "log.jsonl").read_text().splitlines()]


# numbers of the captions of second views
SECOND = torch.tensor([[7], [8], [9]])

# --- the term --------------------------------------------------------------------------------------------------------


def eager(pipe: Any, tokens: Tensor, given: dict[str, Any], config: DistributionConfig) -> Tensor:
    """The loss by diffusers' own arithmetic: x0 by the scheduler's schedule, a chain by its DDIM step."""
    scheduler = training_scheduler(pipe)
    views: Views = given["views"]
    generated = []
    for number in range(views.views):
        noise, states = views.noise_of(number), views.text_of(number, given["text"]).states
        times = [int(views.drawn)] if config.through == "x0" else [999, 666, 333]
        noisy = scheduler.add_noise(given["latents"], noise, views.drawn) if config.through == "x0" else noise
        for time, after in zip(times, [*times[1:], None], strict=True):
            kept = scheduler.alphas_cumprod[time]
            with longer_text(pipe.unet, tokens):
                predicted = pipe.unet(noisy, time, states).sample
            clean = (noisy - (1 - kept) ** 0.5 * predicted) / kept**0.5
            if after is not None:
                later = scheduler.alphas_cumprod[after]
                noisy = later**0.5 * clean + (1 - later) ** 0.5 * predicted
        generated.append(clean)
    second = generated[1] if len(generated) > 1 else None
    features = [None if view is None else pooled(view) for view in (generated[0], second, given["latents"])]
    found = distribution_loss(config.losses, *features, images=given["alike"][:, 0])  # type: ignore[arg-type]
    return config.weight * found["loss"]


@pytest.mark.parametrize("rows_at_once", [None, 2])
@pytest.mark.parametrize("through", ["x0", "chain"])
@pytest.mark.parametrize("losses", ["f2f", "f2r", "f2f,f2r", "two_noises"])
def test_the_term_is_that_of_plain_passes(losses: str, through: Any, rows_at_once: int | None, tmp_path: Path) -> None:
    """Loss and gradient of tokens, whole and in chunks."""
    pipe, generator = tiny.sd1(tmp_path), torch.Generator().manual_seed(0)
    chosen = losses_named("f2f", pairing="two_noises") if losses == "two_noises" else losses_named(losses)
    config = DistributionConfig(chosen, 0.7, through=through, chain_steps=3)
    text, other = (resolve(pipe).encode_captions(list(captions)) for captions in zip(*CAPTIONS, strict=True))
    states = other.states if config.pairing == "two_captions" else other.states[:0]
    noise = torch.randn(2 if losses == "two_noises" else 1, 3, 4, 16, 16, generator=generator)
    given = {
        "latents": torch.randn(3, 4, 16, 16, generator=generator),
        "text": text,
        "alike": torch.tensor([[0, 0], [1, 1], [2, 2]]),
        "views": Views(noise, torch.tensor([600]), states, states.new_empty(len(states), 0), SECOND[:, : len(states)]),
    }
    soft = weft.SoftTokens(torch.randn(2, 32, generator=generator))
    tokens = soft.tokens.clone().requires_grad_()
    with frozen(pipe.unet):
        expected = eager(pipe, tokens, given, config)
        (gradient,) = torch.autograd.grad(expected, tokens)
        control = TrainedTokens(soft.blocks)
        denoiser = FrozenDenoiser(resolve(pipe), control, noising_of(resolve(pipe)))
        term = DistributionTerm(
            config,
            noising_of(resolve(pipe)),
            pooled,
            pipe.vae,
            accelerator=Accelerator(cpu=True),
            rows_at_once=rows_at_once,
        )
        shown = soft.tokens.clone().requires_grad_()
        with weft.attach(pipe, control):
            found, (mine,) = term(
                lambda latents, time, said: denoiser.generate(shown, latents, time, said), [shown], *given.values()
            )
    torch.testing.assert_close(found["distribution"], expected, atol=1e-5, rtol=1e-4)
    assert gradient.abs().max() > 1e-7
    torch.testing.assert_close(mine, gradient, atol=1e-2 * float(gradient.abs().max()), rtol=1e-2)
    assert found.keys() == {"distribution", *(loss.name for loss in chosen)}


def test_sources_are_left_alone(tmp_path: Path) -> None:
    """A user's module sees decoded pictures and gets no gradient, though its parameters ask for one."""
    pipe, seen = tiny.sd1(tmp_path), []
    encoder = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 6))
    encoder.register_forward_hook(lambda module, args, out: seen.append((args[0].shape, args[0].requires_grad)))
    config = DistributionConfig(losses_named("f2f,f2r", features=encoder))
    fit_residual(pipe, pictures(), "ball", config=replace(RESIDUAL, loop=replace(LOOP, steps=1), distribution=config))
    assert [shape[1:] for shape, _ in seen] == [(3, 32, 32)] * 3
    assert [wants for _, wants in seen] == [False, True, True], "real ones first, without gradient"
    parts = (*encoder.parameters(), *pipe.vae.parameters(), *pipe.unet.parameters())
    assert all(parameter.grad is None for parameter in parts)


def test_a_batch_with_nothing_to_compare_adds_nothing(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    term = DistributionTerm(
        DistributionConfig(BOTH), noising_of(resolve(pipe)), pooled, pipe.vae, accelerator=Accelerator(cpu=True)
    )
    start = torch.zeros(1, 2, 4, 16, 16), torch.tensor([600]), torch.zeros(0, 7, 32), torch.zeros(0, 0)
    for alike, others in (
        ([[5, 0], [5, 1]], [[], []]),
        ([[5, 0], [6, 0]], [[], []]),
        ([[5, 0], [6, 1]], [[2], [2]]),
        ([[5, 0], [6, 1]], [[1], [2]]),
    ):
        views = Views(*start, torch.tensor(others, dtype=torch.int64))
        given = (torch.ones(2, 4, 16, 16), TextStates(torch.zeros(2, 7, 32), None), torch.tensor(alike), views)
        found, slopes = term(lambda *args: pytest.fail("nothing to draw"), [torch.ones(2)], *given)
        assert found == {"distribution": 0, "f2f": 0, "f2r": 0} and (slopes[0] == 0).all()


# --- the fits --------------------------------------------------------------------------------------------------------


def soft_tokens(pipe: Any, changes: Any = None, **run: Any) -> weft.SoftTokens:
    return fit_soft_tokens(pipe, run.pop("pairs", pairs()), config=replace(SOFT, **(changes or {})), **run)


def residual(pipe: Any, changes: Any = None, **run: Any) -> weft.Residual:
    return fit_residual(pipe, pictures(), "ball", config=replace(RESIDUAL, **(changes or {})), **run)


FITS: dict[str, Any] = {"soft tokens": soft_tokens, "residual": residual}
each_fit = pytest.mark.parametrize("name", FITS)


def bits(result: Any) -> list[Tensor]:
    if isinstance(result, weft.SoftTokens):
        return [result.tokens]
    return [*result.down.values(), *result.up.values()]


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(bits(one), bits(other), strict=True))


@each_fit
def test_weight_0_trains_the_same_bits(name: str, tmp_path: Path) -> None:
    """And so do no losses: the objective draws what it drew."""
    pipe = tiny.sd1(tmp_path)
    without = FITS[name](pipe, {"distribution": DistributionConfig()})
    assert equal(FITS[name](pipe, {"distribution": DistributionConfig(BOTH, weight=0.0)}), without)
    assert_differs(*(torch.cat([value.flatten() for value in bits(one)]) for one in (FITS[name](pipe), without)))


@each_fit
@pytest.mark.parametrize("pairing", ["two_captions", "two_noises"])
@pytest.mark.parametrize("through", ["x0", "chain"])
def test_resuming_ends_with_the_same_bits(name: str, pairing: Any, through: Any, tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path / "model")
    losses = losses_named("f2f,f2r", pairing=pairing)
    given = {"distribution": DistributionConfig(losses, through=through, chain_steps=2)}
    straight = FITS[name](pipe, given)
    FITS[name](pipe, {**given, "loop": replace(LOOP, steps=2)}, folder=tmp_path / "run")
    assert equal(FITS[name](pipe, given, folder=tmp_path / "run", resume=True), straight)
    rows = logged(tmp_path / "run")
    assert all({"loss", "distribution", "f2f", "f2r"} <= row.keys() and row["f2f"] > 0 for row in rows)
    with pytest.raises(ValueError, match="`distribution` was"):
        FITS[name](pipe, {"distribution": DistributionConfig()}, folder=tmp_path / "run", resume=True)


@each_fit
def test_a_loss_that_is_not_finite_keeps_the_last_good_state(name: str, tmp_path: Path) -> None:
    """A source that breaks after a while: the checkpoint of before is there, and goes on without it."""
    pipe, calls = tiny.sd1(tmp_path / "model"), []

    def breaks(pixels: Tensor) -> Tensor:
        calls.append(1)
        return pooled(pixels) * (torch.nan if len(calls) > 3 * 3 else 1)

    given = {"distribution": DistributionConfig(losses_named("f2f,f2r", features=breaks))}
    with pytest.raises(Diverged, match=r"the loss is nan at step 4; .*keeps step 2"):
        FITS[name](pipe, given, folder=tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2 and all(value.isfinite().all() for value in state["parameters"].values())


@each_fit
def test_sigterm_and_resume(name: str, tmp_path: Path) -> None:
    pipe, calls = tiny.sd1(tmp_path / "model"), []

    def stops(pixels: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return pooled(pixels)

    given = {"distribution": DistributionConfig(losses_named("f2f,f2r", features=stops))}
    with pytest.raises(Interrupted, match="stopped at step 2 of 4"):
        FITS[name](pipe, given, folder=tmp_path / "run")
    resumed = FITS[name](pipe, given, folder=tmp_path / "run", resume=True)
    assert equal(resumed, FITS[name](pipe, given)), "as a run that nothing stopped"


@each_fit
def test_the_model_is_left_as_it_was(name: str, tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    state = {key: value.clone() for key, value in pipe.unet.state_dict().items()}
    stock, hooks = tiny.generate(pipe, "sd1"), sum(len(module._forward_hooks) for module in pipe.unet.modules())
    FITS[name](pipe)
    assert all(torch.equal(value, state[key]) for key, value in pipe.unet.state_dict().items())
    assert (tiny.generate(pipe, "sd1") == stock).all()
    assert sum(len(module._forward_hooks) for module in pipe.unet.modules()) == hooks
    assert all(parameter.grad is None for parameter in (*pipe.unet.parameters(), *pipe.vae.parameters()))


@each_fit
@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_other_families(name: str, kind: str, tmp_path: Path) -> None:
    FITS[name](tiny.build(kind, tmp_path / "model"), {"gradient_checkpointing": True}, folder=tmp_path / "run")
    assert all(row["f2f"] > 0 and row["f2r"] > 0 for row in logged(tmp_path / "run"))


@pytest.mark.parametrize("through", ["x0", "chain"])
def test_stable_diffusion_3(through: Any, tmp_path: Path) -> None:
    pipe = tiny_sd3.pipeline(tmp_path / "model")
    given = {"distribution": DistributionConfig(BOTH, through=through, chain_steps=2), "text_length": 2}
    soft_tokens(pipe, given | {"rows_at_once": 2}, folder=tmp_path / "run")
    assert all(row["f2f"] > 0 and row["f2r"] > 0 for row in logged(tmp_path / "run"))


@each_fit
def test_half_precision(name: str, tmp_path: Path) -> None:
    found = FITS[name](tiny.sd1(tmp_path / "model"), {"precision": "bf16"}, folder=tmp_path / "run")
    assert all(value.isfinite().all() for value in bits(found))
    assert all(row["f2f"] > 0 and row["f2r"] > 0 for row in logged(tmp_path / "run"))


def test_a_scaler_leaves_derivatives_as_they_are(tmp_path: Path) -> None:
    """With fp16 those of features are scaled while they are taken, and not afterwards."""
    pipe, found = tiny.sd1(tmp_path), []
    generator = torch.Generator().manual_seed(0)
    text = TextStates(torch.randn(3, 7, 32, generator=generator), None)
    noise, empty = torch.randn(2, 3, 4, 16, 16, generator=generator), text.states[:0]
    views = Views(noise, torch.tensor([600]), empty, empty, SECOND[:, :0])
    latents, leaf = torch.randn(3, 4, 16, 16, generator=generator), torch.ones(4, 1, 1).requires_grad_()
    for scaler in (None, SimpleNamespace(get_scale=lambda: 2.0**12)):
        accelerator: Any = SimpleNamespace(scaler=scaler, num_processes=1, process_index=0)
        term = DistributionTerm(
            DistributionConfig(BOTH), noising_of(resolve(pipe)), pooled, pipe.vae, accelerator=accelerator
        )
        given = (latents, text, torch.arange(3)[:, None], views)
        found.append(term(lambda noisy, time, said: leaf * noisy, [leaf], *given)[1][0])
    assert found[0].abs().max() > 1e-6
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("objective", ["agsm", "contrast"])
def test_held_out_pairs_are_measured_without_the_losses(objective: Any, tmp_path: Path) -> None:
    more = [
        (Image.new("RGB", (40, 36), (9, 9, 40 * i)), ["a ball", "the ball", f"a {word} ball"])
        for i, word in enumerate(("red", "blue", "green"))
    ]
    given = {"held_out": 0.5, "measure_every": 1, "objective": objective}
    soft_tokens(tiny.sd1(tmp_path / "model"), given, pairs=[*pairs(), *more], folder=tmp_path / "run")
    assert logged(tmp_path / "run")


# --- messages --------------------------------------------------------------------------------------------------------


@each_fit
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DistributionConfig(BOTH, through="x1"), "`distribution.through` must be 'x0' or 'chain'; got 'x1'"),
        (DistributionConfig(BOTH, chain_steps=0), "`distribution.chain_steps` must be a whole number, at least 1"),
        (DistributionConfig(BOTH, times=(0.9, 0.1)), "two shares of the schedule, the lower first"),
        (DistributionConfig(BOTH, weight=-1.0), "`distribution.weight` must not be negative or infinite; got -1.0"),
        (DistributionConfig((FakeToReal(), FakeToReal())), "`distribution.losses` must have each kind once"),
    ],
)
def test_what_is_refused(name: str, config: DistributionConfig, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"fit_{name.replace(' ', '_')}: .*{message}"):
        FITS[name](tiny.sd1(tmp_path), {"distribution": config})


def test_what_else_is_refused(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with pytest.raises(ValueError, match="needs pictures with several; none of 3 has"):
        soft_tokens(pipe, pairs=[(picture, captions[0]) for picture, captions in pairs()])
    with pytest.raises(ValueError, match="needs `paraphrases` of the caption"):
        residual(pipe, {"paraphrases": ()})
    with pytest.raises(ValueError, match=r"`distribution.losses` need batches of 2 at least"):
        residual(pipe, {"loop": replace(LOOP, batch_size=1)})
    for losses, found in ((("f2f",), "str"), ("f2f", "'f2f'"), (FakeToReal(), "FakeToReal")):
        given: Any = DistributionConfig(losses)  # type: ignore[arg-type]
        with pytest.raises(
            TypeError, match=f"fit_residual: `distribution.losses` must hold FakeToFake and FakeToReal; got {found}"
        ):
            residual(pipe, {"distribution": given})
    # two noises need no second caption
    two_noises = DistributionConfig(losses_named("f2f", pairing="two_noises"))
    soft_tokens(
        pipe,
        {"distribution": two_noises, "loop": replace(LOOP, steps=1)},
        pairs=[(picture, captions[0]) for picture, captions in pairs()],
    )
