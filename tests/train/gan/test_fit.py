"""``fit_gan``: what a run leaves, what changes its bits and what does not, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gans
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from weft.testing import assert_differs
from weft.train import Diverged, GanConfig, Generator, Interrupted, fit_gan
from weft.train.core.checkpoint import load_checkpoint
from weft.train.distribution.kinds import FakeToFake, FakeToReal
from weft.train.gan.config import MATCHING, RECIPES
from weft.train.gan.objective import GanObjective
from weft.train.gan.pretrained import load_text
from weft.train.pictures.pairs import Pair

BASELINES = ("ssa", "attn")


def run(accelerator: Accelerator, config: GanConfig, folder: Path | None = None, **given: Any) -> Generator:
    pictures = given.pop("pictures", None) or gans.scenes()
    return fit_gan(pictures, config=config, folder=folder, accelerator=accelerator, **given)


def same(one: Generator, other: Generator) -> bool:
    pairs = zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def parameters(generator: Generator) -> Tensor:
    return torch.cat([value.detach().flatten() for value in generator.network.parameters()])


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_run_leaves_a_generator_that_loads(tmp_path: Path, accelerator: Accelerator, baseline: Any) -> None:
    generator = run(accelerator, gans.config(baseline, losses="f2f,f2r", sample_every=1), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint.pt",
        "config.json",
        "log.jsonl",
        "matching",
        "samples",
    }
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {
        "captions.txt",
        "step000001.png",
        "step000002.png",
    }
    assert Image.open(tmp_path / "samples" / "step000002.png").size == (7 * 66, 8 * 66)
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert {"discriminator_loss", "generator_loss", "generator_f2f", "generator_f2r", "generator_words"} <= row.keys()
    record = json.loads((tmp_path / "config.json").read_text())
    assert [loss["name"] for loss in record["losses"]] == ["f2f", "f2r"]

    captions = ["a red circle", "a blue square and a green star", "an unheard-of thing"]
    drawn = generator(captions, torch.Generator().manual_seed(1))
    assert drawn.shape == (3, 3, 64, 64) and drawn.dtype == torch.float32 and drawn.abs().max() <= 1
    generator.save(tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"generator.safetensors", "config.json"}
    loaded = Generator.load(tmp_path / "kept")
    assert torch.equal(loaded(captions, torch.Generator().manual_seed(1)), drawn)
    # a picture is its own, whatever is drawn beside it
    noise = torch.randn(3, loaded.noise_width)
    torch.testing.assert_close(loaded(captions[:1], noise[:1]), loaded(captions, noise)[:1], atol=1e-5, rtol=1e-4)
    assert [picture.size for picture in loaded.pictures(captions, seed=3)] == 3 * [(64, 64)]


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("stage", ["matching", "gan"])
def test_an_interrupted_run_goes_on_with_the_same_bits(
    tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch, baseline: Any, stage: str
) -> None:
    config = gans.config(baseline, losses="f2f,f2r", steps=3)
    straight = run(accelerator, config)
    accelerator.free_memory()
    from weft.train.gan.matching import MatchingObjective

    kind: Any = GanObjective if stage == "gan" else MatchingObjective
    forward, calls = kind.forward, []

    def forward_with_signal(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=f"{stage}: stopped at step 1 of"):
        patch.setattr(kind, "forward", forward_with_signal)
        run(accelerator, config, tmp_path)
    accelerator.free_memory()
    assert same(run(accelerator, config, tmp_path, resume=True), straight)


@pytest.mark.parametrize("baseline", BASELINES)
def test_losses_without_weight_are_as_none(accelerator: Accelerator, baseline: Any) -> None:
    def drawn_by(**changes: Any) -> Generator:
        accelerator.free_memory()
        return run(accelerator, gans.config(baseline, steps=3, **changes))

    none = drawn_by()
    assert same(none, drawn_by(losses="f2f,f2r", f2f_weight=0.0, f2r_weight=0.0))
    for losses in ("f2f", "f2r", "f2f,f2r"):
        assert_differs(parameters(none), parameters(drawn_by(losses=losses)))


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, 1),
        ({"losses": "f2r"}, 1),
        ({"losses": "f2f"}, 2),
        ({"losses": "f2f,f2r"}, 2),
        ({"losses": "f2f", "f2f_weight": 0.0}, 1),
        ({"losses": "f2f", "pairing": "two_noises"}, 2),
    ],
)
def test_a_second_view_is_drawn_only_where_it_is_needed(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], passes: int
) -> None:
    from weft.train.gan.ssa import SsaGenerator

    forward, noises = SsaGenerator.forward, []

    def counted(self: Any, noise: Tensor, text: Any) -> Any:
        if self.training and torch.is_grad_enabled():
            noises.append(noise)
        return forward(self, noise, text)

    monkeypatch.setattr(SsaGenerator, "forward", counted)
    run(accelerator, gans.config(steps=1, **changes))
    assert len(noises) == passes
    if passes == 2:
        assert torch.equal(*noises) == ("pairing" not in changes)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("both_views", [True, False])
def test_other_features_and_views(accelerator: Accelerator, baseline: Any, both_views: bool) -> None:
    seen: list[torch.Size] = []

    def small(images: Tensor) -> Tensor:
        seen.append(images.shape)
        return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)

    losses = (FakeToFake(features=small), FakeToReal(features=small))
    generator = run(accelerator, gans.config(baseline, losses=losses, steps=1, both_views=both_views))
    assert seen == 3 * [(4, 3, 64, 64)]
    assert not generator.knows_teachers, "it is unknown what a callable looks with"
    accelerator.free_memory()
    generator = run(accelerator, gans.config(baseline, losses="f2f,f2r", features="discriminator", steps=1))
    assert generator.knows_teachers and not generator.taught_by


def test_batches_with_nothing_to_distinguish_go_without_the_losses(tmp_path: Path, accelerator: Accelerator) -> None:
    """Of two classes, two pictures are now and then of one; what is masked by no class is compared all the same."""
    scenes = gans.scenes(8)
    pictures = [Pair(*scenes[place], str(place), group=place % 2) for place in range(8)]
    losses = (FakeToFake(), FakeToReal(class_mask=False))
    run(accelerator, gans.config(losses=losses, batch_size=2, steps=6), tmp_path, pictures=Several(pictures))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and all(row["generator_f2r"] > 0 for row in rows)
    assert {row["generator_f2f"] == 0 for row in rows} == {True, False}


def test_a_picture_without_its_class_is_found(accelerator: Accelerator) -> None:
    """Before anything is trained where all are known, and when it is drawn where they come one by one."""
    scenes = gans.scenes(8)
    pictures = [Pair(*scenes[place], str(place), group=None if place == 5 else place) for place in range(8)]
    config = gans.config(losses=FakeToReal(class_mask=True), steps=4)
    for given in (tuple(pictures), Several(pictures)):
        accelerator.free_memory()
        with pytest.raises(ValueError, match="1 have none, the first of them number 5; take pictures"):
            run(accelerator, config, pictures=given)


class Several(Sequence[Pair]):
    """Pairs that come one by one."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, place: Any) -> Any:
        return self.pairs[place]


def test_the_matching_model_is_trained_once(tmp_path: Path, accelerator: Accelerator) -> None:
    first = run(accelerator, gans.config(), tmp_path / "first")
    log = (tmp_path / "first" / "matching" / "log.jsonl").read_text()
    assert len(log.splitlines()) == 1 + 1  # of its two steps
    accelerator.free_memory()
    again = run(accelerator, gans.config(matching_folder=tmp_path / "first" / "matching"), tmp_path / "again")
    assert same(first, again) and not (tmp_path / "again" / "matching").exists()
    assert [word in again.text.vocabulary.words for word in ("red", "circle", "zebra")] == [True, True, False]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"must hold matching.safetensors and matching.json; there is no matching.s"):
        run(accelerator, gans.config(matching_folder=tmp_path))
    with pytest.raises(ValueError, match="is another: `length` was 18, is 3; choose another folder"):
        run(accelerator, gans.config(matching_folder=tmp_path / "first" / "matching", length=3))
    weights = tmp_path / "first" / "matching" / "matching.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"matching.safetensors cannot be read, or does not fit matching.json"):
        run(accelerator, gans.config(matching_folder=weights.parent))
    (weights.parent / "matching.json").write_text("{")
    with pytest.raises(ValueError, match=r"matching.json cannot be read: JSONDecodeError.*; choose another folder"):
        run(accelerator, gans.config(matching_folder=weights.parent))


def test_text_and_vision_of_others(tmp_path: Path, accelerator: Accelerator) -> None:
    from weft import shapes

    class Grid(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.nn.functional.avg_pool2d(images, 16)

    generator = run(accelerator, gans.config(), tmp_path / "run", text=shapes.model_path(), vision=Grid())
    assert generator.text.words.out_features == 8  # type: ignore[union-attr]
    generator.save(tmp_path / "kept")
    loaded = Generator.load(tmp_path / "kept")
    noise = torch.randn(1, generator.noise_width)
    assert torch.equal(loaded(["a red circle"], noise), generator(["a red circle"], noise))
    accelerator.free_memory()
    assert len(generator.taught_by) == 2 and loaded.taught_by == generator.taught_by and not loaded.knows_teachers
    again = gans.config(matching_folder=tmp_path / "run" / "matching")
    said = "is another: `text` was '[0-9a-f]{16}', is 'own'; `vision` was '[0-9a-f]{16}', is 'own'; choose another"
    with pytest.raises(ValueError, match=said):
        run(accelerator, again)
    tokenizer, model = load_text(shapes.model_path())
    torch.nn.init.zeros_(next(model.parameters()))
    with pytest.raises(ValueError, match=r"is another: `text` was '\w{16}', is '\w{16}'; choose another"):
        run(accelerator, again, text=(tokenizer, model), vision=Grid())


def test_a_vision_model_of_a_folder(tmp_path: Path, accelerator: Accelerator) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=32, patch_size=16))
    model.save_pretrained(tmp_path / "vision")
    (tmp_path / "vision" / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    run(accelerator, gans.config(losses="f2r", steps=1), vision=tmp_path / "vision")
    with pytest.raises(FileNotFoundError, match="`vision` must be a folder; there is none at"):
        run(accelerator, gans.config(), vision=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="`vision` must be a folder with a vision model of transformers"):
        run(accelerator, gans.config(), vision=tmp_path)


@pytest.mark.parametrize("baseline", BASELINES)
def test_half_precision_computes_and_what_is_trained_stays_whole(fresh_state: None, baseline: Any) -> None:
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    generator = run(accelerator, gans.config(baseline, losses="f2f,f2r"))
    assert {value.dtype for value in generator.network.parameters()} == {torch.float32}
    assert generator(["a red circle"]).isfinite().all()


def test_a_cached_matching_model_of_other_pictures_is_refused(tmp_path: Path, accelerator: Accelerator) -> None:
    run(accelerator, gans.config(steps=1), tmp_path)
    accelerator.free_memory()
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match=r"the matching model in .*matching is another: `pictures` was"):
        run(accelerator, gans.config(steps=1), tmp_path, pictures=gans.scenes(14))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = GanObjective.forward

    def broken(self: Any, turn: str, *batch: Tensor) -> Any:
        losses = forward(self, turn, *batch)
        steps.append(turn)
        return {**losses, "loss": losses["loss"] * float("nan")} if steps.count("generator") == 3 else losses

    steps: list[str] = []
    monkeypatch.setattr(GanObjective, "forward", broken)
    with pytest.raises(Diverged, match=r"gan: the loss of the generator is nan at step 3; .*keeps step 2"):
        run(accelerator, gans.config(steps=4, checkpoint_every=2), tmp_path)
    kept = load_checkpoint(tmp_path / "checkpoint.pt")
    assert kept is not None and all(value.isfinite().all() for value in kept["parameters"].values())


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_what_draws_is_the_moving_average(tmp_path: Path, accelerator: Accelerator, decay: float) -> None:
    generator = run(accelerator, gans.config(steps=4, average_decay=decay), tmp_path)
    kept = load_checkpoint(tmp_path / "checkpoint.pt")
    assert kept is not None and (kept["average"] is not None) == (decay > 0)
    drawn = {f"generator.{key}": value for key, value in generator.network.named_parameters()}
    assert all(torch.equal(value, (kept["average"] or kept["parameters"])[key]) for key, value in drawn.items())
    assert all(torch.equal(value, kept["parameters"][key]) for key, value in drawn.items()) == (decay == 0)
    # statistics that training has gathered are those of other parameters
    statistics = {key: value for key, value in generator.network.named_buffers() if "running_mean" in key}
    assert not any(torch.equal(value, kept["buffers"][f"generator.{key}"]) for key, value in statistics.items())


def test_another_run_is_not_gone_on_with(tmp_path: Path, accelerator: Accelerator) -> None:
    run(accelerator, gans.config(), tmp_path)
    accelerator.free_memory()
    with pytest.raises(ValueError, match="of an earlier run; resume it"):
        run(accelerator, gans.config(), tmp_path)
    with pytest.raises(ValueError, match="is of another run: `losses` was"):
        run(accelerator, gans.config(losses="f2r"), tmp_path, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "`batch_size` must be at least 2, or no picture has another's caption"),
        ({"resolution": 65}, "`resolution` must be one of 64, 80, 96, 112, 128, 160, 192, 224, 256 pixels; got 65"),
        (
            {"baseline": "attn", "recipe": replace(RECIPES["attn", "cpu"], stages=5)},
            "`recipe.stages` must be at most 4 for 64 pixels",
        ),
        (
            {"recipe": replace(RECIPES["ssa", "cpu"], penalty_every=0)},
            "`recipe.penalty_every` must be at least 1; got 0",
        ),
        ({"recipe": replace(RECIPES["ssa", "cpu"], style_blocks=True)}, "style blocks are of baseline 'attn'"),
        (
            {"matching": replace(MATCHING["cpu"], size=50)},
            "`matching.size` must be a multiple of 16 from 16 on; got 50",
        ),
        ({"matching": replace(MATCHING["cpu"], batch_size=1)}, "`matching.batch_size` must be at least 2"),
        ({"baseline": "gan"}, "`baseline` must be one of ssa, attn; got 'gan'"),
        ({"features": "inception"}, "`features` must be 'matching', 'discriminator' or a callable; got 'inception'"),
        ({"losses": "f2g"}, "'f2g' is unknown"),
        ({"losses": (FakeToFake(), FakeToFake())}, "`losses` must have each kind once; got"),
        ({"sample_every": 5}, "grids of samples and tensorboard logs need `folder`; got None"),
        ({"sample_every": 0}, "`sample_every` must be at least 1; got 0"),
        ({"losses": "f2f", "class_mask": True}, "`class_mask` needs pictures with classes, as CUB has; 1 have none"),
    ],
)
def test_options_out_of_range_are_refused(accelerator: Accelerator, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(accelerator, replace(gans.config(), **changes))


def test_losses_are_checked_before_anything_is_trained(tmp_path: Path, accelerator: Accelerator) -> None:
    with pytest.raises(TypeError, match="`losses` must hold FakeToFake and FakeToReal; got int"):
        run(accelerator, gans.config(losses=(3,)), tmp_path)
    assert not list(tmp_path.iterdir())
    assert gans.config(losses=FakeToFake()).chosen_losses() == (FakeToFake(),)


def test_a_generator_says_what_it_cannot_draw(tmp_path: Path, accelerator: Accelerator) -> None:
    generator = run(accelerator, gans.config(steps=1))
    with pytest.raises(TypeError, match="must be a sequence of texts; got one text"):
        generator("a red circle")
    with pytest.raises(ValueError, match="needs at least one caption"):
        generator([])
    with pytest.raises(ValueError, match=r"`noise` must be \[1, 4\]; got \[2, 4\]"):
        generator(["a red circle"], torch.randn(2, 4))
    with pytest.raises(FileNotFoundError, match=r"there is no generator.safetensors in"):
        Generator.load(tmp_path)
    generator.save(tmp_path)
    weights = tmp_path / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ValueError, match="holds no generator that can be read"):
        Generator.load(tmp_path)
    generator.save(tmp_path)
    (tmp_path / "config.json").write_text('{"baseline": "ssa"}')
    with pytest.raises(ValueError, match="holds no generator that can be read"):
        Generator.load(tmp_path)
