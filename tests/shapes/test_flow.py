"""The MM-DiT's training: what it is trained on is what the stock pipeline feeds it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from transformers import CLIPTextModel

from weft.shapes import model_path
from weft.shapes.captions import caption
from weft.shapes.fitting.bank import LatentBank
from weft.shapes.fitting.captioned import captioned_batches, token_ids_of
from weft.shapes.fitting.config import FlowConfig
from weft.shapes.fitting.flow import flow_objective, sigmas_drawn
from weft.shapes.model import build_flow_scheduler, build_transformer, build_vae
from weft.shapes.tokenizer import SHORT_LENGTH, build_tokenizer
from weft.shapes.world import scene

CONFIG = FlowConfig(batch_size=64)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(SHORT_LENGTH)


@torch.no_grad()
def spread(objective):
    """``objective`` with random numbers where it starts at zero, so that all of it takes part."""
    for parameter in objective.transformer.parameters():
        if not parameter.any():
            parameter.normal_(std=0.1)
    return objective


@pytest.fixture(scope="module")
def objective(tokenizer):
    torch.manual_seed(0)
    return spread(flow_objective(tokenizer)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pipe(objective, tokenizer):
    """The stock pipeline of ``objective``, with the stock attention."""
    transformer = build_transformer().eval()
    transformer.load_state_dict(objective.transformer.state_dict())
    vae = build_vae().eval()
    vae.register_to_config(shift_factor=0.0)
    made = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=build_flow_scheduler(),
        vae=vae,
        text_encoder=objective.text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=objective.text_encoder_2,
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("null_tokens", [1, 7, 256])
def test_the_objective_predicts_what_the_pipeline_predicts(objective, pipe, tokenizer, null_tokens):
    calls = []
    hook = pipe.transformer.register_forward_hook(
        lambda module, args, kwargs, output: calls.append((kwargs, output[0])), with_kwargs=True
    )
    options = {} if null_tokens == 256 else {"max_sequence_length": null_tokens}  # 256 is what it does by itself
    pipe("a red circle", num_inference_steps=2, guidance_scale=4.0, output_type="latent", **options)
    hook.remove()

    kwargs, predicted = calls[1]
    assert kwargs["encoder_hidden_states"].shape == (2, SHORT_LENGTH + null_tokens, 192)
    velocity = objective.velocity(
        kwargs["hidden_states"],
        token_ids_of(tokenizer, ["", "a red circle"]),
        kwargs["timestep"] / 1000,
        torch.full((2,), null_tokens),
    )
    torch.testing.assert_close(velocity, predicted, atol=1e-4, rtol=1e-4)


def test_the_number_of_null_tokens_matters(objective, tokenizer):
    ids, noisy, sigmas = (
        token_ids_of(tokenizer, ["a red circle"] * 2),
        torch.randn(1, 4, 16, 16),
        torch.full((2,), 0.5),
    )
    one, many = objective.velocity(noisy.repeat(2, 1, 1, 1), ids, sigmas, torch.tensor([1, 256]))
    assert (one - many).abs().max() > 1e-3


def test_the_sampler_walks_the_path_of_the_objective(objective, tokenizer):
    """With the true velocity, every step of the sampler lands on the straight path from noise to image."""
    latents, noise = torch.randn(2, 1, 4, 16, 16)
    scheduler = build_flow_scheduler()
    scheduler.set_timesteps(7)
    x = noise
    for index, timestep in enumerate(scheduler.timesteps):
        sigma = timestep / 1000
        torch.testing.assert_close(x, (1 - sigma) * latents + sigma * noise, atol=1e-5, rtol=1e-5)
        x = scheduler.step(noise - latents, timestep, x).prev_sample
        assert index == 0 or sigma < 1
    torch.testing.assert_close(x, latents, atol=1e-5, rtol=1e-5)


def test_the_loss_is_zero_for_the_true_velocity_alone(objective, tokenizer, monkeypatch):
    latents, noise = torch.randn(2, 3, 4, 16, 16)
    batch = (latents, noise, token_ids_of(tokenizer, ["", "a", "b"]), torch.tensor([0.1, 0.5, 0.9]), torch.ones(3))
    assert objective(*batch)["loss"] > 0.1
    monkeypatch.setattr(objective, "velocity", lambda *args: noise - latents)
    assert objective(*batch)["loss"] == 0


def test_blocks_begin_as_the_identity():
    torch.manual_seed(0)
    fresh = build_transformer().eval()
    feed = {"encoder_hidden_states": torch.randn(1, 3, 192), "pooled_projections": torch.randn(1, 192)}
    states = {}
    fresh.pos_embed.register_forward_hook(lambda module, args, output: states.update(first=output))
    fresh.transformer_blocks[-1].register_forward_hook(lambda module, args, output: states.update(last=output[1]))
    with torch.no_grad():
        out = fresh(torch.randn(1, 4, 16, 16), timestep=torch.tensor([500.0]), **feed).sample
    assert torch.equal(states["first"], states["last"])
    assert not out.any()


def test_all_parameters_learn_but_for_the_last_queries_of_the_text(tokenizer):
    made = spread(flow_objective(tokenizer))
    ids, noise = token_ids_of(tokenizer, ["a red circle", "a blue square"]), torch.randn(2, 4, 16, 16)
    made(torch.randn_like(noise), noise, ids, torch.tensor([0.3, 0.8]), torch.tensor([1, 256]))["loss"].backward()
    idle = {name for name, value in made.named_parameters() if value.grad is None or not value.grad.any()}
    last = "transformer.transformer_blocks.4.attn."
    # what the last block makes of the text is read by nothing
    assert idle == {f"{last}add_q_proj.weight", f"{last}add_q_proj.bias", f"{last}norm_added_q.weight"}


def test_sigmas_are_logit_normal_one_from_each_slice():
    (sigmas, null_tokens) = sigmas_drawn(replace(CONFIG, batch_size=4096), torch.Generator().manual_seed(0))
    logits = torch.logit(sigmas.double())
    assert torch.equal(sigmas, sigmas.sort().values)
    assert logits.mean() == pytest.approx(CONFIG.logit_mean, abs=0.01)
    assert logits.std() == pytest.approx(CONFIG.logit_std, abs=0.01)
    shares = {int(n): float((null_tokens == n).float().mean()) for n in null_tokens.unique()}
    assert shares == pytest.approx({1: 0.25, 16: 0.25, 256: 0.5}, abs=0.03)


def test_a_batch_is_a_function_of_the_samples_seen(tokenizer):
    bank = LatentBank(torch.randn(8, 4, 16, 16).half(), torch.ones(8, 4, 16, 16).half())
    batch_at = captioned_batches(bank, tokenizer, CONFIG, partial(sigmas_drawn, CONFIG), 0, 0)
    again, other = batch_at(640), batch_at(704)
    assert all(torch.equal(*parts) for parts in zip(batch_at(640), again, strict=True))
    assert not any(torch.equal(*parts) for parts in zip(again, other, strict=True))
    latents, noise, ids, sigmas, null_tokens = again
    assert latents.shape == noise.shape == (64, 4, 16, 16)
    assert ids.shape == (64, SHORT_LENGTH) and sigmas.shape == null_tokens.shape == (64,)


def test_no_caption_is_cut(tokenizer):
    texts = [caption(scene(0, i), np.random.default_rng(i)) for i in range(400)]
    assert max(len(ids) for ids in tokenizer(texts).input_ids) < SHORT_LENGTH


def test_the_first_text_encoder_may_start_from_another(tokenizer):
    folder = model_path() / "text_encoder"
    started = dict(flow_objective(tokenizer, str(folder)).text_encoder.text_model.named_parameters())
    shipped = dict(CLIPTextModel.from_pretrained(folder).named_parameters())
    assert len(started) == len(shipped)
    for name, value in shipped.items():
        assert torch.equal(started[name.removeprefix("text_model.")], value)
