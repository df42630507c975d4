"""The stand-in itself: what it passes on to the processor, and what it says where a control cannot act."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from tiny_models import TINY
from torch import Tensor

import weft
from weft.attach import Control, LayerInfo, LayerRequest, Step
from weft.attach.families.joint import PositionGrids
from weft.attach.processors.plan import join
from weft.attach.processors.seam import Seam, bound
from weft.attach.records import Ranges
from weft.ops import Edit

HEADS, DIM, TEXT, PIXELS = 2, 8, 3, 4
NAME = "blocks.0.attn"
LAYER = LayerInfo(NAME, True, HEADS, DIM, 0, is_joint=True)
RANGES = Ranges(slice(TEXT, TEXT + PIXELS), slice(0, TEXT), TEXT + PIXELS)


class Processor:
    """Calls torch's attention as the module says; ``calls`` times."""

    calls = 1

    def __call__(self, attn: Any, x: Tensor, **options: Any) -> Tensor:
        for _ in range(self.calls):
            x = F.scaled_dot_product_attention(x, x, x, **options)
        return x


class Elsewhere(Processor):
    """Calls it where no name of this module is asked."""

    def __call__(self, attn: Any, x: Tensor, **options: Any) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x, x, x, **options)


def seam(processor: Any, number: int = 0, *, is_planned: bool = True) -> Seam:
    made = bound(Seam, type(processor))(processor, LAYER, None, number=number)
    if is_planned:
        edit = Edit(alpha=torch.tensor([[[0.0]]]))
        made.plan = join(LAYER, [(Control(), LayerRequest(edit))])
        made.ranges = RANGES
    return made


def states(tokens: int = TEXT + PIXELS) -> Tensor:
    return torch.randn(1, HEADS, tokens, DIM, generator=torch.Generator().manual_seed(0))


def edited(x: Tensor) -> Tensor:
    """Attention in which pixels look at all tokens of the text alike, as if their logits were 0."""
    logits = x @ x.mT * DIM**-0.5
    logits[:, :, RANGES.image, RANGES.text] = 0
    return logits.softmax(-1) @ x


def test_a_layer_without_a_plan_runs_its_own_processor() -> None:
    processor, x = Processor(), states()
    assert torch.equal(seam(processor, is_planned=False)(None, x), processor(None, x))


def test_an_edit_acts_between_pixels_and_text_alone() -> None:
    torch.testing.assert_close(seam(Processor())(None, states()), edited(states()))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_call_with_the_number_of_the_layer_is_edited(number: int) -> None:
    processor = Processor()
    processor.calls = 3
    expected = states()
    for call in range(3):
        expected = edited(expected) if call == number else F.scaled_dot_product_attention(expected, expected, expected)
    torch.testing.assert_close(seam(processor, number)(None, states()), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout_p": 0.5}, r"blocks\.0\.attn calls attention with dropout_p=0\.5, which a controlled layer"),
        ({"is_causal": True}, r"blocks\.0\.attn calls attention with is_causal=True, which a controlled layer"),
        ({"attn_mask": torch.zeros(1, 1, 7, 7)}, r"takes a mask over keys.*\[1, 1, 7, 7\] in blocks\.0\.attn"),
    ],
)
def test_what_a_controlled_layer_cannot_have_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        seam(Processor())(None, states(), **options)
    # without a control it can
    Processor()(None, states(), **options)
    seam(Processor(), is_planned=False)(None, states(), **options)


def test_queries_that_were_merged_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"expected 7 queries in blocks\.0\.attn, of image and text; got 5; .*merging"
    ):
        seam(Processor())(None, states(5))


@pytest.mark.parametrize(("processor", "number"), [(Elsewhere(), 0), (Processor(), 1)])
def test_a_control_that_did_not_act_is_an_error(processor: Any, number: int) -> None:
    message = rf"{type(processor).__name__} of blocks\.0\.attn did not call attention by a name that weft replaces"
    with pytest.raises(RuntimeError, match=message):
        seam(processor, number)(None, states())


def test_after_an_error_attention_is_the_models_own_again() -> None:
    stand_in, x = seam(Processor()), states()
    with pytest.raises(ValueError, match="dropout_p"):
        stand_in(None, x, dropout_p=0.5)
    torch.testing.assert_close(stand_in(None, x), edited(x))
    assert torch.equal(Processor()(None, x), F.scaled_dot_product_attention(x, x, x))


# --- as diffusers sees it --------------------------------------------------------------------------------------------


@pytest.fixture
def flux() -> Any:
    return TINY["flux"].build()


def test_copies_are_processors_of_diffusers(flux: Any) -> None:
    with weft.attach(flux):
        for processor in flux.transformer.attn_processors.values():
            assert isinstance(processor, Seam) and isinstance(processor, FluxAttnProcessor)
            for copied in (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
                assert type(copied) is FluxAttnProcessor


def backends_of(model: Any) -> set[Any]:
    return {getattr(processor._attention_backend, "value", None) for processor in model.attn_processors.values()}


def test_a_backend_set_while_attached_is_the_processors_own_and_stays(flux: Any) -> None:
    assert backends_of(flux.transformer) == {None}
    originals = set(map(id, flux.transformer.attn_processors.values()))
    with weft.attach(flux):
        flux.transformer.set_attention_backend("native")
        assert backends_of(flux.transformer) == {"native"}
    assert backends_of(flux.transformer) == {"native"}
    assert set(map(id, flux.transformer.attn_processors.values())) == originals
    with weft.attach(flux):
        assert backends_of(flux.transformer) == {"native"}
        flux.transformer.reset_attention_backend()
    assert backends_of(flux.transformer) == {None}


class Names(Control):
    """Reads the first token of the text in chosen layers."""

    def __init__(self, *names: str) -> None:
        self.names, self.seen = names, set[str]()

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        if layer.name not in self.names:
            return None
        return LayerRequest(readout=torch.eye(step.seqlen_k)[None, :, :1])

    def read_maps(self, layer: LayerInfo, step: Step, maps: Tensor) -> None:
        self.seen.add(layer.name)


@pytest.fixture
def counted_attention(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts what the backend of the model itself is asked for."""
    calls: list[int] = []
    stock = F.scaled_dot_product_attention

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return stock(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    yield calls


def test_layers_without_a_control_use_the_backend_of_the_model(flux: Any, counted_attention: list[int]) -> None:
    names = list(flux.transformer.attn_processors)
    model = TINY["flux"]
    model.generate(flux)
    stock = len(counted_attention)
    counted_attention.clear()
    first = names[0].removesuffix(".processor")
    with weft.attach(flux, control := Names(first)):
        model.generate(flux)
    assert control.seen == {first}
    assert stock - len(counted_attention) == 2  # the controlled layer, in two steps


# --- sizes of pictures by positions ----------------------------------------------------------------------------------


def positions(picture: int, h: int, w: int, top: int = 0, left: int = 0) -> Tensor:
    """[h * w, 3], row by row."""
    return torch.cartesian_prod(
        torch.tensor([picture]), torch.arange(top, top + h), torch.arange(left, left + w)
    ).view(-1, 3)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("axes", [3, 4])
def test_the_size_is_that_of_the_first_picture(batched: bool, axes: int) -> None:
    ids = torch.cat([positions(10, 3, 5, top=2, left=1), positions(11, 7, 4), positions(12, 2, 9)])
    ids = F.pad(ids, (0, axes - 3))
    grids = PositionGrids()
    given = ids.expand(2, -1, -1) if batched else ids
    assert grids.of(given) == (3, 5)
    assert grids.of(given.float()) == (3, 5)
    assert grids.of(positions(0, 1, 1)) == (1, 1)
    assert grids.of(given) == (3, 5)


def test_the_device_is_asked_once_for_a_tensor_of_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    transfers: list[int] = []
    stock = Tensor.cpu

    def counted(self: Tensor, *args: Any) -> Tensor:
        transfers.append(1)
        return stock(self, *args)

    monkeypatch.setattr(Tensor, "cpu", counted)
    grids, ids = PositionGrids(), positions(0, 3, 5)
    for _ in range(4):
        assert grids.of(ids) == (3, 5)
    assert len(transfers) == 1
    assert grids.of(ids.clone()) == (3, 5)
    assert len(transfers) == 2
