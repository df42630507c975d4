"""``fit_soft_tokens`` on tiny pipelines: its loss against a plain loop, what is trained, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from captioned import CAPTIONS, batch, pairs
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import weft
from weft.attach import resolve
from weft.testing import assert_differs
from weft.testing.soft_tokens_eager import contrastive_loss_of, errors_by_pairs, longer_text
from weft.train.core.config import LoopConfig
from weft.train.diffusion.latents import frozen, training_scheduler
from weft.train.diffusion.noising import noising_of
from weft.train.encoded.batches import PairBatches
from weft.train.pictures.pairs import Pair
from weft.train.soft_tokens.bank import TrainedTokens
from weft.train.soft_tokens.config import SoftTokensConfig
from weft.train.soft_tokens.contrast import ContrastObjective
from weft.train.soft_tokens.fit import fit_soft_tokens
from weft.train.soft_tokens.frozen_denoiser import FrozenDenoiser
from weft.train.soft_tokens.layout import layout_of
from weft.train.soft_tokens.prepared import laid_out, make_objective

CONFIG = SoftTokensConfig(
    loop=LoopConfig(steps=4, learning_rate=1e-2, batch_size=2, checkpoint_every=2),
    objective="contrast",
    time_buckets=10,
    precision="no",
)


def fitted(pipe: Any, changes: Any = None, **run: Any) -> weft.SoftTokens:
    return fit_soft_tokens(pipe, run.pop("pairs", pairs()), config=replace(CONFIG, **(changes or {})), **run)


def start(width: int = 32) -> weft.SoftTokens:
    generator = torch.Generator().manual_seed(3)
    offsets = torch.randn(10, width, generator=generator)
    return weft.SoftTokens(torch.randn(2, width, generator=generator), offsets)


def objective_of(pipe: Any, soft: weft.SoftTokens, **options: Any) -> tuple[TrainedTokens, ContrastObjective]:
    control = TrainedTokens(soft.blocks)
    denoiser = FrozenDenoiser(resolve(pipe), control, noising_of(resolve(pipe)))
    return control, ContrastObjective(denoiser, soft, accelerator=Accelerator(cpu=True), **options)


def by_pairs(pipe: Any, soft: weft.SoftTokens, given: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The loss by a pass of the stock network for every picture and caption, and its gradients."""
    assert soft.offsets is not None
    tokens, offsets = soft.tokens.clone().requires_grad_(), soft.offsets.clone().requires_grad_()
    with longer_text(pipe.unet, tokens + offsets[int(given["timestep"]) // 100]):
        loss = contrastive_loss_of(errors_by_pairs(pipe.unet, training_scheduler(pipe), given))
        loss.backward()
    assert tokens.grad is not None and offsets.grad is not None
    return loss, tokens.grad, offsets.grad


@pytest.mark.parametrize("rows_at_once", [None, 1, 3])
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_the_loss_is_that_of_a_pass_for_every_pair(kind: str, rows_at_once: int | None, tmp_path: Path) -> None:
    """Loss and gradients, whole and in chunks."""
    pipe, width = tiny.build(kind, tmp_path), {"sd1": 32, "sdxl": 64}[kind]
    with torch.no_grad():  # a prediction near the noise, or every logit would be 0
        pipe.unet.conv_out.weight.mul_(0.05)
    soft, given = start(width), batch(pipe)
    # the error of a prediction of nothing is 1, far beyond 0.07
    given["noise"] = given["noise"] * 0.2
    with frozen(pipe.unet):
        expected = by_pairs(pipe, soft, given)
        control, objective = objective_of(pipe, soft, rows_at_once=rows_at_once)
        passes: list[Tensor] = []
        with weft.attach(pipe, control):
            pipe.unet.register_forward_hook(lambda module, args, out: passes.append(args[0]))
            found = objective(*given.values())
            found["loss"].backward()
    torch.testing.assert_close(found["loss"], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(objective.bank.tokens.grad, expected[1], atol=1e-7, rtol=2e-3)
    torch.testing.assert_close(objective.bank.offsets.grad, expected[2], atol=1e-7, rtol=2e-3)
    assert expected[1].abs().max() > 1e-5
    assert [len(sample) for sample in passes] == {None: [16], 1: [4] * 4, 3: [12, 4]}[rows_at_once]
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())


def test_a_caption_is_projected_once_for_all_pictures(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    soft = start()
    with frozen(pipe.unet):
        control, objective = objective_of(pipe, soft, rows_at_once=1)
        with weft.attach(pipe, control) as attachment:
            objective(*batch(pipe).values())
            found = attachment.text_cache
            assert (found.misses, found.hits) == (7, 3 * 7), "7 layers, four chunks of one picture"


@pytest.mark.parametrize("processor", [AttnProcessor(), None], ids=["stock", "own"])
def test_other_processors(processor: Any, tmp_path: Path) -> None:
    """Those that weft serves learn the same; one that it does not know is refused before anything is encoded."""

    class Own(AttnProcessor2_0):
        pass

    pipe = tiny.sd1(tmp_path)
    expected = fitted(pipe)
    pipe.unet.set_attn_processor(processor or Own())
    if processor is None:
        with pytest.raises(ValueError, match=r"needs the attention of the whole model; .*keeps its own processor Own"):
            fitted(pipe)
    else:
        torch.testing.assert_close(fitted(pipe).tokens, expected.tokens, atol=1e-4, rtol=1e-3)


def test_captions_of_the_same_picture_are_no_rivals(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    soft, given = start(), batch(pipe, ("a red circle", "a blue square"))
    given["alike"] = torch.tensor([[5, 0], [5, 1]])
    with frozen(pipe.unet):
        control, objective = objective_of(pipe, soft)
        with weft.attach(pipe, control):
            assert float(objective(*given.values())["contrastive"].abs()) < 1e-6


def test_a_batch_without_rivals_has_no_error_of_them(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    control, objective = objective_of(pipe, start())
    with weft.attach(pipe, control), torch.no_grad():
        found = objective(*batch(pipe, ("a ball", "a ball")).values())
    assert found["error_negative"] == 0 and all(value.isfinite() for value in found.values())


def test_equal_captions_are_no_rivals(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    soft = start()
    with frozen(pipe.unet):
        control, objective = objective_of(pipe, soft)
        with weft.attach(pipe, control):
            twice = objective(*batch(pipe, ("a red circle", "a red circle")).values())
    assert float(twice["contrastive"].abs()) < 1e-6
    assert float(twice["accuracy"]) == 1.0


@pytest.mark.parametrize("rows_at_once", [None, 1, 3])
@pytest.mark.parametrize("direction", ["image_to_text", "both"])
@pytest.mark.parametrize("wrong", [0, 2])
def test_every_option_of_the_contrast(direction: str, wrong: int, rows_at_once: int | None, tmp_path: Path) -> None:
    """Against a pass of the stock network for every pair: gradients of tokens and of both constants.

    Of the ``wrong`` captions of their own pictures 0 and 3 have two, picture 1 has one and picture 2 none.
    """
    pipe = tiny.sd1(tmp_path)
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(0.05)
    soft, given, counts = start(), batch(pipe), (2, 1, 0, 2)
    given["noise"] = given["noise"] * 0.2
    closer = resolve(pipe).encode_captions([f"{word} {caption}" for caption in CAPTIONS for word in ("blue", "green")])
    assert soft.offsets is not None
    tokens, log_scale, log_width = soft.tokens.clone(), torch.tensor(4.0).log(), torch.tensor(0.07).log()
    wanted = [value.requires_grad_() for value in (tokens, log_scale, log_width)]
    with frozen(pipe.unet):
        with longer_text(pipe.unet, tokens + soft.offsets[3]):
            error = errors_by_pairs(pipe.unet, training_scheduler(pipe), given)
            pooled = closer.states.new_empty(8, 0)
            all_closer = {**given, "states": closer.states, "pooled": pooled}
            by_closer = errors_by_pairs(pipe.unet, training_scheduler(pipe), all_closer)
        logits, own = log_scale.exp() * torch.exp(-error / log_width.exp()), torch.arange(4)
        rows = []
        for row, count in enumerate(counts):
            mine = by_closer[row, 2 * row : 2 * row + (count if wrong else 0)]
            row_logits = torch.cat([logits[row], log_scale.exp() * torch.exp(-mine / log_width.exp())])
            rows.append(F.cross_entropy(row_logits, own[row]))
        loss = torch.stack(rows).mean()
        if direction == "both":
            loss = (loss + F.cross_entropy(logits.T, own)) / 2
        loss = loss + 10 * error.diagonal().mean()
        expected = torch.autograd.grad(loss, wanted)
        control = TrainedTokens(soft.blocks)
        config = replace(CONFIG, direction=direction, learn_logit=True, rows_at_once=rows_at_once)
        denoiser, layout = (
            FrozenDenoiser(resolve(pipe), control, noising_of(resolve(pipe))),
            laid_out(config, resolve(pipe), who="test"),
        )
        objective: Any = make_objective(config, denoiser, soft, Accelerator(cpu=True), layout)
        more = (closer.states.view(4, 2, *closer.states.shape[1:]), pooled.view(4, 2, 0), torch.tensor(counts))
        with weft.attach(pipe, control):
            found = objective(*given.values(), *(more if wrong else ()))
            found["loss"].backward()
    torch.testing.assert_close(found["loss"], loss, atol=1e-5, rtol=1e-5)
    mine = (objective.bank.tokens.grad, objective.logit.log_scale.grad, objective.logit.log_width.grad)
    for gradient, value in zip(mine, expected, strict=True):
        assert value.abs().max() > 1e-6
        torch.testing.assert_close(gradient, value, atol=1e-7, rtol=2e-3)
    torch.testing.assert_close(found["logit_scale"], torch.tensor(4.0))


@pytest.mark.parametrize("rows_at_once", [None, 1])
def test_both_directions_with_given_constants(rows_at_once: int | None, tmp_path: Path) -> None:
    """Tokens learn what they learn beside constants that are learnt."""
    pipe = tiny.sd1(tmp_path)
    soft, given, found = start(), batch(pipe), []
    with frozen(pipe.unet):
        for learn_logit in (False, True):
            control = TrainedTokens(soft.blocks)
            config = replace(CONFIG, direction="both", learn_logit=learn_logit, rows_at_once=rows_at_once)
            denoiser, layout = (
                FrozenDenoiser(resolve(pipe), control, noising_of(resolve(pipe))),
                laid_out(config, resolve(pipe), who="test"),
            )
            objective: Any = make_objective(config, denoiser, soft, Accelerator(cpu=True), layout)
            with weft.attach(pipe, control):
                objective(*given.values())["loss"].backward()
            found.append(objective.bank.tokens.grad)
    assert found[0].abs().max() > 1e-6
    assert torch.equal(found[0], found[1])


def test_pictures_of_one_name_in_several_folders_are_rivals(tmp_path: Path) -> None:
    found = []
    for number, folder in enumerate(("a", "b", "a")):
        path = tmp_path / folder / "0.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (36, 36)).save(path)
        found.append(Pair(path, (CAPTIONS[number],), path.name))
    numbers = PairBatches(None, found, Any, None, range(3), 2, 1000).numbers
    assert numbers[0] == numbers[2] != numbers[1]


def test_each_picture_its_own_time(tmp_path: Path) -> None:
    """The loss is the mean of what each picture has by itself, shown the tokens of its time."""
    pipe = tiny.sd1(tmp_path)
    soft, given = start(), batch(pipe)
    times = torch.tensor([20, 900, 450, 20])
    with frozen(pipe.unet):
        control, objective = objective_of(pipe, soft)
        with weft.attach(pipe, control):
            found = objective(*{**given, "timestep": times}.values())
            found["loss"].backward()
        errors = []
        for number, time in enumerate(times.tolist()):
            assert soft.offsets is not None
            with longer_text(pipe.unet, soft.tokens + soft.offsets[time // 100]):
                row = {**given, "timestep": torch.tensor([time])}
                errors.append(errors_by_pairs(pipe.unet, training_scheduler(pipe), row)[number])
    torch.testing.assert_close(found["loss"], contrastive_loss_of(torch.stack(errors)), atol=1e-5, rtol=1e-5)
    used = objective.bank.offsets.grad.abs().sum(1) > 0
    assert used.nonzero().flatten().tolist() == [0, 4, 9]


def test_layouts_of_unets(tmp_path: Path) -> None:
    """As published: sizes for Stable Diffusion 1.5 and XL, and the start that can never come apart."""
    counts = {768: 79_872, 2048: 8_192}
    for name, model in {"unet": tiny.unet(cross_attention_dim=768), "xl": tiny.unet(tiny.SDXL)}.items():
        released, ours = layout_of(resolve(model), "released"), layout_of(resolve(model), "default")
        assert replace(released, init="start") == ours and released.denoising_weight == 10
        assert released.init == {"unet": "copies", "xl": "normal"}[name]
        width = {"unet": 768, "xl": 2048}[name]
        model.register_to_config(cross_attention_dim=width)
        soft = replace(released, init="normal").start(resolve(model), 4, seed=0, base_name="wide")
        assert soft.tokens.numel() + (0 if soft.offsets is None else soft.offsets.numel()) == counts[width]
    assert layout_of(resolve(tiny.unet()), "released").blocks == ("down_blocks",)
    assert layout_of(resolve(tiny.unet(tiny.SDXL)), "released").blocks == ("down_blocks", "mid_block")


def test_the_released_layout_trains(tmp_path: Path) -> None:
    soft = fitted(tiny.build("sdxl", tmp_path), {"layout": "released", "time_buckets": None, "tokens": 2})
    assert soft.tokens.shape == (2, 64) and soft.offsets is None
    assert soft.blocks == ("down_blocks", "mid_block") and soft.tokens.norm(dim=1).max() < 1
    soft = fitted(tiny.sd1(tmp_path / "sd1"), {"layout": "released", "time_buckets": 0})
    assert soft.offsets is None
    torch.testing.assert_close(soft.tokens[0], soft.tokens[3], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_learns_and_leaves_the_model_as_it_was(kind: str, tmp_path: Path) -> None:
    pipe = tiny.build(kind, tmp_path / "model")
    stock = tiny.generate(pipe, kind)
    before = {name: (id(value), value.requires_grad) for name, value in pipe.unet.named_parameters()}
    soft = fitted(pipe, {"gradient_checkpointing": True}, folder=tmp_path / "run")
    assert soft.tokens.shape == (4, {"sdxl": 64}.get(kind, 32)) and soft.offsets is not None
    assert {name: (id(value), value.requires_grad) for name, value in pipe.unet.named_parameters()} == before
    assert (tiny.generate(pipe, kind) == stock).all()
    assert_differs(soft.tokens[0], soft.tokens[1])
    row = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert {"loss", "contrastive", "denoising", "error_negative", "accuracy", "token_norm"} <= row.keys()
    with weft.attach(pipe, soft):
        assert_differs(tiny.generate(pipe, kind), stock)


def test_released_copies_stay_one_token(tmp_path: Path) -> None:
    """Equal tokens have equal gradients for ever, but for rounding; ours begin apart."""
    pipe = tiny.sd1(tmp_path)
    copies, ours = fitted(pipe, {"init": "copies"}), fitted(pipe)
    torch.testing.assert_close(copies.tokens, copies.tokens[:1].expand_as(copies.tokens), atol=1e-4, rtol=0)
    assert_differs(ours.tokens[0], ours.tokens[1])


def test_resuming_ends_with_the_same_bits(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path / "model")
    straight = fitted(pipe)
    half = replace(CONFIG.loop, steps=2)
    fitted(pipe, {"loop": half}, folder=tmp_path / "run")
    resumed = fitted(pipe, folder=tmp_path / "run", resume=True)
    assert torch.equal(resumed.tokens, straight.tokens)
    assert resumed.offsets is not None and straight.offsets is not None
    assert torch.equal(resumed.offsets, straight.offsets)
    with pytest.raises(ValueError, match="`tokens` was 4, is 3"):
        fitted(pipe, {"tokens": 3}, folder=tmp_path / "run", resume=True)


def test_learnt_constants_are_kept(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path / "model")
    changes = {"learn_logit": True, "direction": "both", "shared_time": False, "shared_noise": False}
    straight = fitted(pipe, changes, folder=tmp_path / "straight")
    fitted(pipe, {**changes, "loop": replace(CONFIG.loop, steps=2)}, folder=tmp_path / "run")
    resumed = fitted(pipe, changes, folder=tmp_path / "run", resume=True)
    assert torch.equal(resumed.tokens, straight.tokens)
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["parameters"]
    assert {"logit.log_scale", "logit.log_width"} <= saved.keys()
    row = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert {"logit_scale", "logit_width"} <= row.keys()


@pytest.mark.parametrize("objective", ["contrast", "agsm"])
def test_pictures_drawn_meanwhile_show_the_tokens(objective: str, tmp_path: Path) -> None:
    """Those that would be the result: with agsm the averaged ones."""
    pipe = tiny.sd1(tmp_path / "model")
    changes = {"validate_every": 2, "validation_prompts": ("a red circle",), "validation_steps": 2}
    changes |= {"objective": objective, "negatives": 1}
    soft = fitted(pipe, changes, folder=tmp_path / "run")
    drawn = sorted((tmp_path / "run" / "validation").iterdir())
    assert [path.name for path in drawn] == ["step00002-0.png", "step00004-0.png"]
    with weft.attach(pipe, soft), torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        again = pipe("a red circle", num_inference_steps=2, generator=generator).images[0]
    assert Image.open(drawn[1]).tobytes() == again.tobytes()


def test_stops_when_what_is_held_out_gets_no_better(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path / "model")
    loop = replace(CONFIG.loop, steps=40, learning_rate=3.0)  # far too large: it can only get worse
    changes = {"loop": loop, "held_out": 0.5, "measure_every": 1, "patience": 2}
    soft = fitted(pipe, changes, folder=tmp_path / "run")
    measured = [json.loads(line) for line in (tmp_path / "run" / "measured.jsonl").read_text().splitlines()]
    values = [row["value"] for row in measured]
    best = values.index(min(values))
    assert len(values) < 40 and len(values) == best + 1 + 2
    at_best = fitted(pipe, {**changes, "loop": replace(loop, steps=best + 1)})
    assert torch.equal(soft.tokens, at_best.tokens)


def test_resuming_remembers_what_was_measured(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path / "model")
    changes = {"held_out": 0.5, "measure_every": 1, "patience": 4}
    straight = fitted(pipe, changes, folder=tmp_path / "straight")
    fitted(pipe, {**changes, "loop": replace(CONFIG.loop, steps=2)}, folder=tmp_path / "run")
    resumed = fitted(pipe, changes, folder=tmp_path / "run", resume=True)
    assert torch.equal(resumed.tokens, straight.tokens)
    records = [(tmp_path / name / "measured.jsonl").read_text() for name in ("straight", "run")]
    assert records[0] == records[1]


@pytest.mark.parametrize("objective", ["contrast", "agsm"])
def test_half_precision(objective: str, tmp_path: Path) -> None:
    """A bf16 model in bf16 autocast: tokens stay fp32 and end near those of full precision."""
    pipe = tiny.sd1(tmp_path)
    changes = {"objective": objective, "negatives": 1, "held_out": 0.5, "measure_every": 2}
    expected = fitted(pipe, changes)
    AcceleratorState._reset_state(reset_partial_state=True)  # another precision in one process
    found = fitted(pipe.to(torch.bfloat16), {**changes, "precision": "bf16"})
    assert found.tokens.dtype == torch.float32
    assert_differs(found.tokens, expected.tokens, 1e-5)
    torch.testing.assert_close(found.tokens, expected.tokens, atol=0.08, rtol=0)  # four steps of 0.01 either way


@pytest.mark.parametrize("objective", ["contrast", "agsm"])
def test_wrong_captions_of_the_data(objective: str, tmp_path: Path) -> None:
    """They enter the loss; a pair may have none; without any it is an error, raised before the pictures."""
    pipe = tiny.sd1(tmp_path / "model")
    rows = [{"image": image, "text": caption} for image, caption in pairs()]
    changes = {"objective": objective, "negatives": 1, "wrong_captions": 2}
    with pytest.raises(ValueError, match="`wrong_captions` needs pairs with `negatives`; none has any"):
        fitted(pipe, changes, pairs=rows)
    closer = [{**row, "negatives": ["a blue ball", "a red ball"]} for row in rows[:3]] + rows[3:]
    fitted(pipe, {**changes, "wrong_captions": 0}, pairs=closer, folder=tmp_path / "without")
    found = fitted(pipe, changes, pairs=closer, folder=tmp_path / "found", encoded=tmp_path / "encoded")
    # not the tokens: Adam's first steps are of one size, and all signs may agree
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("without", "found")]
    without, loss = (json.loads(rows[-1])["loss"] for rows in logs)
    assert loss != pytest.approx(without, rel=1e-4)
    assert torch.equal(fitted(pipe, changes, pairs=closer).tokens, found.tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wrong_captions": -1}, "`wrong_captions` must be a whole number, at least 0"),
        ({"held_out": 1.0}, "`held_out` must be at least 0 and below 1"),
        ({"held_out": 0.2, "measure_every": 1}, "`held_out` 0.2 of 4 pairs leaves 1 to measure and 3 to train on"),
        ({"held_out": 0.5, "measure_every": 5}, "`measure_every` must be at most the 4 steps of the run"),
        ({"patience": 0}, "`patience` must be a whole number"),
        ({"loop": replace(CONFIG.loop, batch_size=1)}, "`batch_size` must be at least 2"),
        ({"tokens": 0}, "`tokens` must be a whole number, at least 1"),
        ({"time_buckets": -1}, "`time_buckets` must be a whole number, at least 0"),
        ({"text_length": 77}, "`text_length` is of Stable Diffusion 3; StableDiffusionPipeline has no T5"),
        ({"shifted_time": True}, "`shifted_time` needs a flow-matching scheduler"),
        ({"layout": "mine"}, "`layout` must be one of 'default', 'released'"),
        ({"rows_at_once": 0}, "`rows_at_once` must be a whole number"),
        ({"logit_width": 0.0}, "`logit_width` must be above 0"),
        ({"logit_scale": float("inf")}, "`logit_scale` must be above 0 and finite"),
        ({"denoising_weight": -1.0}, "`denoising_weight` must not be negative"),
        ({"denoising_weight": float("inf")}, "`denoising_weight` must not be negative or infinite"),
        ({"init": "ones"}, "`init` must be one of 'start', 'copies', 'normal'"),
        ({"direction": "text_to_image"}, "`direction` must be one of 'image_to_text', 'both'"),
        ({"shared_time": False, "rows_at_once": 2}, "without `shared_time` pictures come one at a time"),
        ({"blocks": ("head",)}, "weft serves no attention to the text in head of this model"),
        ({"blocks": ()}, "`blocks` must name at least one part"),
        ({"resolution": 20}, "`resolution` must be a multiple of 8"),
        ({"validate_every": 1}, "need `folder`"),
    ],
)
def test_bad_numbers(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(tiny.sd1(tmp_path), changes)


def test_other_models_and_captions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="as for inpainting"):
        fitted(tiny.inpaint(tmp_path))
    with pytest.raises(TypeError, match="needs a pipeline"):
        fitted(tiny.unet())
    long = [(image, f"{caption} and ball ball ball ball ball ball ball ball ball ball") for image, caption in pairs()]
    with pytest.raises(ValueError, match="1 of 4 pairs are passed over, the first is row 2: its caption is too long"):
        fitted(tiny.sd1(tmp_path), pairs=long)
