"""Projections taken over: what they add, what they leave alone, and what they give back."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from compiled_graphs import CompiledGraphs
from torch import nn

from weft.attach import GatedProjections, ProjectionTerms, find_projections

RANK = 3


@pytest.fixture(params=["sd1", "sd2"])
def model(request: pytest.FixtureRequest) -> Any:
    """The convolution form and the linear form."""
    torch.manual_seed(0)
    return tiny.unet({"sd1": tiny.SD1, "sd2": tiny.SD2}[request.param])


def call(model: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(2, 4, 16, 16, generator=generator).to(dtype)
    text = torch.randn(2, 7, 32, generator=generator).to(dtype)
    with torch.no_grad():
        return model(sample, torch.tensor(500), text).sample


def factors(projections: GatedProjections, dtype: torch.dtype = torch.float32) -> dict[str, ProjectionTerms]:
    generator = torch.Generator().manual_seed(2)
    return {
        info.name: ProjectionTerms(
            torch.randn(RANK, info.width, generator=generator, dtype=dtype) / info.width**0.5,
            torch.randn(info.width, RANK, generator=generator, dtype=dtype),
        )
        for info in projections.infos
    }


def merged(model: Any, terms: dict[str, ProjectionTerms]) -> Any:
    """A copy of ``model`` with W + B A in place of W."""
    model = copy.deepcopy(model)
    for name, term in terms.items():
        weight = model.get_submodule(name).weight
        weight.data += (term.up.to(weight.dtype) @ term.down.to(weight.dtype)).view_as(weight)
    return model


def test_finds_every_block_of_sd1() -> None:
    with torch.device("meta"):
        model = tiny.UNet2DConditionModel(cross_attention_dim=768)  # the defaults are otherwise those of SD1.x
    infos = find_projections(model)
    assert [sum(info.width == width for info in infos) for width in (320, 640, 1280)] == [5, 5, 6]
    assert all(info.is_convolution and isinstance(model.get_submodule(info.name), nn.Conv2d) for info in infos)


def test_without_terms_nothing_changes(model: Any) -> None:
    stock, keys = call(model), list(model.state_dict())
    parameters = {name: id(value) for name, value in model.named_parameters()}
    with GatedProjections(model):
        assert torch.equal(call(model), stock)
        assert list(model.state_dict()) == keys
        assert {name: id(value) for name, value in model.named_parameters()} == parameters


def test_undo_is_exact(model: Any) -> None:
    def snapshot() -> dict[str, Any]:
        return {name: (id(part), type(part), sorted(part.__dict__)) for name, part in model.named_modules()}

    before, stock = snapshot(), call(model)
    projections = GatedProjections(model)
    for name, terms in factors(projections).items():
        projections[name].terms = terms
    assert not torch.allclose(call(model), stock, atol=1e-2)
    projections.undo()
    projections.undo()
    assert snapshot() == before
    assert torch.equal(call(model), stock)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_open_terms_equal_merged_weights(model: Any, channels_last: bool) -> None:
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    with GatedProjections(model) as projections:
        terms = factors(projections)
        expected = call(merged(model, terms))
        for name, projection in projections.items():
            projection.terms = terms[name]
        torch.testing.assert_close(call(model), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("keeps_base", [False, True])
def test_a_gate_blends_two_projections_pixel_by_pixel(model: Any, keeps_base: bool) -> None:
    """(1 - M) (W x + b) + M ((W + B A) x + b) in float64."""
    model = model.double()
    with GatedProjections(model) as projections:
        name = projections.infos[0].name
        projection, term = projections[name], factors(projections, torch.float64)[name]
        x = torch.randn(2, 16, 6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        mask = (torch.rand(2, 30, 1, generator=torch.Generator().manual_seed(4)) < 0.5).double()
        is_image = projections.infos[0].is_convolution
        x, blend = (x, mask.view(2, 1, 6, 5)) if is_image else (x.flatten(2).transpose(1, 2), mask)
        plain, full = projection(x), merged(model, {name: term}).get_submodule(name)(x)
        projection.terms = ProjectionTerms(term.down, term.up, gate=mask, keeps_base=keeps_base)
        y = projection(x)
        torch.testing.assert_close(y, (1 - blend) * plain + blend * full, atol=1e-11, rtol=0)
        if keeps_base:
            closed = (blend == 0).expand_as(y)
            assert torch.equal(y[closed], plain[closed])


def test_a_closed_gate_that_keeps_the_base_gives_its_bits(model: Any) -> None:
    stock = call(model)
    with GatedProjections(model) as projections:
        for name, term in factors(projections).items():
            projections[name].terms = ProjectionTerms(term.down, term.up, gate=torch.zeros(1), keeps_base=True)
        assert torch.equal(call(model), stock)


def test_only_terms_receive_gradients(model: Any) -> None:
    model.requires_grad_(False)
    with GatedProjections(model) as projections:
        terms = factors(projections)
        for name, term in terms.items():
            term.down.requires_grad_(), term.up.requires_grad_()
            projections[name].terms = term
        model(torch.randn(1, 4, 16, 16), 500, torch.randn(1, 7, 32)).sample.square().mean().backward()
    assert min(factor.grad.abs().max() for term in terms.values() for factor in (term.down, term.up)) > 1e-6
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("when", ["before", "after"])
def test_peft_layers_around_a_projection_go_on_working(model: Any, when: str) -> None:
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=r".*attentions\.\d+\.proj_out", init_lora_weights=False)
    if when == "before":
        torch.manual_seed(5)
        model.add_adapter(config)
    projections = GatedProjections(model)
    if when == "after":
        torch.manual_seed(5)
        model.add_adapter(config)
    wrapped = call(model)
    for name, term in factors(projections).items():
        projections[name].terms = term
    both = call(model)
    model.disable_adapters()
    ours = call(model)
    projections.undo()
    neither = call(model)
    model.enable_adapters()
    assert torch.equal(call(model), wrapped)
    assert all(not torch.allclose(one, both, atol=1e-3) for one in (wrapped, ours, neither))
    assert not torch.allclose(ours, neither, atol=1e-3)


class Int8Linear(nn.Linear):
    """A quantised layer in small: its weight is integers that only it can read."""

    def __init__(self, host: nn.Linear) -> None:
        super().__init__(host.in_features, host.out_features)
        self.scale = host.weight.abs().max() / 127
        self.weight = nn.Parameter((host.weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = host.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


def test_a_quantised_layer_runs_itself() -> None:
    torch.manual_seed(0)
    model = tiny.unet(tiny.SD2)
    for info in find_projections(model):
        block = model.get_submodule(info.name.removesuffix(".proj_out"))
        block.proj_out = Int8Linear(block.proj_out)
    stock = call(model)
    with GatedProjections(model) as projections:
        assert torch.equal(call(model), stock)
        name = projections.infos[0].name
        projection, term = projections[name], factors(projections)[name]
        x = torch.randn(2, 30, 16)
        expected = Int8Linear.forward(projection, x) + x @ term.down.T @ term.up.T
        projection.terms = term
        torch.testing.assert_close(projection(x), expected)
    assert type(model.get_submodule(name)) is Int8Linear


def test_autocast_is_obeyed(model: Any) -> None:
    with GatedProjections(model) as projections:
        name = projections.infos[0].name
        projections[name].terms = factors(projections)[name]
        x = torch.randn(2, 16, 6, 5) if projections.infos[0].is_convolution else torch.randn(2, 30, 16)
        exact = projections[name](x)
        with torch.autocast("cpu", torch.bfloat16):
            y = projections[name](x)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), exact, atol=0.1, rtol=0.05)


def test_a_device_without_values(model: Any) -> None:
    model = model.to("meta")
    with GatedProjections(model) as projections:
        info = projections.infos[0]
        down, up = torch.empty(RANK, info.width, device="meta"), torch.empty(info.width, RANK, device="meta")
        projections[info.name].terms = ProjectionTerms(down, up)
        x = torch.empty((2, 16, 6, 5) if info.is_convolution else (2, 30, 16), device="meta")
        assert projections[info.name](x).shape == x.shape


@pytest.mark.parametrize("copied", ["deepcopy", "pickle"])
def test_a_copy_is_a_stock_model(model: Any, copied: str) -> None:
    stock = call(model)
    with GatedProjections(model) as projections:
        for name, terms in factors(projections).items():
            projections[name].terms = terms
        twin = copy.deepcopy(model) if copied == "deepcopy" else pickle.loads(pickle.dumps(model))
        assert "terms" in projections[projections.infos[0].name].__dict__
    assert [type(part) for part in twin.modules()] == [type(part) for part in model.modules()]
    assert torch.equal(call(twin), stock)


def test_taking_over_twice_and_owned_forwards_are_refused(model: Any) -> None:
    infos = find_projections(model)
    projections = GatedProjections(model)
    with pytest.raises(ValueError, match="taken over already; undo or detach"):
        GatedProjections(model)
    projections.undo()
    last = model.get_submodule(infos[-1].name)
    last.forward = last.forward  # as accelerate's offloading does
    with pytest.raises(ValueError, match=rf"owns the forward of {infos[-1].name}"):
        GatedProjections(model)
    del last.forward
    with GatedProjections(model):  # nothing was left half done
        pass


def test_a_hook_that_kept_our_forward_does_no_harm(model: Any) -> None:
    stock = call(model)
    projections = GatedProjections(model)
    for projection in projections.values():
        projection.forward = projection.forward  # type: ignore[method-assign]
    projections.undo()
    assert torch.equal(call(model), stock)


def test_a_model_without_projections_is_reported() -> None:
    with pytest.raises(ValueError, match=r"blocks named `attentions.<n>`.* AutoencoderKL has none"):
        find_projections(tiny.vae())


# --- compiling ----------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
def test_new_terms_and_gates_recompile_nothing(fresh_compiler: None) -> None:
    graphs = CompiledGraphs()
    torch.manual_seed(0)
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    model = tiny.unet(**blocks, mid_block_type=None, block_out_channels=(16,))
    compiled = torch.compile(model, backend=graphs)
    with GatedProjections(model) as projections:

        def terms(seed: int) -> ProjectionTerms:
            generator = torch.Generator().manual_seed(seed)
            down, up = torch.randn(4, 16, generator=generator), torch.randn(16, 4, generator=generator)
            return ProjectionTerms(down, up, ranks=(2, 2), gate=torch.ones(2, 256, 2))

        for projection in projections.values():
            projection.terms = terms(0)
        torch.testing.assert_close(call(compiled), call(model), atol=1e-4, rtol=1e-4)
        before, opened = len(graphs), call(compiled)
        for projection in projections.values():
            projection.terms.gate[:, :100] = 0.0  # in place
        torch.testing.assert_close(call(compiled), call(model), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(call(compiled), opened, atol=1e-3)
        for projection in projections.values():
            projection.terms = terms(1)
        torch.testing.assert_close(call(compiled), call(model), atol=1e-4, rtol=1e-4)
        assert len(graphs) == before
