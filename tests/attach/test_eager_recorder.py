"""The recorder that weft's maps are held against: what it reads must explain what the stock call returned."""

from __future__ import annotations

import pytest
import torch
from eager_recorder import Call, recorded
from tiny_models import HEIGHT, STEPS, TINY, WIDTH, TinyModel

MODELS = pytest.mark.parametrize("model", TINY.values(), ids=TINY)


@MODELS
def test_the_record_explains_every_stock_call(model: TinyModel) -> None:
    pipe = model.build()
    stock = model.generate(pipe)
    with recorded(model.denoiser(pipe)) as passes:
        assert torch.equal(model.generate(pipe), stock)
    assert len(passes) >= STEPS
    layers = {name for name, layer in model.denoiser(pipe).named_modules() if hasattr(layer, "processor")}
    for one in passes:
        assert set(one.layers) == layers
        for call in one.calls:
            scale = call.output.abs().max().item()
            torch.testing.assert_close(call.expected_output(), call.output, atol=2e-6 * max(scale, 1), rtol=1e-5)
            probabilities = call.probabilities()
            torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:2]))
            assert probabilities.std(-1).max() > 1e-3  # not flat
    count = len(passes)
    model.generate(pipe)
    assert len(passes) == count


def test_a_pass_knows_its_text_and_its_layers() -> None:
    model = TINY["flux"]
    pipe = model.build()
    with recorded(pipe.transformer) as passes:
        model.generate(pipe)
    text, tokens = passes[0].arguments["encoder_hidden_states"].shape[1], HEIGHT * WIDTH // 16
    assert passes[0].layers[0] == "transformer_blocks.0.attn"
    assert passes[0].probabilities()["single_transformer_blocks.1.attn"].shape == (1, text + tokens, text + tokens)


def test_masks_and_groups_of_heads_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, 5, 8, generator=generator) for heads in (4, 2, 2))
    hidden, bias = torch.rand(2, 1, 1, 5, generator=generator) > 0.3, torch.randn(2, 4, 5, 5, generator=generator)
    for mask in (None, hidden, bias):
        expected = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=0.7, enable_gqa=True
        )
        call = Call("", query, key, value, mask, 0.7, expected)
        torch.testing.assert_close(call.expected_output(), expected)
