"""Residuals within a UNet: where they are added, against a walk through the modules, and that nothing stays."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import branches
import pytest
import tiny_pipelines as tiny
import torch
from torch import Tensor

import weft
from weft import shapes
from weft.attach import Control, DenoiserCall, Step, place_widths, places
from weft.attach.injection import Injection
from weft.testing import assert_differs
from weft.testing.branch_eager import branch_residuals, denoised, walk


class Adding(Control):
    """Adds what it is given."""

    adds_at_places: ClassVar[bool] = True

    def __init__(self, residuals: Sequence[Tensor] | None) -> None:
        self.residuals = residuals
        self.samples: list[Tensor] = []

    def add_at_places(self, call: DenoiserCall, step: Step) -> Sequence[Tensor] | None:
        self.samples.append(call.sample)
        return self.residuals


@torch.no_grad()
def noise(unet: Any, sample: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
    return unet(sample, timestep, encoder_hidden_states=text).sample


class Around(Adding):
    """Wraps the calls as well."""

    is_attached: bool | None = None

    def wrap_calls(self, pipeline: Any) -> Any:
        return lambda run, arguments: run(**arguments)

    def attached(self, layers: Any) -> None:
        self.is_attached = True

    def detached(self) -> None:
        self.is_attached = False


def random_residuals(unet: Any, batch: int = 2, side: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        taps, _ = walk(unet, *branches.inputs(batch, side=side))
    return [torch.randn(tap.shape, generator=generator) for tap in taps]


def test_places_of_stable_diffusion() -> None:
    unet = branches.unet()
    found = places(unet)
    middle = found.index("mid_block")
    assert (middle, len(found) - middle - 1) == (12, 15)
    assert found[:4] == (
        "conv_in",
        "down_blocks.0.attentions.0",
        "down_blocks.0.attentions.1",
        "down_blocks.0.downsamplers.0",
    )
    assert found[10:16] == (
        "down_blocks.3.resnets.0",
        "down_blocks.3.resnets.1",
        "mid_block",
        "up_blocks.0.resnets.0",
        "up_blocks.0.resnets.1",
        "up_blocks.0.resnets.2",
    )
    assert found[-1] == "up_blocks.3.attentions.2"
    assert list(place_widths(unet).values())[:4] == [32, 32, 32, 32] and place_widths(unet)["mid_block"] == 64


@pytest.mark.parametrize("side", [16, 24, 20])
def test_residuals_are_added_where_the_walk_adds_them(side: int) -> None:
    unet, given = branches.unet(), branches.inputs(side=side)
    residuals = random_residuals(unet, side=side)
    with torch.no_grad():
        expected = denoised(unet, *given, residuals)
    with weft.attach(unet, Adding(residuals)):
        found = noise(unet, *given)
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(noise(unet, *given), expected, atol=1e-2)


def test_every_place_counts() -> None:
    """The residual of one place alone, for every place; each of them changes what is found."""
    unet, given = branches.unet(), branches.inputs(batch=1, side=8)
    residuals, stock = random_residuals(unet, batch=1, side=8), noise(unet, *given)
    control = Adding(None)
    with weft.attach(unet, control):
        for place, name in enumerate(places(unet)):
            control.residuals = [x if index == place else torch.zeros_like(x) for index, x in enumerate(residuals)]
            with torch.no_grad():
                expected = denoised(unet, *given, control.residuals)
            assert torch.allclose(noise(unet, *given), expected, atol=1e-4, rtol=1e-4), name
            assert (stock - expected).abs().max() > 1e-3, name


def test_the_first_skip_starts_before_its_residual() -> None:
    unet, given = branches.unet(), branches.inputs()
    residuals = [torch.zeros_like(residual) for residual in random_residuals(unet)]
    residuals[0] += 1
    seen = []
    last = unet.up_blocks[-1]
    hook = last.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["res_hidden_states_tuple"][0]), with_kwargs=True
    )
    noise(unet, *given)
    with weft.attach(unet, Adding(residuals)):
        noise(unet, *given)
    hook.remove()
    assert torch.equal(seen[0], seen[1])


def test_zeros_change_no_bit() -> None:
    unet, given = branches.unet(), branches.inputs()
    stock = noise(unet, *given)
    for residuals in (None, [torch.zeros_like(residual) for residual in random_residuals(unet)]):
        with weft.attach(unet, Adding(residuals)):
            assert torch.equal(noise(unet, *given), stock)


def test_a_branch_is_what_its_walk_is() -> None:
    unet = branches.unet()
    branch, given = branches.branch(unet), branches.inputs(channels=9)
    with torch.no_grad():
        found, expected = branch(*given), branch_residuals(branch, *given)
    assert len(found) == branches.PLACES
    for name, mine, theirs in zip(branch.places, found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4, rtol=1e-4), name


def test_nothing_stays() -> None:
    unet, given = branches.unet(), branches.inputs()
    stock, residuals = noise(unet, *given), random_residuals(unet)
    control = Adding(residuals)
    attachment = weft.attach(unet, control)
    twin = copy.deepcopy(unet)
    assert torch.equal(noise(twin, *given), stock), "a copy takes no residual along"
    attachment.remove(control)
    assert torch.equal(noise(unet, *given), stock)
    attachment.add(control)
    attachment.reset()
    assert_differs(noise(unet, *given), stock)
    attachment.detach()
    assert torch.equal(noise(unet, *given), stock)
    for name, module in unet.named_modules():
        assert not module._forward_hooks and not module._forward_pre_hooks, name
        assert not module._forward_pre_hooks_with_kwargs, name


def test_the_residuals_of_a_pass_are_let_go() -> None:
    unet, given = branches.unet(), branches.inputs()
    with weft.attach(unet, Adding(random_residuals(unet))) as attachment:
        noise(unet, *given)
        held = [hook for module in unet.modules() for hook in module._forward_hooks.values()]
        assert all(getattr(hook, "residual", None) is None for hook in held)
        assert len(attachment.controls) == 1


def test_half_precision_residuals_are_cast() -> None:
    unet, given = branches.unet(), branches.inputs()
    with weft.attach(unet, Adding([residual.double() for residual in random_residuals(unet)])):
        assert noise(unet, *given).dtype == torch.float32


def test_what_is_refused() -> None:
    unet, given = branches.unet(), branches.inputs()
    residuals = random_residuals(unet)
    with weft.attach(unet, Adding(residuals[:-1])), pytest.raises(ValueError, match="each of 28 places; got 27"):
        noise(unet, *given)
    both = Adding(residuals), Adding(residuals)
    with weft.attach(unet, *both), pytest.raises(ValueError, match="one control at most may add within the UNet"):
        noise(unet, *given)
    with weft.attach(unet, Adding(residuals), Adding(None)):
        noise(unet, *given)
    with pytest.raises(ValueError, match=r"a UNet of Stable Diffusion alone; Linear lacks"):
        Injection(torch.nn.Linear(2, 2))


def test_a_model_without_places_is_left_as_it_was() -> None:
    pipe = shapes.pipeline("sd3")
    stock, control = type(pipe), Around(None)
    attachment = weft.attach(pipe)
    with pytest.raises(ValueError, match="a UNet of Stable Diffusion alone"):
        attachment.add(control)
    assert control.is_attached is False and not attachment.controls
    attachment.detach()
    assert type(pipe) is stock


def test_beside_a_compiled_unet() -> None:
    unet, given = tiny.unet(), branches.inputs(side=8)
    residuals = random_residuals(unet, side=8)
    with torch.no_grad():
        expected = denoised(unet, *given, residuals)
    with weft.attach(unet, Adding(residuals)):
        compiled = torch.compile(unet, backend="eager")
        for _ in range(2):
            assert torch.allclose(noise(compiled, *given), expected, atol=1e-4, rtol=1e-4)


def test_beside_other_controls(tmp_path: Any) -> None:
    """Maps and residuals in one pass; the sampler's passes are reported to the control."""
    pipe = tiny.sd1(tmp_path)
    control, maps = Adding(None), weft.AttentionMaps(["circle"])
    with weft.attach(pipe, control, maps):
        tiny.generate(pipe)
    assert len(control.samples) == 3 and control.samples[0].shape[1] == 4
    assert len(list(maps.maps)) == 1
