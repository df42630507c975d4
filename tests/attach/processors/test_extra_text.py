"""Tokens that single layers see after the text: against stock models given a longer text, or a dense mask."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from torch import Tensor

import weft
from weft.attach import Control, ExtraText, LayerInfo, LayerRequest, Step
from weft.ops import Edit

TOKENS, TEXT = 3, 7


class Adding(Control):
    """Adds the set ``row`` of a bank to every cross-attention whose name has ``where`` in it."""

    def __init__(self, bank: Tensor, row: int = 0, where: str = "") -> None:
        self.request_ = LayerRequest(extra=ExtraText(bank, torch.tensor([row])))
        self.where = where

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        return self.request_ if layer.is_cross and self.where in layer.name else None


class Muting(Control):
    """Takes the second token away, and reads the others."""

    def __init__(self) -> None:
        self.table = torch.tensor([[[0.0, -torch.inf]]])
        self.labels = torch.zeros(2, TEXT, dtype=torch.int32)
        self.labels[:, 1] = 1
        self.maps: list[Tensor] = []

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        if not layer.is_cross:
            return None
        readout = torch.eye(step.seqlen_k)[None]
        return LayerRequest(Edit(delta=self.table), key_labels=self.labels, readout=readout)

    def read_maps(self, layer: LayerInfo, step: Step, maps: Tensor) -> None:
        self.maps.append(maps)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return tiny.unet()


@pytest.fixture
def bank() -> Tensor:
    return torch.randn(2, TOKENS, 32, generator=torch.Generator().manual_seed(4))


def call(model: Any, text: Tensor | None = None, mask: Tensor | None = None, rows: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(rows, 4, 16, 16, generator=generator)
    own = torch.randn(2, TEXT, 32, generator=torch.Generator().manual_seed(2))
    text = own if text is None else torch.cat([own, text.expand(2, -1, -1)], 1)
    with torch.no_grad():
        return model(sample, torch.tensor(500), text, encoder_attention_mask=mask).sample


@pytest.mark.parametrize("fused", [False, True], ids=["split", "fused"])
@pytest.mark.parametrize("row", [0, 1])
def test_they_are_a_longer_text(model: Any, bank: Tensor, row: int, fused: bool) -> None:
    expected = call(model, bank[row])
    if fused:
        model.fuse_qkv_projections()
    with weft.attach(model, Adding(bank, row)):
        torch.testing.assert_close(call(model), expected, atol=1e-5, rtol=1e-5)


def test_other_layers_see_the_text_alone(model: Any, bank: Tensor) -> None:
    """What is added to the down blocks does not reach the projections of the others."""
    projected: dict[str, list[int]] = {}
    with weft.attach(model, Adding(bank, where="down_blocks")) as attachment:
        for name in attachment.changed:
            attn = model.get_submodule(name)
            if attn.is_cross_attention:
                attn.to_k.register_forward_hook(
                    lambda module, args, out, name=name: projected.setdefault(name, []).append(out.shape[1])
                )
        call(model)
    assert projected == {name: [TEXT, TOKENS] if "down" in name else [TEXT] for name in projected}
    assert len(projected) == 7


def test_their_keys_are_computed_once_for_all_sets_and_steps(model: Any, bank: Tensor) -> None:
    model.requires_grad_(False)
    sample, text = torch.randn(2, 4, 16, 16), torch.randn(2, TEXT, 32)
    control = Adding(bank)
    with weft.attach(model, control) as attachment, torch.no_grad():
        drawn = []
        for step in range(3):
            control.request_.extra.row.fill_(step % 2)  # type: ignore[union-attr]
            drawn.append(model(sample, 900 - step, text).sample)
        layers = sum(model.get_submodule(name).is_cross_attention for name in attachment.changed)
        assert (attachment.text_cache.misses, attachment.text_cache.hits) == (2 * layers, 2 * 2 * layers)
    assert not torch.allclose(drawn[0], drawn[1], atol=1e-3)


def test_edits_and_read_outs_pass_them_over(model: Any, bank: Tensor) -> None:
    """The muted token is gone, the others and the added ones keep their logits, and maps have the text's length."""
    mask = torch.ones(2, TEXT + TOKENS)
    mask[:, 1] = 0
    expected = call(model, bank[0], mask)
    with weft.attach(model, muting := Muting(), Adding(bank)):
        torch.testing.assert_close(call(model), expected, atol=1e-5, rtol=1e-5)
        assert all(maps.shape[2] == TEXT for maps in muting.maps)
        assert all(bool((maps.sum(2) < 1).all()) for maps in muting.maps), "a part of the attention is theirs"
        muting.table.fill_(0)  # tables may be written into between passes
        torch.testing.assert_close(call(model), call(copy.deepcopy(model), bank[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("edited", [False, True])
def test_a_mask_of_the_text_leaves_them_seen(model: Any, bank: Tensor, edited: bool) -> None:
    mask, longer = torch.ones(2, TEXT), torch.ones(2, TEXT + TOKENS)
    mask[1, 4:] = longer[1, 4:TEXT] = 0
    expected = call(model, bank[0], longer)
    controls: list[Control] = [Adding(bank)]
    if edited:
        controls.append(muting := Muting())
        muting.table.fill_(0)
    with weft.attach(model, *controls):
        torch.testing.assert_close(call(model, mask=mask), expected, atol=1e-5, rtol=1e-5)


def test_one_text_serves_several_rows_of_pixels(model: Any, bank: Tensor) -> None:
    """Text [C, Nk, D] beside pixels [C * R, ...]: each text belongs to R rows in a row, and is projected once."""
    generator = torch.Generator().manual_seed(1)
    sample, text = torch.randn(6, 4, 16, 16, generator=generator), torch.randn(2, TEXT, 32, generator=generator)
    repeated = torch.cat([text, bank[:1].expand(2, -1, -1)], 1).repeat_interleave(3, 0)
    with torch.no_grad():
        expected = model(sample, 500, repeated).sample
        with weft.attach(model, Adding(bank)):
            torch.testing.assert_close(model(sample, 500, text).sample, expected, atol=1e-5, rtol=1e-5)


def test_gradients_reach_them_and_nothing_else(model: Any, bank: Tensor) -> None:
    model.requires_grad_(False)
    mine, longer = bank[:1].clone().requires_grad_(), bank[:1].clone().requires_grad_()
    sample, text = torch.randn(2, 4, 16, 16), torch.randn(2, TEXT, 32)
    with weft.attach(model, Adding(mine)):
        model(sample, 500, text).sample.square().mean().backward()
    model(sample, 500, torch.cat([text, longer.expand(2, -1, -1)], 1)).sample.square().mean().backward()
    torch.testing.assert_close(mine.grad, longer.grad, atol=1e-7, rtol=1e-4)


def test_two_controls_cannot_add_to_one_layer(model: Any, bank: Tensor) -> None:
    with (
        weft.attach(model, Adding(bank), Adding(bank, where="down_blocks")),
        pytest.raises(ValueError, match="Adding and Adding both add tokens to down_blocks"),
    ):
        call(model)


def test_self_attention_has_no_text(model: Any, bank: Tensor) -> None:
    class Everywhere(Adding):
        def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
            return self.request_

    with weft.attach(model, Everywhere(bank)), pytest.raises(ValueError, match="added to cross-attention alone"):
        call(model)
