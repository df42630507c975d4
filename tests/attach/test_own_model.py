"""A model of the user's own, described in five lines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weft

TEXT, HEADS, HEAD_DIM = 5, 2, 8
WIDTH = HEADS * HEAD_DIM


class OwnProcessor:
    """Text and image in one sequence, by torch's own attention."""

    def __call__(self, attn: Any, states: Tensor) -> Tensor:
        query, key, value = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in attn.qkv(states).chunk(3, -1))
        out = F.scaled_dot_product_attention(query, key, value)
        return attn.out(out.transpose(1, 2).flatten(2))


class OwnAttention(nn.Module):
    heads, inner_dim = HEADS, WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.processor: Any = OwnProcessor()

    def get_processor(self) -> Any:
        return self.processor

    def set_processor(self, processor: Any) -> None:
        self.processor = processor

    def forward(self, states: Tensor) -> Tensor:
        return self.processor(self, states)


class OwnTransformer(nn.Module):
    """[B, 4, h, w] in and out, two cells a side in a token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.unembed = nn.Conv2d(4, WIDTH, 2, 2), nn.ConvTranspose2d(WIDTH, 4, 2, 2)
        self.blocks = nn.ModuleList([nn.ModuleDict({"attn": OwnAttention()}) for _ in range(2)])

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        pixels = self.embed(x)
        states = torch.cat([context, pixels.flatten(2).mT + t[:, None, None]], 1)
        for block in self.blocks:
            states = states + block["attn"](states)
        return self.unembed(states[:, TEXT:].mT.unflatten(-1, pixels.shape[-2:]))


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(1, 4, 8, 12, generator=generator),
        "t": torch.tensor([0.5]),
        "context": torch.randn(1, TEXT, WIDTH, generator=generator),
    }


@pytest.fixture
def model() -> OwnTransformer:
    torch.manual_seed(0)
    return OwnTransformer().eval()


def test_five_lines_describe_it(model: OwnTransformer) -> None:
    with torch.no_grad():
        stock = model(**inputs())
        family = weft.attach.Joint(text="context", image="x", timestep="t", patch_size=2)
        with weft.attach(model, weft.AttentionMaps(list(range(TEXT))), family=family) as attachment:
            torch.testing.assert_close(model(**inputs()), stock, atol=1e-5, rtol=1e-5)
            maps = torch.stack([attachment.maps[position] for position in range(TEXT)])
        assert torch.equal(model(**inputs()), stock)
    assert maps.shape == (TEXT, 1, 8, 12) and attachment.changed == ["blocks.0.attn", "blocks.1.attn"]
    torch.testing.assert_close(maps.sum(0), torch.ones(1, 8, 12), atol=0.1, rtol=0)  # resized from 4 x 6, cut off at 0


def test_without_a_description_the_message_says_what_could_be_done(model: OwnTransformer) -> None:
    expected = (
        r"got OwnTransformer, whose attentions are 2 x OwnAttention with OwnProcessor; all of them can be replaced"
    )
    with pytest.raises(ValueError, match=expected):
        weft.attach(model)


def test_what_cannot_be_reached_is_named(model: OwnTransformer) -> None:
    class Manual:
        def __call__(self, attn: Any, states: Tensor) -> Tensor:
            return attn.out(states)

    model.blocks[0]["attn"].set_processor(Manual())
    with pytest.raises(ValueError, match=r"Manual calls neither dispatch_attention_fn nor F\.scaled_dot_product_att"):
        weft.attach(model)
    with pytest.raises(ValueError, match="which has no attention module with a processor"):
        weft.attach(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(TypeError, match=r"`family` must be a weft\.attach\.Joint .* got str"):
        weft.attach(model, family="flux")  # type: ignore[arg-type]


def test_a_lost_handle_is_found(model: OwnTransformer) -> None:
    processors = [block["attn"].processor for block in model.blocks]
    weft.attach(model, family=weft.attach.Joint(text="context", image="x", timestep="t", patch_size=2))
    weft.detach(model)
    assert [block["attn"].processor for block in model.blocks] == processors
    with pytest.raises(ValueError, match="this OwnTransformer is not attached"):
        weft.detach(model)
