"""The eager restatement of MaskDiffusion against what is known of the released algorithm: constants, counts, laws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from maskdiffusion_pipelines import EVERY_LEVEL, PROMPTS, four_levels, noise
from tiny_pipelines import tokenizer
from torch import Tensor

from weft.ops import Edit, attention
from weft.testing import assert_differs
from weft.testing.maskdiffusion import (
    CLEAN,
    RELEASED,
    SIZES,
    EagerMaskDiffusion,
    EagerObject,
    Switches,
    edit_cross,
    edit_self,
    find_objects,
    maskdiffusion_eager,
    protect,
    related_pixels,
    search,
    token_weights,
)

GRID = (16, 16)
# lambda of the 15 edited steps of 50, DDIM from timestep 981
STRENGTHS = [
    *(0.9085, 0.8196, 0.7378, 0.6627, 0.5938, 0.5307, 0.4732, 0.4207),
    *(0.3730, 0.3297, 0.2906, 0.2552, 0.2234, 0.1948, 0.1693),
]
TOKENS = 16
# objects in the order of the prompt; the last of three ends it
OBJECTS = [EagerObject("one", 1, 3), EagerObject("two", 5, 6), EagerObject("three", 8, 9)]
LENGTH = 11


def covered(count: int, pixels: int = 64) -> Tensor:
    """Regions of ``count`` objects; the second overlaps the first, and pixels are left outside all of them."""
    regions = torch.zeros(3, pixels, dtype=torch.bool)
    regions[0, :20], regions[1, 12:30], regions[2, 40:50] = True, True, True
    return regions[:count]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the formulas -----------------------------------------------------------------------------------------------


def qkv(seqlen_k: int, pixels: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    q = torch.randn(1, pixels, 2, 8, generator=generator(1), dtype=torch.float64)
    k, v = torch.randn(2, 1, seqlen_k, 2, 8, generator=generator(2), dtype=torch.float64)
    return 2 * q, 2 * k, v


def attended(q: Tensor, k: Tensor, v: Tensor, edit: Any) -> Tensor:
    logits = (q.transpose(1, 2) @ k.transpose(1, 2).transpose(-1, -2)) / q.shape[-1] ** 0.5
    return (edit(logits).softmax(-1) @ v.transpose(1, 2)).transpose(1, 2)


def bitmask(regions: Tensor) -> Tensor:
    return (regions.long() * 2 ** torch.arange(len(regions))[:, None]).sum(0)


def cross_tables(strength: float, count: int, double: bool) -> Edit:
    """By label of a pixel (the set of regions that hold it) and class of a token.

    Classes: 0 no object's, 1 start, 2 tail, then of each object its words and its head.
    """
    alpha = torch.full((1, 2**count, 3 + 2 * count), 1 - strength, dtype=torch.float64)
    gamma, beta = torch.full_like(alpha, strength), torch.zeros_like(alpha)
    times = 2.0 if double else 1.0

    def raised(where: Any, weight: float) -> None:
        alpha[where], beta[where], gamma[where] = times * (1 - weight * strength), times * weight * strength, 0.0

    alpha[..., 1], gamma[..., 1] = 1.0, 0.0
    raised((0, slice(None), 2), 0.2)
    for label in range(2**count):
        for number in range(count):
            if label >> number & 1:
                raised((0, label, 3 + 2 * number), 0.2)
                raised((0, label, 4 + 2 * number), 1.0)
    return Edit(alpha=alpha, beta=beta, gamma=gamma)


def token_classes(objects: Sequence[EagerObject], tail: int) -> Tensor:
    classes = torch.zeros(TOKENS, dtype=torch.long)
    classes[0], classes[tail:] = 1, 2
    for number, found in enumerate(objects):
        classes[found.first : found.head] = 3 + 2 * number
        classes[found.head] = 4 + 2 * number
    return classes


@pytest.mark.parametrize("double", [True, False], ids=["doubled", "plain"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("strength", [STRENGTHS[2], STRENGTHS[14]])
def test_cross_formulas_are_tables_of_the_op(count: int, strength: float, double: bool) -> None:
    regions, objects, tail = covered(count), OBJECTS[:count], LENGTH - 2
    q, k, v = qkv(TOKENS)
    weights = token_weights(regions, objects, TOKENS, tail, torch.float64)
    literal = attended(q, k, v, lambda logits: edit_cross(logits, weights, strength, double))
    out = attention(
        *(q, k, v),
        edit=cross_tables(strength, count, double),
        query_labels=bitmask(regions)[None],
        key_labels=token_classes(objects, tail)[None],
        backend="reference",
    )
    torch.testing.assert_close(out, literal, rtol=0, atol=1e-14)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_self_formulas_are_tables_of_the_op(count: int) -> None:
    strength, labels = 0.2459, bitmask(covered(count))
    q, k, v = qkv(64)
    literal = attended(q, k, v, lambda logits: edit_self(logits, related_pixels(covered(count)), strength))
    sets = torch.arange(2**count)
    same = ((sets[:, None] & sets) != 0).double()[None]
    direct = Edit(alpha=torch.full_like(same, 1 - strength), beta=strength * same, gamma=strength * (1 - same))
    shifted = Edit(alpha=torch.full_like(same, 1 - strength), beta=strength * same, gamma=-strength * same)
    for edit in (direct, shifted):
        out = attention(q, k, v, edit=edit, query_labels=labels[None], key_labels=labels[None], backend="reference")
        torch.testing.assert_close(out, literal, rtol=0, atol=1e-14)
    outside = labels == 0
    cooled = attended(q, k, v, lambda logits: (1 - strength) * logits)
    torch.testing.assert_close(literal[:, outside], cooled[:, outside], rtol=0, atol=1e-14)
    assert (literal - cooled)[:, ~outside].abs().amax() > 1e-3


def test_only_doubling_depends_on_the_level_of_the_logits() -> None:
    logits = 3 * torch.randn(2, 64, TOKENS, generator=generator(), dtype=torch.float64)
    weights = token_weights(covered(2), OBJECTS[:2], TOKENS, LENGTH - 2, torch.float64)
    rows = torch.randn(2, 64, 1, generator=generator(1), dtype=torch.float64)

    def probabilities(shift: Tensor | float, double: bool) -> Tensor:
        return edit_cross(logits + shift, weights, STRENGTHS[2], double).softmax(-1)

    torch.testing.assert_close(probabilities(rows, False), probabilities(0.0, False), rtol=0, atol=1e-14)
    assert (probabilities(rows, True) - probabilities(0.0, True)).abs().amax() > 0.1


def test_weights() -> None:
    regions = covered(3)
    weights = token_weights(regions, OBJECTS, TOKENS, LENGTH - 2, torch.float64)
    assert weights[:, 0].unique().tolist() == [0.01]
    assert not weights[:, [4, 7]].any(), "words that belong to no object"
    assert weights[:, LENGTH - 1 :].unique().tolist() == [0.2]
    for region, found in zip(regions, OBJECTS, strict=True):
        assert weights[region][:, found.first : found.head].unique().tolist() == [0.2]
        assert weights[region][:, found.head].unique().tolist() == [1.0]
        # also for the third object, whose head the tail had raised everywhere
        assert not weights[~region][:, found.first : found.head + 1].any()
    assert token_weights(regions[:2], OBJECTS[:2], TOKENS, LENGTH - 2)[:, LENGTH - 2].unique().tolist() == [
        pytest.approx(0.2)
    ], "the last word, which is no object's now"
    none = torch.zeros_like(regions)
    kept = token_weights(none, OBJECTS, TOKENS, LENGTH - 1, torch.float64)
    logits = torch.randn(2, 64, TOKENS, generator=generator(), dtype=torch.float64)
    span = list(OBJECTS[1].span)
    assert torch.equal(edit_cross(logits, kept, 0.5, False)[..., span], logits[..., span])


# --- protection and search --------------------------------------------------------------------------------------


def bumps(*places: tuple[float, float], width: float = 3.0, size: tuple[int, int] = GRID) -> Tensor:
    """[len(places), h * w]: one round bump each."""
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in size)
    return torch.stack(
        [
            (-((rows[:, None] - y) ** 2 + (columns - x) ** 2) / (2 * width**2)).exp().flatten() + 1e-3 * (rows[0] + 1)
            for y, x in places
        ]
    )


def test_window_sizes() -> None:
    area = 0.2 * 16 * 16
    lying = [(height, int(area / height)) for height in range(4, int(area**0.5))]
    assert list(SIZES) == [size for height, width in lying for size in ((height, width), (width, height))]
    assert {height * width for height, width in SIZES} == {48, 50}


def test_292_windows_and_a_rim_that_none_reaches() -> None:
    count = sum(max(14 - height + 1, 0) * max(14 - width + 1, 0) for height, width in SIZES)
    assert count == 292
    corner = bumps((15.0, 15.0))
    (released,) = search(corner, [0], GRID)
    (clean,) = search(corner, [0], GRID, margin=0)
    for found, reach in ((released, 14), (clean, 16)):
        top, left, height, width = found.rectangle
        assert (top + height, left + width) == (reach, reach)


def test_38_pixels_are_protected() -> None:
    maps = torch.rand(TOKENS, 256, generator=generator(), dtype=torch.float64) + 0.1
    span = range(2, 5)
    protected = protect(maps, [(4, span)], GRID)
    largest = maps[4].topk(38).indices.sort().values
    for token in range(TOKENS):
        changed = (protected[token] != maps[token]).nonzero().flatten()
        assert changed.tolist() == ([] if token in span else largest.tolist())
    assert torch.equal(protected[0, largest], maps[0, largest] / 2)
    assert_differs(protect(maps, [(4, span), (7, range(6, 8))], GRID)[4], maps[4])


def test_a_region_repels_the_next_one() -> None:
    maps = bumps((5.0, 5.0), (6.0, 6.0))
    first, second = search(maps, [0, 1], GRID)
    top, left, height, width = first.rectangle
    assert second.rectangle != search(maps, [1], GRID)[0].rectangle
    repelled = maps.clone().view(2, *GRID)
    repelled[:, top : top + height, left : left + width] *= -2
    assert second == search(repelled.flatten(1), [1], GRID)[0]
    forbidden = search(maps, [0, 1], GRID, exclusion="forbid")[1].rectangle
    cells = torch.zeros(GRID, dtype=torch.int)
    for y, x, h, w in (first.rectangle, forbidden):
        cells[y : y + h, x : x + w] += 1
    assert cells.max() == 1


def test_a_map_without_a_positive_window() -> None:
    for empty in (torch.zeros(1, 256), -torch.rand(1, 256, generator=generator())):
        assert search(empty, [0], GRID)[0].rectangle == (0, 0, 4, 12)
        assert search(empty, [0], GRID, fallback="none")[0].rectangle == (0, 0, 0, 0)


def test_a_tie_keeps_the_first_window() -> None:
    found = search(torch.ones(1, 256), [0], GRID)[0]
    assert found.rectangle == (0, 0, 4, 12) and found.mean == 1.0 and found.gap == 0.0


def test_head_maps_alone_give_the_same_regions() -> None:
    for seed in range(5):
        maps = torch.rand(TOKENS, 256, generator=generator(seed)) ** 4
        whole = search(
            protect(maps, [(o.head, o.span) for o in OBJECTS], GRID), [o.head for o in OBJECTS], GRID, SIZES
        )
        heads = maps[[o.head for o in OBJECTS]]
        few = search(protect(heads, [(i, [i]) for i in range(3)], GRID), range(3), GRID)
        assert few == whole


# --- the schedule and the prompt ----------------------------------------------------------------------------------


def begun(pipe: Any, steps: int = 50, switches: Switches = RELEASED) -> EagerMaskDiffusion:
    prompt, phrases = PROMPTS[2]
    with torch.no_grad():
        state = EagerMaskDiffusion(pipe, prompt, phrases, steps=steps, latent_size=(32, 32), switches=switches)
    state.cover(torch.ones(2, 32, 32, dtype=torch.bool))
    return state


def test_strengths_and_edited_steps(tmp_path: Path) -> None:
    state = begun(four_levels(tmp_path))
    scheduler = DDIMScheduler(steps_offset=1)
    scheduler.set_timesteps(50)
    cross, own = torch.randn(1, 2, 64, TOKENS), torch.randn(1, 2, 64, 64)
    edited: dict[str, list[int]] = {"cross": [], "self": [], "maps": []}
    for timestep in scheduler.timesteps:
        state.begin_step(float(timestep))
        if state.edit(cross, True) is not cross:
            edited["cross"].append(state.step)
        if state.edit(own, False) is not own:
            edited["self"].append(state.step)
        if state.is_tapped("up", True, 64):
            edited["maps"].append(state.step)
    assert state.run.strengths[:15] == pytest.approx(STRENGTHS, abs=1e-4)
    assert edited == {"cross": list(range(2, 15)), "self": list(range(1, 15)), "maps": list(range(15))}
    assert begun(four_levels(tmp_path), steps=20).edited_steps == 6


def test_maps_come_from_five_layers(tmp_path: Path) -> None:
    pipe = four_levels(tmp_path, **EVERY_LEVEL)
    state = begun(pipe)
    state.step = 0
    places = [("down", 1024), ("down", 256), ("down", 64), ("mid", 16), ("up", 64), ("up", 256), ("up", 1024)]
    assert [place for place in places if state.is_tapped(place[0], True, place[1])] == [("down", 64), ("up", 64)]
    layers = [name for name in pipe.unet.attn_processors if "attn2" in name]
    at_grid = [name for name in layers if name.startswith(("down_blocks.2", "up_blocks.1"))]
    assert len(at_grid) == 5 and len(layers) == 16


def test_objects_of_the_demo_prompt(tmp_path: Path) -> None:
    prompt, phrases = PROMPTS[2]
    words = tokenizer(tmp_path)
    objects = find_objects(words, prompt, phrases)
    assert [found.head for found in objects] == [3, 7] and [len(found.span) for found in objects] == [3, 3]
    assert begun(four_levels(tmp_path)).tail == 9 - 2
    assert begun(four_levels(tmp_path), switches=CLEAN).tail == 9 - 1
    assert len(find_objects(words, "a red ball and a red ball", ["a red ball", "a red ball"])) == 1
    with pytest.raises(ValueError, match="'a green ball' is not in the prompt"):
        find_objects(words, prompt, ["a green ball"])


def test_embedding_swap(tmp_path: Path) -> None:
    pipe = four_levels(tmp_path)
    prompt, phrases = PROMPTS[2]
    with torch.no_grad():
        given, negative = pipe.encode_prompt(prompt, "cpu", 1, True, negative_prompt="green")
        alone = pipe.encode_prompt(phrases[1], "cpu", 1, False)[0]
        empty = pipe.encode_prompt("", "cpu", 1, False)[0]
    batch = torch.cat([negative, given])
    for switches in (RELEASED, CLEAN):
        state = begun(pipe, switches=switches)
        state.step = 3
        text = state.text(batch)
        assert torch.equal(text[1, 5:8], alone[0, 1:4])
        others = [0, 4, *range(8, TOKENS)]
        assert torch.equal(text[1, others], given[0, others])
        assert torch.equal(text[0], negative[0] if switches.keep_negative else empty[0])
        state.step = 15
        assert torch.equal(state.text(batch), batch) == (switches.swap_steps == "edited")


# --- whole runs ---------------------------------------------------------------------------------------------------


def test_a_run_gives_the_pipeline_back_and_changes_the_image(tmp_path: Path) -> None:
    pipe = four_levels(tmp_path)
    prompt, phrases = PROMPTS[2]

    def stock() -> Tensor:
        return pipe(prompt, latents=noise(), num_inference_steps=10, height=64, width=64, output_type="latent").images

    before, processors = stock(), dict(pipe.unet.attn_processors)
    run = maskdiffusion_eager(pipe, prompt, phrases, latents=noise(), steps=10)
    assert all(pipe.unet.attn_processors[name] is processor for name, processor in processors.items())
    assert torch.equal(stock(), before)
    assert run.latents is not None and (run.latents - before).norm() > 0.01 * before.norm()
    # three steps of ten are edited, so there are three refreshes and not four
    assert len(run.strengths) == 10 and len(run.maps) == 3 and len(run.regions) == 3
    for maps in run.maps:
        assert maps.shape == (TOKENS, 64)
        torch.testing.assert_close(maps.sum(0), torch.ones(64))


def test_without_an_edit_a_run_is_the_stock_pipeline(tmp_path: Path) -> None:
    """No object, no swap: what is left is attention with its probabilities in memory."""
    pipe = four_levels(tmp_path)
    prompt, _ = PROMPTS[2]
    latents = noise()
    stock = pipe(prompt, latents=latents, num_inference_steps=3, height=64, width=64, output_type="latent").images
    # one step of three is edited, and step 0 edits nothing yet
    run = maskdiffusion_eager(pipe, prompt, [], latents=latents, steps=3)
    assert run.latents is not None
    torch.testing.assert_close(run.latents, stock, rtol=1e-4, atol=1e-4 * stock.abs().max().item())
