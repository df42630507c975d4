"""What controls may ask of a layer, alone and together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from torch import Tensor

import weft
from weft.attach import Control, LayerInfo, LayerRequest, Step
from weft.ops import Edit


class Mute(Control):
    """Takes tokens away from the conditional rows of cross-attention, and reads what is left of them."""

    def __init__(self, *positions: int, where: str = "", reads: bool = False) -> None:
        self.positions, self.where, self.reads = list(positions), where, reads
        self.seen: dict[str, Tensor] = {}

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        if not layer.is_cross or self.where not in layer.name:
            return None
        labels = torch.zeros(step.batch, step.seqlen_k, dtype=torch.int32)
        labels[step.conditional, self.positions] = 1
        readout = torch.eye(step.seqlen_k)[None, :, self.positions] if self.reads else None
        return LayerRequest(Edit(delta=torch.tensor([[[0.0, -torch.inf]]])), key_labels=labels, readout=readout)

    def read_maps(self, layer: LayerInfo, step: Step, maps: Tensor) -> None:
        self.seen[layer.name] = maps


class Local(Control):
    """Lets each pixel of a self-attention see its own half of the image only."""

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        if layer.is_cross:
            return None
        h, w = layer.grid(step.generation.latent_size)
        half = (torch.arange(w) >= w // 2).int().expand(h, w).reshape(1, h * w)
        delta = torch.tensor([[[0.0, -torch.inf], [-torch.inf, 0.0]]])
        return LayerRequest(Edit(delta=delta), query_labels=half, key_labels=half)


def masked_processor(mask_of: Any) -> Any:
    """A stock processor given a dense mask, the slow way of saying the same."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    class Masked:
        def __call__(
            self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None
        ) -> Tensor:
            mask = mask_of(attn, hidden_states, encoder_hidden_states)
            if mask is not None:
                mask = mask.repeat_interleave(attn.heads, 0)
            stock = AttnProcessor2_0()
            return stock(attn, hidden_states, encoder_hidden_states, attention_mask=mask)

    return Masked()


@pytest.mark.parametrize("fused", [False, True], ids=["split", "fused"])
def test_an_edit_of_self_attention_equals_a_dense_mask(fused: bool) -> None:
    torch.manual_seed(0)
    model = tiny.unet()
    sample, text = torch.randn(2, 4, 16, 16), torch.randn(2, 5, 32)

    def mask_of(attn: Any, pixels: Tensor, text: Any) -> Tensor | None:
        if text is not None:
            return None
        side = int(pixels.shape[1] ** 0.5)
        half = (torch.arange(side) >= side // 2).expand(side, side).reshape(-1)
        return torch.where(half[:, None] == half, 0.0, -torch.inf).expand(len(pixels), -1, -1)

    stock = dict(model.attn_processors)
    model.set_attn_processor(masked_processor(mask_of))
    with torch.no_grad():
        expected = model(sample, 500, text).sample
        model.set_attn_processor(stock)
        if fused:
            model.fuse_qkv_projections()
        plain = model(sample, 500, text).sample
        with weft.attach(model, Local()):
            edited = model(sample, 500, text).sample
    assert (plain - expected).abs().max() > 1e-2
    torch.testing.assert_close(edited, expected, atol=1e-4, rtol=1e-4)


def test_an_edit_acts_on_the_rows_it_labels(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    call = {"output_type": "latent", "num_inference_steps": 1}
    stock = tiny.generate(pipe, **call)
    everything = list(range(1, 16))
    with weft.attach(pipe, mute := Mute(*everything, reads=True)):
        muted = tiny.generate(pipe, **call)
    assert (muted - stock).abs().max() > 1e-2
    for maps in mute.seen.values():
        unconditional, conditional = maps
        assert not conditional.any(), "a muted token gets no attention"
        assert unconditional.amin() > 0


def test_read_outs_are_laid_side_by_side_and_see_the_edit(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe, alone := weft.AttentionMaps(["circle", "square"]), Mute(3)):
        tiny.generate(pipe)
        first = alone.maps
    first_maps = {token: first[token] for token in first}
    controls = weft.AttentionMaps(["square"]), Mute(3, reads=True), weft.AttentionMaps(["circle", "blue"])
    with weft.attach(pipe, *controls) as attachment:
        tiny.generate(pipe)
        torch.testing.assert_close(controls[0].maps["square"], first_maps["square"], atol=1e-6, rtol=0)
        assert not controls[2].maps["circle"].any() and not first_maps["circle"].any()
        assert controls[2].maps["blue"].amin() > 0
        assert {maps.shape[-1] for maps in controls[1].seen.values()} == {1}
        with pytest.raises(ValueError, match=r"needs exactly one control that reads maps.*there are 2"):
            _ = attachment.maps


def test_two_edits_of_one_layer_are_an_error(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe, Mute(1, where="down_blocks"), Mute(2, where="up_blocks")):
        tiny.generate(pipe)
    with (
        weft.attach(pipe, Mute(1), Mute(2, where="mid_block")),
        pytest.raises(
            ValueError, match=r"Mute and Mute both edit mid_block\.attentions\.0\.transformer_blocks\.0\.attn2"
        ),
    ):
        tiny.generate(pipe)


def test_controls_come_and_go_between_calls(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    stock = tiny.generate(pipe)
    maps, mute = weft.AttentionMaps("circle"), Mute(3)
    with weft.attach(pipe) as attachment:
        with pytest.raises(ValueError, match="needs exactly one control that reads maps"):
            _ = attachment.maps
        attachment.add(maps)
        tiny.generate(pipe)
        assert attachment.maps["circle"].amin() > 0
        attachment.add(mute)
        assert not np.allclose(tiny.generate(pipe), stock, atol=1e-3)
        attachment.remove(mute)
        assert np.allclose(tiny.generate(pipe), stock, atol=1e-4)
        attachment.remove(maps)
        assert np.array_equal(tiny.generate(pipe), stock)
        assert maps.maps["circle"].amin() > 0, "results outlive the removal"
        with pytest.raises(ValueError, match="is not attached here"):
            attachment.remove(maps)
    with pytest.raises(RuntimeError, match=r"given back; call weft\.attach again"):
        attachment.add(maps)


def test_a_mask_over_pixels_cannot_be_joined_with_a_control() -> None:
    model = tiny.unet()
    attn = model.mid_block.attentions[0].transformer_blocks[0].attn2
    pixels, text = torch.randn(1, 16, 32), torch.randn(1, 5, 32)
    with weft.attach(model, weft.AttentionMaps([1])), torch.no_grad():
        model(torch.randn(1, 4, 16, 16), 500, text)
        with pytest.raises(
            ValueError, match=r"takes a mask over keys, \[B, 1, 1, 5\]; got \[1, 2, 16, 5\] in mid_block"
        ):
            attn(pixels, text, attention_mask=torch.zeros(1, 16, 5))


def test_describe_can_be_read(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    attachment = weft.attach(pipe, weft.AttentionMaps(["circle"], layers="down"))
    assert repr(attachment) == (
        "<weft.Attachment to UNet2DConditionModel: 14 layers, 0 skipped, controls [AttentionMaps]>"
    )
    text = attachment.describe()
    assert "7 cross-attention and 7 self-attention layers" in text
    assert "AttentionMaps(['circle'], layers='down')" in text
    attachment.detach()
    assert "detached" in repr(attachment)
