"""LocalizedResiduals on Flux: against hooks that restate it, and what it must leave as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from concepts import BLUE, RED, residual_for
from tiny_models import TINY, TinyModel
from torch import Tensor

import weft
from weft.attach.projections import GatedProjection

BOX = (8, 0, 32, 16)  # pixels of 32 x 48, on the borders of tokens


@contextmanager
def added(pipe: Any, model: TinyModel, residual: weft.Residual, box: Any = None) -> Iterator[None]:
    """Hooks that add a residual to the rows of ``box``, restated; everywhere without one."""
    token = 2 * pipe.vae_scale_factor
    mask = torch.ones(model.options["height"] // token, model.options["width"] // token)
    if box is not None:
        left, top, right, bottom = (side // token for side in box)
        mask.zero_()[top:bottom, left:right] = 1

    def add(name: str) -> Any:
        def hook(module: Any, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            down, up = (factor[name].to(out) for factor in (residual.down, residual.up))
            gate = out.new_ones(out.shape[1])
            if box is not None:
                text = model.options["max_sequence_length"] if name.startswith("single") else 0
                gate.zero_()[text : text + mask.numel()] = mask.flatten().to(out)  # references come last
            return out + gate[:, None] * (args[0] @ down.T @ up.T)

        return hook

    hooks = [pipe.transformer.get_submodule(name).register_forward_hook(add(name)) for name in residual.down]
    yield
    for hook in hooks:
        hook.remove()


def residual_of(pipe: Any, words: tuple[str, str] = RED) -> weft.Residual:
    return residual_for(pipe, words)


@pytest.mark.parametrize("box", [None, BOX], ids=["everywhere", "box"])
@pytest.mark.parametrize("name", ["flux", "flux-schnell", "flux-kontext"])
def test_equals_its_restatement(name: str, box: Any) -> None:
    model = TINY[name]
    pipe = model.build()
    residual = residual_of(pipe)
    stock = model.generate(pipe, output_type="latent")
    with added(pipe, model, residual, box):
        expected = model.generate(pipe, output_type="latent")
    with weft.attach(pipe, control := weft.LocalizedResiduals(residual, "none" if box is None else box)):
        found = model.generate(pipe, output_type="latent")
    assert (expected - stock).abs().max() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    shown = control.masks["red circle"][0]
    left, top, right, bottom = (
        (0, 0, *reversed(shown.shape)) if box is None else (s // pipe.vae_scale_factor for s in box)
    )
    inside = torch.zeros_like(shown)
    inside[top:bottom, left:right] = 1
    assert torch.equal(shown, inside)


def test_rows_outside_the_box_keep_their_bits_in_every_block() -> None:
    model = TINY["flux"]
    pipe = model.build()
    seen = []

    def compare(module: Any, args: tuple[Tensor], out: Tensor) -> None:
        plain, is_open = module.host_class.forward(module, args[0]), module.terms.gate[..., 0].ne(0)
        assert is_open.shape == out.shape[:2]
        seen.append((torch.equal(out[~is_open], plain[~is_open]), (out != plain)[is_open].float().mean().item()))

    with weft.attach(pipe, weft.LocalizedResiduals(residual_of(pipe), BOX)):
        for module in [m for m in pipe.transformer.modules() if isinstance(m, GatedProjection)]:
            module.register_forward_hook(compare)
        model.generate(pipe)
    assert len(seen) == 2 * 4 and all(is_kept for is_kept, _ in seen) and min(share for _, share in seen) > 0.99


def test_the_pass_of_the_negative_prompt_is_left_to_the_model() -> None:
    model = TINY["flux"]
    pipe = model.build()
    acted: list[bool] = []
    call = {"negative_prompt": "a green ball", "true_cfg_scale": 3.0}
    for cfg, expected in (("conditional", [True, False] * 2), ("both", [True] * 4)):
        acted.clear()
        with weft.attach(pipe, weft.LocalizedResiduals(residual_of(pipe), BOX, cfg=cfg)):
            module = pipe.transformer.single_transformer_blocks[0].proj_out
            hook = module.register_forward_hook(lambda module, *_: acted.append(module.terms is not None))
            model.generate(pipe, **call)
            hook.remove()
        assert acted == expected


def test_two_concepts_in_two_boxes_and_nothing_at_scale_0() -> None:
    model = TINY["flux"]
    pipe = model.build()
    residuals = [residual_of(pipe, RED), residual_of(pipe, BLUE)]
    boxes = [BOX, (32, 16, 48, 32)]
    with added(pipe, model, residuals[0], boxes[0]), added(pipe, model, residuals[1], boxes[1]):
        expected = model.generate(pipe, output_type="latent")
    stock = model.generate(pipe, output_type="latent")
    control = weft.LocalizedResiduals(residuals, boxes)
    with weft.attach(pipe, control):
        found = model.generate(pipe, output_type="latent")
        control.scale = 0.0
        closed = model.generate(pipe, output_type="latent")
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(closed, stock)


def test_what_flux_does_not_serve_is_refused() -> None:
    pipe = TINY["flux"].build()
    residual = residual_of(pipe)
    with pytest.raises(ValueError, match=r"localize='attention' reads .*; use localize='none', masks or boxes"):
        weft.attach(pipe, weft.LocalizedResiduals(residual))
    assert not any(isinstance(module, GatedProjection) for module in pipe.transformer.modules())
    wider = TINY["flux"].build.func(num_attention_heads=4)
    with pytest.raises(ValueError, match="has width 32 there and 64 here"):
        weft.attach(wider, weft.LocalizedResiduals(residual, "none"))
