"""AttentionMaps against an eager extraction that writes every probability down."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
import torch.nn.functional as F
from diffusers import HeunDiscreteScheduler
from torch import Tensor

import weft
from weft.testing import assert_differs


class Extraction:
    """DAAM by hand: an eager processor in every cross-attention, and the averages taken at the end."""

    def __init__(self, pipe: Any) -> None:
        self.records: dict[str, list[Tensor]] = defaultdict(list)  # layer -> passes of [B, Nq, Nk], heads averaged
        self.pipe = pipe

    def __enter__(self) -> Extraction:
        self.before = dict(self.pipe.unet.attn_processors)
        self.pipe.unet.set_attn_processor(
            {
                name: _Recorder(self.records[name.removesuffix(".processor")]) if "attn2" in name else processor
                for name, processor in self.before.items()
            }
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self.pipe.unet.set_attn_processor(dict(self.before))

    def map(self, positions: Sequence[Sequence[int]], size: tuple[int, int], guided: bool, **choice: Any) -> Tensor:
        """[images, h, w] of a token at ``positions[image]`` in each image's prompt."""
        layers, steps = choice.get("layers", list(self.records)), choice.get("steps")
        gathered = []
        for layer in layers:
            for step, probabilities in enumerate(self.records[layer]):
                if steps is not None and step not in steps:
                    continue
                rows = probabilities[len(positions) if guided else 0 :]
                images = []
                for row, places in zip(rows, positions, strict=True):
                    ratio = (size[0] * size[1] / row.shape[0]) ** 0.5
                    grid = row[:, list(places)].mean(1).view(round(size[0] / ratio), round(size[1] / ratio))
                    images.append(F.interpolate(grid[None, None], size, mode="bicubic")[0, 0].clamp(min=0))
                gathered.append(torch.stack(images))
        return torch.stack(gathered).mean(0)


class _Recorder:
    def __init__(self, record: list[Tensor]) -> None:
        self.record = record

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Any = None
    ) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, x in zip(
                (attn.to_q, attn.to_k, attn.to_v),
                (hidden_states, encoder_hidden_states, encoder_hidden_states),
                strict=True,
            )
        )
        probabilities = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)  # [B, H, Nq, Nk]
        self.record.append(probabilities.mean(1))
        return attn.to_out[0]((probabilities @ value).transpose(1, 2).flatten(2))


# "a red circle and a blue square": start, a, red, circle, and, a, blue, square
RED, CIRCLE, BLUE, SQUARE = 2, 3, 6, 7


@pytest.mark.parametrize("guidance_scale", [5.0, 1.0], ids=["guided", "unguided"])
@pytest.mark.parametrize("kind", list(tiny.EXTRA))
def test_maps_equal_the_eager_extraction(kind: str, guidance_scale: float, tmp_path: Path) -> None:
    pipe = tiny.build(kind, tmp_path)
    with Extraction(pipe) as eager:
        tiny.generate(pipe, kind, guidance_scale=guidance_scale)
    with weft.attach(pipe, weft.AttentionMaps(["circle", "square"])) as attachment:
        tiny.generate(pipe, kind, guidance_scale=guidance_scale)
        for word, position in (("circle", CIRCLE), ("square", SQUARE)):
            expected = eager.map([[position]], (16, 16), guidance_scale > 1)
            assert expected.std() > 1e-4, "a flat map would prove nothing"
            assert attachment.maps[word].dtype == torch.float32
            torch.testing.assert_close(attachment.maps[word], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@pytest.mark.parametrize("guidance_scale", [5.0, 1.0], ids=["guided", "unguided"])
def test_two_prompts_with_two_images_each(kind: str, guidance_scale: float, tmp_path: Path) -> None:
    pipe = tiny.build(kind, tmp_path)
    call = {
        "prompt": ["a red circle", "blue ball and a circle"],
        "num_images_per_prompt": 2,
        "guidance_scale": guidance_scale,
    }
    with Extraction(pipe) as eager:
        tiny.generate(pipe, kind, **call)
    with weft.attach(pipe, weft.AttentionMaps(["circle", 2])) as attachment:
        tiny.generate(pipe, kind, **call)
        expected = eager.map([[3], [3], [5], [5]], (16, 16), guidance_scale > 1)
        torch.testing.assert_close(attachment.maps["circle"], expected, atol=1e-5, rtol=0)
        expected = eager.map([[2]] * 4, (16, 16), guidance_scale > 1)
        torch.testing.assert_close(attachment.maps[2], expected, atol=1e-5, rtol=0)


def test_a_portrait_latent(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with Extraction(pipe) as eager:
        tiny.generate(pipe, height=48, width=32)
    with weft.attach(pipe, weft.AttentionMaps("circle")) as attachment:
        tiny.generate(pipe, height=48, width=32)
        expected = eager.map([[CIRCLE]], (24, 16), True)
        torch.testing.assert_close(attachment.maps["circle"], expected, atol=1e-5, rtol=0)


def test_an_odd_latent_of_a_bare_model() -> None:
    torch.manual_seed(0)
    model, maps = tiny.unet(), weft.AttentionMaps([1, 2], reduce="steps")
    with weft.attach(model, maps), torch.no_grad():
        model(torch.randn(2, 4, 13, 9), 500, torch.randn(2, 5, 32))
    assert maps.maps[1].shape == (7, 2, 13, 9)


def test_pieces_of_a_word_and_words_of_a_phrase_are_averaged(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    prompt = "a zebra and a red circle"  # zebra is two tokens, 2 and 3
    with Extraction(pipe) as eager:
        tiny.generate(pipe, prompt=prompt)
    with weft.attach(pipe, weft.AttentionMaps(["zebra", "red circle"])) as attachment:
        tiny.generate(pipe, prompt=prompt)
        for phrase, places in (("zebra", [2, 3]), ("red circle", [6, 7])):
            expected = eager.map([places], (16, 16), True)
            torch.testing.assert_close(attachment.maps[phrase], expected, atol=1e-5, rtol=0)


def test_chosen_layers_and_steps(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with Extraction(pipe) as eager:
        tiny.generate(pipe)
    down = [name for name in eager.records if name.startswith("down_blocks")]
    middle = [name for name in eager.records if "mid_block" in name]
    half = [name for name in eager.records if "down_blocks.1" in name or "up_blocks.1" in name]
    for layers, names in (
        ("down_blocks", down),
        ([r"^mid"], middle),
        (8, half),
        (lambda layer: layer.level == 1, half),
        (["mid_block", 8], [*half, *middle]),
    ):
        for steps, indices in ((None, [0, 1, 2]), (1, [1]), (range(2), [0, 1]), (slice(1, None), [1, 2])):
            with weft.attach(pipe, weft.AttentionMaps("circle", layers=layers, steps=steps)) as attachment:
                tiny.generate(pipe)
                expected = eager.map([[CIRCLE]], (16, 16), True, layers=names, steps=indices)
                torch.testing.assert_close(attachment.maps["circle"], expected, atol=1e-5, rtol=0)


def test_a_layer_or_step_left_out_runs_the_stock_attention(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    stock = tiny.generate(pipe, output_type="latent", num_inference_steps=1)
    with weft.attach(pipe, weft.AttentionMaps("circle", steps=[1, 2])):
        assert torch.equal(tiny.generate(pipe, output_type="latent", num_inference_steps=1), stock)


def test_axes_that_are_kept_average_to_the_reduced_map(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    kept: dict[Any, Any] = {}
    for reduce in (("layers", "steps"), "layers", "steps", ()):
        with weft.attach(pipe, weft.AttentionMaps(["circle", "square"], reduce=reduce)) as attachment:
            tiny.generate(pipe)
            kept[reduce] = attachment.maps
    whole = kept["layers", "steps"]["square"]
    assert kept["layers"]["square"].shape == (3, 1, 16, 16) and kept["layers"].steps == (0, 1, 2)
    assert kept["steps"]["square"].shape == (7, 1, 16, 16) and len(kept["steps"].layers) == 7
    assert kept[()]["square"].shape == (7, 3, 1, 16, 16)
    torch.testing.assert_close(kept["layers"]["square"].mean(0), whole)
    torch.testing.assert_close(kept["steps"]["square"].mean(0), whole)
    torch.testing.assert_close(kept[()]["square"].mean((0, 1)), whole)
    torch.testing.assert_close(kept[()]["square"].mean(0), kept["layers"]["square"])


@pytest.mark.parametrize("size", [16, 32, (8, 24)])
def test_the_size_can_be_chosen(size: Any, tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    sides = (size, size) if isinstance(size, int) else size
    with weft.attach(pipe, weft.AttentionMaps("circle", size=size)) as attachment:
        tiny.generate(pipe)
        assert attachment.maps["circle"].shape == (1, *sides)


def test_maps_of_all_tokens_sum_to_one() -> None:
    torch.manual_seed(0)
    model, maps = tiny.unet(), weft.AttentionMaps(range(5), layers=16)
    with weft.attach(model, maps), torch.no_grad():
        model(torch.randn(1, 4, 16, 16), 500, torch.randn(1, 5, 32))
    torch.testing.assert_close(sum(maps.maps.values()), torch.ones(1, 16, 16))


def test_a_second_order_sampler_averages_both_passes_of_a_step(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    pipe.scheduler = HeunDiscreteScheduler()
    with Extraction(pipe) as eager:
        tiny.generate(pipe)
    assert len(next(iter(eager.records.values()))) == 5, "three steps, the last of first order"
    with weft.attach(pipe, maps := weft.AttentionMaps("circle")):
        tiny.generate(pipe)
        torch.testing.assert_close(maps.maps["circle"], eager.map([[CIRCLE]], (16, 16), True), atol=1e-5, rtol=0)


def test_guidance_that_ends_midway(tmp_path: Path) -> None:
    """The callback of the diffusers documentation that drops the unconditional half."""

    def end_guidance(pipe: Any, index: int, timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
        if index == 1:
            pipe._guidance_scale = 0.0
            kept["prompt_embeds"] = kept["prompt_embeds"].chunk(2)[-1]
        return kept

    pipe = tiny.sd1(tmp_path)
    call = {"callback_on_step_end": end_guidance, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    with Extraction(pipe) as eager:
        tiny.generate(pipe, num_inference_steps=4, **call)
    for passes in eager.records.values():
        assert [len(p) for p in passes] == [2, 2, 1, 1]
        passes[:2] = [p[1:] for p in passes[:2]]
    with weft.attach(pipe, maps := weft.AttentionMaps("circle")):
        tiny.generate(pipe, num_inference_steps=4, **call)
        torch.testing.assert_close(maps.maps["circle"], eager.map([[CIRCLE]], (16, 16), False), atol=1e-5, rtol=0)


def test_each_generation_starts_again(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe, maps := weft.AttentionMaps("circle")):
        tiny.generate(pipe)
        first = maps.maps["circle"]
        kept = first.clone()
        tiny.generate(pipe, prompt="a blue circle")
        assert_differs(maps.maps["circle"], first)
        assert torch.equal(first, kept), "maps already handed out must not change"
        tiny.generate(pipe)
        assert torch.equal(maps.maps["circle"], first)


@pytest.mark.parametrize("missing", ["warn", "zero"])
def test_a_word_that_one_prompt_of_a_batch_lacks(missing: str, tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    # the third is cut off before its word
    prompts = ["a red circle", "a blue square", "red " * 15 + "circle"]
    with (
        weft.attach(pipe, maps := weft.AttentionMaps(["circle", "square"], missing=missing)),
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always", UserWarning)
        tiny.generate(pipe, prompt=prompts)
    assert maps.maps["circle"][0].amin() > 0 and not maps.maps["circle"][1:].any()
    assert maps.maps["square"][1].amin() > 0 and not maps.maps["square"][[0, 2]].any()
    assert maps.found == {"circle": (True, False, False), "square": (False, True, False)}
    named = [str(one.message) for one in said if "AttentionMaps" in str(one.message)]
    assert len(named) == (missing == "warn")
    assert all(
        "'circle' in 'a blue square', 'red red" in one and "'square' in 'a red circle'," in one for one in named
    )


def test_a_word_that_must_not_be_missing(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    prompts = ["a red circle", "a blue square"]
    for tokens, missing in (["circle"], "raise"), (["ball"], "warn"):
        with (
            weft.attach(pipe, maps := weft.AttentionMaps(tokens, missing=missing)),
            pytest.raises(ValueError, match=rf"'{tokens[0]}' is not in the prompt 'a .*'; its words are a, "),
        ):
            tiny.generate(pipe, prompt=prompts)
        with pytest.raises(ValueError, match=r"AttentionMaps\.found: no image was made since attaching"):
            _ = maps.found
    with weft.attach(pipe, maps := weft.AttentionMaps(["ball", "circle"], missing="zero")):
        tiny.generate(pipe, prompt=prompts)
        assert not maps.maps["ball"].any() and maps.found["ball"] == (False, False)


def test_bf16_maps_are_fp32_and_close(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe, maps := weft.AttentionMaps("circle", steps=0)):
        tiny.generate(pipe)
        exact = maps.maps["circle"]
        pipe.to(torch.bfloat16)
        tiny.generate(pipe)
    assert maps.maps["circle"].dtype == torch.float32
    assert (maps.maps["circle"] - exact).abs().max() < 0.05 * exact.max()


def test_missing_words_are_checked_before_the_first_step(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    seen: list[int] = []
    hook = pipe.unet.conv_in.register_forward_hook(lambda *_: seen.append(1))
    with (
        weft.attach(pipe, weft.AttentionMaps(["triangle"])),
        pytest.raises(ValueError, match="'triangle' is not in the prompt 'a red circle and a blue square'"),
    ):
        tiny.generate(pipe)
    hook.remove()
    assert not seen
    stock = tiny.generate(pipe)
    with weft.attach(pipe, wrong := weft.AttentionMaps(["triangle"])) as attachment:
        with pytest.raises(ValueError, match="triangle"):
            tiny.generate(pipe)
        attachment.remove(wrong)
        assert np.array_equal(tiny.generate(pipe), stock), "and the attachment is none the worse"


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: weft.AttentionMaps([]), ValueError, "at least one word or position; got none"),
        (lambda: weft.AttentionMaps(["circle", "circle"]), ValueError, "'circle' more than once"),
        (lambda: weft.AttentionMaps(["circle", ""]), ValueError, "must not be empty"),
        (lambda: weft.AttentionMaps([1.5]), TypeError, "words or positions; got 1.5"),
        (lambda: weft.AttentionMaps([True]), TypeError, "words or positions; got True"),
        (lambda: weft.AttentionMaps([-1]), ValueError, "0 or more; got -1"),
        (lambda: weft.AttentionMaps(None), TypeError, "words or positions; got None"),
        (lambda: weft.AttentionMaps("circle", reduce=("heads",)), ValueError, "'layers', 'steps'; got 'heads'"),
        (lambda: weft.AttentionMaps("circle", reduce=None), ValueError, "'layers', 'steps'; got None"),
        (lambda: weft.AttentionMaps("circle", size=1.5), ValueError, "positive integers.*got 1.5"),
        (lambda: weft.AttentionMaps("circle", size=0), ValueError, "positive integers.*got 0"),
        (lambda: weft.AttentionMaps("circle", size=(1, 2, 3)), ValueError, "positive integers"),
        (lambda: weft.AttentionMaps("circle", size="big"), ValueError, "positive integers.*got 'big'"),
        (lambda: weft.AttentionMaps("circle", missing="nan"), ValueError, '"zero" or "raise"; got \'nan\''),
        (lambda: weft.AttentionMaps("circle", layers=[]), ValueError, "empty sequence"),
        (lambda: weft.AttentionMaps("circle", layers="("), ValueError, "not a regular expression"),
        (lambda: weft.AttentionMaps("circle", layers=1.5), TypeError, "got 1.5"),
        (lambda: weft.AttentionMaps("circle", layers=True), TypeError, "got True"),
        (lambda: weft.AttentionMaps("circle", steps=[]), ValueError, "at least one index"),
        (lambda: weft.AttentionMaps("circle", steps=-1), ValueError, "0 or more; got -1"),
        (lambda: weft.AttentionMaps("circle", steps=slice(3, 2)), ValueError, "not be empty"),
        (lambda: weft.AttentionMaps("circle", steps=slice(-3, None)), ValueError, "from the first step"),
        (lambda: weft.AttentionMaps("circle", steps="all"), TypeError, "got 'all'"),
        (lambda: weft.AttentionMaps("circle", steps=1.5), TypeError, "got 1.5"),
    ],
)
def test_wrong_arguments_are_one_clear_error(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (weft.AttentionMaps(["circle"], layers="left_blocks"), "'left_blocks' fits no cross-attention.*mid_block"),
        (weft.AttentionMaps(["circle"], layers=["mid", lambda layer: False]), "chooses no cross-attention"),
    ],
    ids=["pattern", "predicate"],
)
def test_layers_that_do_not_exist_are_reported_when_attaching(control: Any, message: str, tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with pytest.raises(ValueError, match=message):
        weft.attach(pipe, control)


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (weft.AttentionMaps(["circle"], layers=64), "resolution 64 for a latent of 16 x 16; there are 16, 8, 4"),
        (weft.AttentionMaps([40]), r"position 40; the prompt has positions 0 to 15"),
        (weft.AttentionMaps(["a"]), r"occurs 2 times; write 'a#1' \(position 1\), 'a#2' \(position 5\)"),
    ],
    ids=["resolution", "position", "ambiguous"],
)
def test_what_does_not_fit_the_call_raises_before_the_first_step(control: Any, message: str, tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe, control), pytest.raises(ValueError, match=message):
        tiny.generate(pipe)


def test_maps_that_were_never_read(tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe, maps := weft.AttentionMaps("circle", steps=100)):
        with pytest.raises(ValueError, match="no image was made"):
            _ = maps.maps
        tiny.generate(pipe)
        with pytest.raises(ValueError, match="nothing was read"):
            _ = maps.maps


def test_words_need_a_pipeline() -> None:
    model = tiny.unet()
    with (
        weft.attach(model, weft.AttentionMaps("circle")),
        pytest.raises(ValueError, match="attach the pipeline that you call, or give token positions"),
        torch.no_grad(),
    ):
        model(torch.randn(1, 4, 16, 16), 500, torch.randn(1, 5, 32))


def test_gradients_flow_through_a_model_that_is_read() -> None:
    torch.manual_seed(0)
    model = tiny.unet()
    sample, text = torch.randn(1, 4, 16, 16), torch.randn(1, 5, 32, requires_grad=True)
    (stock,) = torch.autograd.grad(model(sample, 500, text).sample.square().mean(), text)
    with weft.attach(model, maps := weft.AttentionMaps([1])):
        (read,) = torch.autograd.grad(model(sample, 500, text).sample.square().mean(), text)
        assert not maps.maps[1].requires_grad
    torch.testing.assert_close(read, stock, atol=1e-6, rtol=1e-3)
