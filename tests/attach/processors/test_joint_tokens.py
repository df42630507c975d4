"""Tokens added in joint blocks: against stock blocks given a longer text, of which the tokens are dropped again."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import tiny_joint as tiny
import torch
import torch.nn.functional as F
from torch import Tensor

import weft
from weft.attach import Control, ExtraText, LayerInfo, LayerRequest, Step
from weft.ops import Edit
from weft.testing import assert_differs

TOKENS = 3


class Adding(Control):
    """Adds the set ``row`` of a block's own bank, or of the same for all."""

    def __init__(self, banks: Sequence[Tensor], row: int = 0, space: Any = "block") -> None:
        row_ = torch.tensor([row])
        self.requests = [LayerRequest(extra=ExtraText(bank, row_, space)) for bank in banks]

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        block = int(layer.name.split(".")[1])
        return self.requests[block] if layer.is_joint and block < len(self.requests) else None


@contextmanager
def inserted(model: Any, tokens: Sequence[Tensor]) -> Iterator[None]:
    """The released way: tokens [m, BLOCK] are before the text of their block, and are dropped behind it."""

    def insert(mine: Tensor, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        text = kwargs["encoder_hidden_states"]
        return args, {**kwargs, "encoder_hidden_states": torch.cat([mine.expand(len(text), -1, -1), text], 1)}

    def drop(block: Any, args: tuple[Any, ...], output: tuple[Any, Tensor]) -> tuple[Any, Tensor]:
        text, image = output
        return (None if text is None else text[:, TOKENS:]), image

    handles = []
    for block, mine in zip(model.transformer_blocks, tokens, strict=False):
        handles.append(block.register_forward_pre_hook(functools.partial(insert, mine), with_kwargs=True))
        handles.append(block.register_forward_hook(drop))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def banks(blocks: int, width: int = tiny.BLOCK) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(2, TOKENS, width, generator=generator) for _ in range(blocks)]


KINDS = pytest.mark.parametrize("config", [tiny.SD3, tiny.SD35], ids=["sd3", "sd3.5"])


@KINDS
@pytest.mark.parametrize("blocks", [1, 2, 3])  # the third is the last, whose text goes no further
@pytest.mark.parametrize("row", [0, 1])
def test_they_are_a_longer_text_whose_end_is_dropped(config: dict[str, Any], blocks: int, row: int) -> None:
    model, mine = tiny.transformer(**config), banks(blocks)
    stock = tiny.call(model)
    with inserted(model, [bank[row] for bank in mine]):
        expected = tiny.call(model)
    assert (expected - stock).abs().max() > 1e-3
    with weft.attach(model, adding := Adding(mine, row)) as attachment:
        torch.testing.assert_close(tiny.call(model), expected, atol=2e-6, rtol=1e-5)
        attachment.remove(adding)
        assert torch.equal(tiny.call(model), stock)
        attachment.add(adding)
    assert torch.equal(tiny.call(model), stock)
    assert not any(block.norm1_context._forward_hooks for block in model.transformer_blocks)
    assert not any(block.norm1_context._forward_pre_hooks for block in model.transformer_blocks)


def test_they_are_keys_and_values_alone() -> None:
    """No query, no way out of the attention, and a stream of text as long as ever."""
    model, seen = tiny.transformer(**tiny.SD35), dict[str, list[int]]()
    block = model.transformer_blocks[0]
    watched = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    modules = {**{name: getattr(block.attn, name) for name in watched}, "ff_context": block.ff_context}
    for name, module in modules.items():

        def see(module: Any, args: Any, out: Tensor, name: str = name) -> None:
            seen.setdefault(name, []).append(out.shape[1])

        module.register_forward_hook(see)
    with weft.attach(model, Adding(banks(1))):
        tiny.call(model)
    both = {"add_k_proj", "add_v_proj"}
    assert seen == {name: [tiny.TEXT, TOKENS] if name in both else [tiny.TEXT] for name in modules}


def test_in_the_space_of_the_conditioning_they_pass_its_projection() -> None:
    model, mine = tiny.transformer(**tiny.SD35), banks(2, tiny.CONDITIONING)
    with torch.no_grad(), inserted(model, [model.context_embedder(bank[0]) for bank in mine]):
        expected = tiny.call(model)
    with weft.attach(model, Adding(mine, space="conditioning")):
        torch.testing.assert_close(tiny.call(model), expected, atol=2e-6, rtol=1e-5)


def test_every_row_has_its_own_modulation() -> None:
    model, mine = tiny.transformer(**tiny.SD35), banks(2)
    arguments = tiny.inputs(3, timestep=[900.0, 400.0, 10.0])
    with torch.no_grad(), weft.attach(model, Adding(mine)):
        together = model(**arguments).sample
        for row in range(3):
            alone = model(**{name: value[row : row + 1] for name, value in arguments.items()}).sample
            torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)


def test_fused_projections() -> None:
    """Stock leaves the norms of queries and keys out there, and so does weft."""
    model, mine = tiny.transformer(qk_norm="rms_norm"), banks(2)
    model.fuse_qkv_projections()
    stock = tiny.call(model)
    with inserted(model, [bank[0] for bank in mine]):
        expected = tiny.call(model)
    with weft.attach(model, adding := Adding(mine)) as attachment:
        torch.testing.assert_close(tiny.call(model), expected, atol=2e-6, rtol=1e-5)
        attachment.remove(adding)
        assert torch.equal(tiny.call(model), stock)


class Muting(Control):
    """Takes the second word of the text away from the image, and reads all words."""

    def __init__(self) -> None:
        self.table = torch.tensor([[[0.0, -torch.inf]]])
        self.labels = torch.zeros(1, tiny.TEXT, dtype=torch.int32)
        self.labels[:, 1] = 1
        self.maps: list[Tensor] = []

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        if not layer.is_joint:
            return None
        readout = torch.eye(step.seqlen_k)[None]
        return LayerRequest(Edit(delta=self.table), key_labels=self.labels, readout=readout)

    def read_maps(self, layer: LayerInfo, step: Step, maps: Tensor) -> None:
        self.maps.append(maps)


def test_edits_and_read_outs_pass_them_over() -> None:
    model, mine = tiny.transformer(**tiny.SD35), banks(3)
    with inserted(model, [bank[0] for bank in mine]):
        expected = tiny.call(model)
    with weft.attach(model, muting := Muting(), Adding(mine)):
        assert (tiny.call(model) - expected).abs().max() > 1e-3
        assert [maps.shape for maps in muting.maps] == [(2, 16, tiny.TEXT)] * 3
        assert all(bool((maps[..., 1] == 0).all()) for maps in muting.maps)
        muting.table.fill_(0)  # tables may be written into between passes
        torch.testing.assert_close(tiny.call(model), expected, atol=1e-5, rtol=1e-5)


def test_masked_out_they_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their keys out of everybody's sight, the image's and the text's: the images are those without them."""
    model, mine = tiny.transformer(**tiny.SD35), banks(2)
    stock = tiny.call(model)

    sdpa = F.scaled_dot_product_attention

    def blind(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        seen = torch.arange(key.shape[2]) < query.shape[2]
        return sdpa(query, key, value, **{**options, "attn_mask": seen[None, None, None]})

    with weft.attach(model, Adding(mine)):
        monkeypatch.setattr(F, "scaled_dot_product_attention", blind)
        torch.testing.assert_close(tiny.call(model), stock, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("space", ["block", "conditioning"])
def test_gradients_reach_them_and_nothing_else(space: Any, checkpointing: bool) -> None:
    model = tiny.transformer(**tiny.SD35).requires_grad_(False)
    width = tiny.BLOCK if space == "block" else tiny.CONDITIONING
    one, other = ([bank.clone().requires_grad_() for bank in banks(3, width)] for _ in range(2))
    if checkpointing:
        model.enable_gradient_checkpointing()
        model.train()
    arguments = tiny.inputs(timestep=[900.0, 400.0])
    with weft.attach(model, Adding(one, space=space)):
        model(**arguments).sample.square().mean().backward()
    model.disable_gradient_checkpointing()
    embed = model.context_embedder if space == "conditioning" else torch.nn.Identity()
    with inserted(model, [embed(bank[0]) for bank in other]):
        model(**arguments).sample.square().mean().backward()
    for mine, theirs in zip(one, other, strict=True):
        assert mine.grad is not None and theirs.grad is not None and mine.grad.abs().max() > 1e-6
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-7, rtol=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_copy_of_the_model_knows_nothing_of_them() -> None:
    model = tiny.transformer(**tiny.SD35)
    stock = tiny.call(model)
    with weft.attach(model, Adding(banks(2))):
        assert_differs(tiny.call(model), stock)
        assert torch.equal(tiny.call(copy.deepcopy(model)), stock)


def test_the_second_attention_has_no_text() -> None:
    class Everywhere(Adding):
        def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
            return self.requests[0]

    model = tiny.transformer(**tiny.SD35)
    with (
        weft.attach(model, Everywhere(banks(1))),
        pytest.raises(ValueError, match=r"cross-attention alone; transformer_blocks\.0\.attn2 sees no text"),
    ):
        tiny.call(model)
