"""What every control promises on every family it serves; a further family or method joins by one row.

Controls are in ``support/controls.py``, families in ``support/hosts.py``.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import CONTROLS, Case
from hosts import HOSTS, Host
from torch import Tensor

import weft
from weft.attach.families import FAMILIES, family_of, flux

CELLS = [(host, name) for host in HOSTS for name, case in CONTROLS.items() if host not in case.refused]
REFUSALS = [(host, name) for name, case in CONTROLS.items() for host in case.refused]


class Cell:
    """One control on one family: a pipeline, and pictures drawn with it."""

    def __init__(self, host: str, name: str, folder: Path) -> None:
        self.host: Host = HOSTS[host]
        self.case: Case = CONTROLS[name]
        self.pipe = self.case.build.get(host, self.host.build)(folder)
        self.control = self.case.make(self.pipe)
        self.denoiser = self.host.denoiser(self.pipe)

    def draw(self, control: Any | None = None, **changes: Any) -> Tensor:
        """What is drawn with ``control`` attached; without one, by the stock pipeline."""
        if control is None:
            return self._draw(self._stock_call(), **changes)
        with weft.attach(self.pipe, control):
            return self._draw(self.call(control), **changes)

    def call(self, control: Any) -> dict[str, Any]:
        return {} if self.case.call is None else self.case.call(control)

    def _stock_call(self) -> dict[str, Any]:
        """The same call, of a pipeline that does not know the control."""
        with weft.attach(self.pipe, self.control):
            given = self.call(self.control)
        return {name: value for name, value in given.items() if "task" not in name}

    def _draw(self, call: dict[str, Any], **changes: Any) -> Tensor:
        return torch.as_tensor(self.host.draw(self.pipe, **{**call, **changes}))


@pytest.fixture
def cell(request: pytest.FixtureRequest, tmp_path: Path) -> Cell:
    return Cell(*request.param, tmp_path)


every_cell = pytest.mark.parametrize("cell", CELLS, ids="-".join, indirect=True)


def test_every_public_control_has_a_row() -> None:
    public = [name for name in weft.__all__ if isinstance(getattr(weft, name), type)]
    tried = {name.partition(" by ")[0] for name in CONTROLS}  # some are tried in several ways
    assert {name for name in public if issubclass(getattr(weft, name), weft.attach.Control)} == tried


def test_every_family_has_a_row(tmp_path: Path) -> None:
    built = {family_of(host.denoiser(host.build(tmp_path / name))) for name, host in HOSTS.items()}
    # the whole matrix takes minutes; what is built like Flux is tried in tests/attach/test_families.py
    assert built == set(FAMILIES) - set(flux.FAMILIES) | {flux.FLUX}


def state_of(model: Any) -> dict[str, Any]:
    """Everything that an attachment could have touched, by identity."""
    return {
        name: (
            type(module),
            sorted(module.__dict__),
            id(getattr(module, "processor", None)),
            [list(hooks) for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)],
        )
        for name, module in model.named_modules()
    }


@every_cell
def test_acts_while_it_is_attached_and_leaves_nothing(cell: Cell) -> None:
    stock = cell.draw()
    before, pipeline = state_of(cell.denoiser), (type(cell.pipe), sorted(cell.pipe.__dict__))
    drawn = cell.draw(cell.control)
    largest = (drawn - stock).abs().max().item() / stock.abs().max().item()
    # a read-out may change rounding; what acts must be far above it
    assert largest > 1e-3 if cell.case.acts else largest < 1e-4
    assert state_of(cell.denoiser) == before
    assert (type(cell.pipe), sorted(cell.pipe.__dict__)) == pipeline
    assert torch.equal(cell.draw(), stock)


@every_cell
def test_leaves_nothing_after_an_exception(cell: Cell) -> None:
    stock = cell.draw()
    before = state_of(cell.denoiser)

    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cell.draw(cell.control, callback_on_step_end=fail)
    assert state_of(cell.denoiser) == before
    assert torch.equal(cell.draw(), stock)


def _pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@every_cell
@pytest.mark.parametrize("copied", [copy.deepcopy, _pickled], ids=["deepcopy", "pickle"])
def test_a_copy_acts_as_the_control(cell: Cell, copied: Callable[[Any], Any]) -> None:
    drawn = cell.draw(cell.control)
    assert torch.equal(cell.draw(copied(cell.control)), drawn)


@every_cell
def test_a_copy_of_the_model_is_stock(cell: Cell) -> None:
    stock = cell.draw()
    with weft.attach(cell.pipe, cell.control):
        cell._draw(cell.call(cell.control))
        other = copy.deepcopy(cell.denoiser)
    setattr(cell.pipe, cell.host.part, other)
    assert torch.equal(cell.draw(), stock)


@every_cell
def test_a_batch_of_two_is_two_single_pictures(cell: Cell) -> None:
    seeds = (3, 4)
    single = [cell.draw(cell.control, generator=_generator(seed)) for seed in seeds]
    both = cell.draw(cell.control, generator=[_generator(seed) for seed in seeds], num_images_per_prompt=2)
    scale = both.abs().max().item()
    assert (both - torch.cat(single)).abs().max().item() <= 1e-4 * scale


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@every_cell
def test_acts_without_guidance(cell: Cell) -> None:
    options = {"guidance_scale": 1.0}
    with_control, stock = cell.draw(cell.control, **options), cell.draw(**options)
    largest = (with_control - stock).abs().max().item() / stock.abs().max().item()
    assert largest > 1e-3 if cell.case.acts else largest < 1e-4


def _in_one_pass_and_in_two(cell: Cell) -> tuple[Tensor, Tensor]:
    """What the denoiser predicts, or the maps: negative prompt and prompt in one batch, and one after the other."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for is_split in (False, True):
        with weft.attach(cell.pipe, cell.control), torch.no_grad():
            rows = cell.host.rows(cell.pipe, generator.manual_seed(5))
            passes = [slice(0, 1), slice(1, 2)] if is_split else [slice(0, 2)]
            for step in (900, 600):
                parts = [
                    cell.host.predict(cell.denoiser, {name: value[part] for name, value in rows.items()}, step)
                    for part in passes
                ]
            found.append(torch.cat(parts) if cell.case.acts else cell.control.maps["circle"])
    return found[0], found[1]


SPLIT = [pytest.param((host, name), id=f"{host}-{name}") for host, name in CELLS if CONTROLS[name].call is None]


@pytest.mark.parametrize("cell", SPLIT, indirect=True)
def test_guidance_in_two_passes_is_guidance_in_one(cell: Cell) -> None:
    one, two = _in_one_pass_and_in_two(cell)
    assert (one - two).abs().max().item() <= 1e-4 * one.abs().max().item()


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# the smallest model has its compile tests in tests/attach; tracing every cell takes most of a minute
@pytest.mark.long
@every_cell
def test_a_compiled_denoiser_draws_the_same(cell: Cell, fresh_compiler: None) -> None:
    drawn = cell.draw(cell.control)
    with weft.attach(cell.pipe, cell.control):
        compiled = torch.compile(cell.denoiser, backend="eager", fullgraph=True)
        setattr(cell.pipe, cell.host.part, compiled)
        try:
            again = cell._draw(cell.call(cell.control))
        finally:
            setattr(cell.pipe, cell.host.part, cell.denoiser)
    assert (again - drawn).abs().max().item() <= 1e-5 * drawn.abs().max().item()


RELOADED = [(host, name) for host, name in CELLS if CONTROLS[name].reload is not None]


@pytest.mark.parametrize("cell", RELOADED, ids="-".join, indirect=True)
def test_saved_and_loaded_it_draws_the_same(cell: Cell, tmp_path: Path) -> None:
    assert cell.case.reload is not None
    drawn = cell.draw(cell.control)
    assert torch.equal(cell.draw(cell.case.reload(cell.control, tmp_path)), drawn)


@pytest.mark.parametrize("refusal", REFUSALS, ids="-".join)
def test_what_cannot_be_served_is_refused(refusal: tuple[str, str], tmp_path: Path) -> None:
    host, name = refusal
    pipe = HOSTS[host].build(tmp_path)
    case = CONTROLS[name]
    before = state_of(HOSTS[host].denoiser(pipe))
    unet = (case.build or {"unet": HOSTS["unet"].build})["unet"]
    control = case.make(unet(tmp_path / "source"))
    with pytest.raises(ValueError, match=case.refused[host]), weft.attach(pipe, control):
        pass
    assert state_of(HOSTS[host].denoiser(pipe)) == before
