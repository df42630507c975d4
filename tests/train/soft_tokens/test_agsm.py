"""The AGSM objective: against plain autograd over stock passes, whole and in chunks, and in ``fit_soft_tokens``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from accelerate import Accelerator
from captioned import CAPTIONS, batch, pairs
from torch import Tensor

import weft
from weft.attach import resolve
from weft.testing import assert_differs
from weft.testing.soft_tokens_eager import longer_text
from weft.train.core.config import LoopConfig
from weft.train.diffusion.latents import frozen, training_scheduler
from weft.train.diffusion.noising import noising_of
from weft.train.soft_tokens.agsm import AgsmObjective, guidance, in_batch
from weft.train.soft_tokens.bank import TrainedTokens
from weft.train.soft_tokens.config import SoftTokensConfig
from weft.train.soft_tokens.fit import fit_soft_tokens
from weft.train.soft_tokens.frozen_denoiser import FrozenDenoiser

CONFIG = SoftTokensConfig(
    loop=LoopConfig(steps=4, learning_rate=1e-2, batch_size=3, checkpoint_every=2),
    objective="agsm",
    negatives=2,
    time_buckets=10,
    precision="no",
)


def fitted(pipe: Any, changes: Any = None, **run: Any) -> weft.SoftTokens:
    return fit_soft_tokens(pipe, pairs(), config=replace(CONFIG, **(changes or {})), **run)


def soft_tokens(seed: int, width: int) -> weft.SoftTokens:
    generator = torch.Generator().manual_seed(seed)
    return weft.SoftTokens(torch.randn(2, width, generator=generator), torch.randn(10, width, generator=generator))


def all_apart(pipe: Any) -> dict[str, Tensor]:
    """A batch in which no picture and no caption is another's."""
    return {**batch(pipe), "alike": torch.arange(2 * len(CAPTIONS)).view(-1, 2)}


@pytest.mark.parametrize("rows_at_once", [None, 1, 3])
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_the_loss_is_that_of_a_pass_for_every_pair(kind: str, rows_at_once: int | None, tmp_path: Path) -> None:
    """Loss and gradients of both banks. Pictures 0 and 1 are the same: neither sees the other's caption."""
    pipe, width = tiny.build(kind, tmp_path), {"sd1": 32, "sdxl": 64}[kind]
    plus, minus, average = (soft_tokens(seed, width) for seed in (1, 2, 3))
    given = all_apart(pipe)
    given["alike"][1, 0] = given["alike"][0, 0]
    scheduler, sharpness, gammas = training_scheduler(pipe), 20.0, (0.7, 0.4)

    def at(soft: Any) -> Tensor:
        return soft["bank.tokens"] + soft["bank.offsets"][3]

    def predicted(tokens: Tensor, picture: int, caption: int) -> Tensor:
        noisy = scheduler.add_noise(given["latents"][[picture]], given["noise"], given["timestep"])
        pooled, added = given["pooled"][[caption]], {}
        if pooled.shape[1]:
            added["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": given["time_ids"][[picture]]}
        with longer_text(pipe.unet, tokens):
            return pipe.unet(noisy, given["timestep"], given["states"][[caption]], **added).sample[0]

    banks = [{"tokens": soft.tokens.clone(), "offsets": soft.offsets.clone()} for soft in (plus, minus)]
    for bank in banks:
        for value in bank.values():
            value.requires_grad_()
    shown = [bank["tokens"] + bank["offsets"][3] for bank in banks]
    assert average.offsets is not None
    # the average of the own bank is ``average``, that of the other its double
    teacher = [average.tokens + average.offsets[3], 2 * average.tokens + 2 * average.offsets[3]]
    rivals = {0: (2,), 1: (2, 3), 2: (3, 0), 3: (0, 1)}
    target = given["noise"][0]
    positive, negative = [], []
    with frozen(pipe.unet):
        for picture, others in rivals.items():
            with torch.no_grad():
                found = [predicted(teacher[0], picture, picture)]
                found += [predicted(teacher[1], picture, caption) for caption in others]
                logits = torch.stack([-sharpness / 2 * (f - target).square().mean() for f in found])
                expected = sum(weight * f for weight, f in zip(logits.softmax(0), found, strict=True))
            goal = target + gammas[0] * (found[0] - expected)
            positive.append((predicted(shown[0], picture, picture) - goal).square().mean())
            for caption, f in zip(others, found[1:], strict=True):
                goal = target - gammas[1] * (f - expected)
                negative.append((predicted(shown[1], picture, caption) - goal).square().mean())
        loss = torch.stack(positive).mean() + torch.stack(negative).mean()
        loss.backward()

        control = TrainedTokens(plus.blocks)
        objective = AgsmObjective(
            FrozenDenoiser(resolve(pipe), control, noising_of(resolve(pipe))),
            plus,
            accelerator=Accelerator(cpu=True),
            rows_at_once=rows_at_once,
            negatives=2,
            gamma_plus=gammas[0],
            gamma_minus=gammas[1],
            sharpness=sharpness,
        )
        with torch.no_grad():
            for name, value in banks[1].items():
                objective.negative_bank.get_parameter(name).copy_(value)
        of_average = {"tokens": average.tokens, "offsets": average.offsets}
        objective.take_average(
            {f"bank.{name}": value for name, value in of_average.items()}
            | {f"negative_bank.{name}": 2 * value for name, value in of_average.items()}
        )
        rows: list[tuple[int, bool]] = []
        with weft.attach(pipe, control):
            pipe.unet.register_forward_hook(lambda _, args, out: rows.append((len(args[0]), torch.is_grad_enabled())))
            losses = objective(*given.values())
            losses["loss"].backward()
    torch.testing.assert_close(losses["loss"], loss, atol=1e-5, rtol=1e-5)
    for bank, mine in zip(banks, (objective.bank, objective.negative_bank), strict=True):
        for name, value in bank.items():
            expected_grad, found_grad = value.grad, mine.get_parameter(name).grad
            assert expected_grad is not None and expected_grad.abs().max() > 1e-5
            torch.testing.assert_close(found_grad, expected_grad, atol=1e-7, rtol=2e-3)
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())
    # B (1 + K) rows with gradients and as many without
    assert [sum(count for count, has in rows if has == wanted) for wanted in (True, False)] == [12, 12]


@pytest.mark.parametrize("rows_at_once", [None, 1])
def test_a_wrong_caption_is_one_more_of_the_others(rows_at_once: int | None, tmp_path: Path) -> None:
    """One of a batch that is given as a picture's own wrong one is the same as one of the batch."""
    pipe = tiny.sd1(tmp_path)
    soft, given = soft_tokens(1, 32), all_apart(pipe)
    control = TrainedTokens(soft.blocks)
    denoiser = FrozenDenoiser(resolve(pipe), control, noising_of(resolve(pipe)))
    following = given["states"].roll(-2, 0)[:, None]
    more = (following, given["pooled"].view(4, 1, 0), torch.ones(4, dtype=torch.int64))
    found = []
    with frozen(pipe.unet), weft.attach(pipe, control):
        for negatives, wrong in ((2, ()), (1, more)):
            made = {"accelerator": Accelerator(cpu=True), "rows_at_once": rows_at_once, "negatives": negatives}
            objective = AgsmObjective(denoiser, soft, **made)
            losses = objective(*given.values(), *wrong)
            losses["loss"].backward()
            found.append({**losses, **{name: value.grad for name, value in objective.named_parameters()}})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-6, rtol=1e-4)


def test_guidance_by_hand() -> None:
    predicted = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [9.0, 9.0]]])
    valid = torch.tensor([[True, True, False]])
    weights, deviation, error = guidance(
        predicted, torch.zeros(1, 2), valid, 2 * torch.log(torch.tensor(3.0)).item() / 2
    )
    torch.testing.assert_close(error, torch.tensor([[0.0, 2.0, 81.0]]))
    torch.testing.assert_close(weights, torch.tensor([[0.75, 0.25, 0.0]]))
    torch.testing.assert_close(deviation[0, :2], torch.tensor([[-0.5, 0.0], [1.5, 0.0]]))


def test_rivals_are_those_who_follow() -> None:
    alike = torch.tensor([[0, 0], [1, 1], [2, 0], [1, 3]])  # 0 and 2 say the same; 1 and 3 are one picture
    rivals, is_rival = in_batch(alike, 2)
    assert rivals.tolist() == [[1, 2], [2, 3], [3, 0], [0, 1]]
    assert is_rival.tolist() == [[True, False], [True, False], [True, False], [True, False]]


def test_a_picture_without_rivals_learns_to_denoise(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    soft, given = soft_tokens(1, 32), all_apart(pipe)
    given["alike"] = torch.zeros(4, 2, dtype=torch.int64)
    control = TrainedTokens(soft.blocks)
    denoiser = FrozenDenoiser(resolve(pipe), control, noising_of(resolve(pipe)))
    objective = AgsmObjective(denoiser, soft, accelerator=Accelerator(cpu=True), negatives=2)
    with frozen(pipe.unet), weft.attach(pipe, control):
        losses = objective(*given.values())
    torch.testing.assert_close(losses["loss"], losses["denoising"])
    assert float(losses["negative"]) == 0.0 and float(losses["own_weight"]) == 1.0


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_learns_and_leaves_the_model_as_it_was(kind: str, tmp_path: Path) -> None:
    pipe = tiny.build(kind, tmp_path / "model")
    stock = tiny.generate(pipe, kind)
    soft = fitted(pipe, {"gradient_checkpointing": True}, folder=tmp_path / "run")
    assert (tiny.generate(pipe, kind) == stock).all()
    row = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert {"loss", "positive", "negative", "error_negative", "accuracy", "own_weight", "token_norm"} <= row.keys()
    torch.testing.assert_close(fitted(pipe).tokens, soft.tokens, atol=1e-5, rtol=1e-4)
    with weft.attach(pipe, soft):
        assert_differs(tiny.generate(pipe, kind), stock)


def test_resuming_ends_with_the_same_bits(tmp_path: Path) -> None:
    """The average that targets come from is kept too; ``held_out`` measures beside it."""
    pipe = tiny.sd1(tmp_path / "model")
    changes: dict[str, Any] = {"negatives": 1, "held_out": 0.5, "measure_every": 1, "patience": 9}
    changes["loop"] = replace(CONFIG.loop, batch_size=2)
    straight = fitted(pipe, changes, folder=tmp_path / "straight")
    fitted(pipe, {**changes, "loop": replace(changes["loop"], steps=2)}, folder=tmp_path / "run")
    resumed = fitted(pipe, changes, folder=tmp_path / "run", resume=True)
    assert torch.equal(resumed.tokens, straight.tokens)
    logs = [(tmp_path / name / "measured.jsonl").read_text() for name in ("straight", "run")]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 4
    with pytest.raises(ValueError, match=r"`gamma_minus` was 1\.0, is 0\.1"):
        fitted(pipe, {**changes, "gamma_minus": 0.1}, folder=tmp_path / "run", resume=True)


def test_tokens_are_those_of_the_average(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path / "model")
    soft = fitted(pipe, folder=tmp_path / "run")
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert torch.equal(soft.tokens, saved["average"]["bank.tokens"])
    assert_differs(soft.tokens, saved["parameters"]["bank.tokens"])
    assert_differs(saved["parameters"]["negative_bank.tokens"], saved["parameters"]["bank.tokens"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "dpo"}, "`objective` must be one of 'contrast', 'agsm'; got 'dpo'"),
        ({"negatives": 3}, "`negatives` must be fewer than the 3 pictures of a batch; got 3"),
        ({"negatives": 0}, "`negatives` must be a whole number, at least 1"),
        ({"gamma_plus": -1.0}, "`gamma_plus` must not be negative"),
        ({"sharpness": -1.0}, "`sharpness` must not be negative"),
    ],
)
def test_bad_numbers(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(tiny.sd1(tmp_path), changes)
