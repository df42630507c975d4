"""What makes a family served: stock images, maps of the stock call, and controls that reach every layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from eager_recorder import Pass, recorded
from tiny_models import HEIGHT, STEPS, TINY, WIDTH, TinyModel, encoded, positions
from tiny_models.located import tokenizer
from torch import Tensor

import weft
from weft.attach import Control, ExtraText, Generation, LayerInfo, LayerRequest, Prompt, Step
from weft.ops import Edit

WORDS = "a red circle on a zebra"  # of one token, and of several
FOUND = ("circle", "zebra")


@dataclass(frozen=True)
class Rows:
    """The part of a generation that carries the prompt, as the pipeline's own code has it.

    Attributes:
        passes: Passes of a step, of which the first carries it.
        row: Its row there.
        batch: All rows.
    """

    passes: int = 1
    row: int = 0
    batch: int = 1


ALONE = Rows()
FIRST_OF_TWO_PASSES = Rows(passes=2)
BEHIND_THE_NEGATIVE = Rows(row=1, batch=2)
JOINT = {
    "flux": ALONE,
    "flux-schnell": ALONE,
    "flux-img2img": ALONE,
    "flux-inpaint": ALONE,
    "flux-kontext": ALONE,
    "flux-fill": ALONE,
    "chroma": FIRST_OF_TWO_PASSES,
    "flux2": ALONE,
    "flux2-reference": ALONE,
    "flux2-klein": FIRST_OF_TWO_PASSES,
    "flux2-klein-reference": FIRST_OF_TWO_PASSES,
    "bria": BEHIND_THE_NEGATIVE,
    "ovis": FIRST_OF_TWO_PASSES,
    "longcat": FIRST_OF_TWO_PASSES,
}
UNETS = {"sdxl-instruct-pix2pix": Rows(batch=3), "kolors": BEHIND_THE_NEGATIVE}
SERVED = {**JOINT, **UNETS}
# name -> the processor that its layers keep
UNSERVED = {
    "flux2-klein-kv": "Flux2KVAttnProcessor",
    "kandinsky": "AttnAddedKVProcessor2_0",
    "kandinsky-2.2": "AttnAddedKVProcessor2_0",
    "deepfloyd-if": "AttnAddedKVProcessor2_0",
}
# they encode one picture for all images, with the first generator, so that the others draw other noise in a batch
NOISE_OF_THE_FIRST = ("flux-img2img", "flux-inpaint", "flux-fill")

served = pytest.mark.parametrize("name", SERVED)
unserved = pytest.mark.parametrize("name", UNSERVED)


@pytest.fixture
def model(name: str) -> TinyModel:
    return TINY[name]


@pytest.fixture
def pipe(model: TinyModel) -> Any:
    return model.build()


def test_every_tiny_model_has_a_row() -> None:
    assert SERVED.keys() | UNSERVED.keys() == TINY.keys()


# --- images ----------------------------------------------------------------------------------------------------------


def state_of(pipe: Any, denoiser: Any) -> Any:
    """Everything that an attachment could have touched, by identity."""
    parts = [part for part in pipe.components.values() if part is not None]
    modules = [
        (
            type(module),
            sorted(module.__dict__),
            id(getattr(module, "processor", None)),
            [list(hooks) for hooks in (module._forward_hooks, module._forward_pre_hooks)],
        )
        for module in denoiser.modules()
    ]
    return type(pipe), sorted(pipe.__dict__), [(type(part), sorted(vars(part))) for part in parts], modules


@served
def test_without_a_control_images_are_stock_and_nothing_is_left(model: TinyModel, pipe: Any) -> None:
    stock = model.generate(pipe, WORDS)
    before = state_of(pipe, model.denoiser(pipe))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="attach:")
        with weft.attach(pipe) as attachment:
            assert torch.equal(model.generate(pipe, WORDS), stock)
            assert attachment.changed and not attachment.skipped
    assert state_of(pipe, model.denoiser(pipe)) == before
    assert torch.equal(model.generate(pipe, WORDS), stock)


# --- words and maps --------------------------------------------------------------------------------------------------


class Listen(Control):
    """Keeps the prompt of a generation."""

    prompt: Prompt

    def begin_generation(self, generation: Generation) -> None:
        assert generation.prompt is not None
        self.prompt = generation.prompt


@served
@pytest.mark.parametrize("word", FOUND)
def test_located_ids_decode_to_the_word(model: TinyModel, pipe: Any, word: str) -> None:
    ids, tokens = encoded(model, pipe, WORDS)[0], tokenizer(model, pipe)
    assert model.text is not None
    dropped = model.text.dropped(pipe)
    with weft.attach(pipe, listen := Listen()):
        model.generate(pipe, WORDS)
        found = listen.prompt.find(word, 0)
    assert list(found) == positions(model, pipe, WORDS, word)
    assert tokens.decode(ids[[place + dropped for place in found]]).strip() == word


def stock_passes(model: TinyModel, pipe: Any, rows: Rows, prompt: str = WORDS) -> list[Pass]:
    """The passes of the stock pipeline that carry the prompt, one a step."""
    with recorded(model.denoiser(pipe)) as passes:
        model.generate(pipe, prompt)
    assert len(passes) == STEPS * rows.passes
    assert {len(one.arguments["encoder_hidden_states"]) for one in passes} == {rows.batch}
    return passes[:: rows.passes]


@served
def test_the_table_of_rows_is_right(name: str, model: TinyModel, pipe: Any) -> None:
    rows = SERVED[name]
    with recorded(model.denoiser(pipe)) as first:
        model.generate(pipe, WORDS)
    with recorded(model.denoiser(pipe)) as second:
        model.generate(pipe, "a blue zebra")
    texts = zip(
        *([one.arguments["encoder_hidden_states"] for one in passes] for passes in (first, second)), strict=True
    )
    differ = [[bool((a != b).any()) for a, b in zip(*pair, strict=True)] for pair in texts]
    carries = [number == rows.row for number in range(rows.batch)]
    step = [carries, *([[False] * rows.batch] * (rows.passes - 1))]
    assert differ == step * STEPS


def real_tokens(model: TinyModel, pipe: Any, length: int) -> Tensor:
    """Which of the ``length`` tokens of the text are no padding, by the ids that the encoder got."""
    assert model.text is not None
    ids = encoded(model, pipe, WORDS)[0]
    real = (ids != tokenizer(model, pipe).pad_token_id)[model.text.dropped(pipe) :][:length]
    return F.pad(real, (0, length - len(real)))  # some pipelines pad what the encoder gave


@pytest.mark.parametrize("name", JOINT)
def test_maps_of_a_joint_attention_are_the_stock_calls(name: str, model: TinyModel, pipe: Any) -> None:
    rows = SERVED[name]
    h, w = HEIGHT // 4, WIDTH // 4  # of pixels, as the blocks see them
    passes = stock_passes(model, pipe, rows)
    with weft.attach(pipe, weft.AttentionMaps(FOUND, reduce=(), size=(h, w))) as attachment:
        model.generate(pipe, WORDS)
        maps = attachment.maps
    assert maps.steps == tuple(range(STEPS))
    assert list(maps.layers) == passes[0].layers == attachment.changed
    length = passes[0].arguments["encoder_hidden_states"].shape[1]
    real = real_tokens(model, pipe, length)
    assert real.any() and not real.all()
    places = {word: positions(model, pipe, WORDS, word) for word in FOUND}
    assert len(places["zebra"]) > 1
    for number, layer in enumerate(maps.layers):
        for step, one in enumerate(passes):
            text = one.of(layer).probabilities()[rows.row, length : length + h * w, :length]
            share = text / text[:, real].sum(1, keepdim=True)
            for word, at in places.items():
                expected = share[:, at].mean(1).view(h, w)
                torch.testing.assert_close(maps[word][number, step, 0], expected, atol=1e-5, rtol=0)
            assert maps.padding is not None
            padding = (text[:, ~real].sum(1) / text.sum(1)).view(h, w)
            torch.testing.assert_close(maps.padding[number, step, 0], padding, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", UNETS)
def test_maps_of_a_cross_attention_are_the_stock_calls(name: str, model: TinyModel, pipe: Any) -> None:
    rows = SERVED[name]
    h, w = HEIGHT // 2, WIDTH // 2  # of the latent
    passes = stock_passes(model, pipe, rows)
    with weft.attach(pipe, weft.AttentionMaps(FOUND, reduce=())) as attachment:
        model.generate(pipe, WORDS)
        maps = attachment.maps
    assert set(maps.layers) == {layer for layer in passes[0].layers if layer.endswith("attn2")}
    assert maps.padding is None
    for number, layer in enumerate(maps.layers):
        for step, one in enumerate(passes):
            probabilities = one.of(layer).probabilities()[rows.row]
            for word in FOUND:
                expected = probabilities[:, positions(model, pipe, WORDS, word)].mean(1)
                if len(expected) != h * w:
                    grid = expected.view(1, 1, h // 2, w // 2)
                    expected = F.interpolate(grid, (h, w), mode="bicubic", align_corners=False).clamp(min=0)
                torch.testing.assert_close(maps[word][number, step, 0], expected.view(h, w), atol=1e-5, rtol=0)


@served
def test_every_image_of_a_batch_has_the_words_of_its_own_prompt(name: str, model: TinyModel, pipe: Any) -> None:
    prompts = (WORDS, "a zebra and the blue ball")
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    negative = {"negative_prompt": ["a green ball"] * 2} if "negative_prompt" in model.options else {}
    control = weft.AttentionMaps(FOUND, missing="zero")
    with weft.attach(pipe, control):
        model.generate(pipe, list(prompts), generator=generators, **negative)
        batch = control.maps
        for image, prompt in enumerate(prompts):
            model.generate(pipe, prompt, generator=torch.Generator().manual_seed(image))
            for word in FOUND:
                assert bool(batch[word][image].any()) is (word in prompt)
                if image == 0 or name not in NOISE_OF_THE_FIRST:
                    torch.testing.assert_close(batch[word][image], control.maps[word][0], atol=1e-5, rtol=0)


# --- edits -----------------------------------------------------------------------------------------------------------


class Shift(Control):
    """Edits every layer: every second key has its logits scaled by ``alpha``, and ``delta`` added."""

    def __init__(self, alpha: float, delta: float) -> None:
        self.edit = Edit(alpha=torch.tensor([[[1.0, alpha]]]), delta=torch.tensor([[[0.0, delta]]]))
        self.requests: dict[str, LayerRequest] = {}

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest:
        if layer.name not in self.requests:
            h, w = layer.grid(step.generation.latent_size)
            keys = step.seqlen_k if layer.is_cross else h * w
            labels = (torch.arange(keys) % 2).int()[None].expand(step.batch, -1)
            self.requests[layer.name] = LayerRequest(self.edit, key_labels=labels)
        return self.requests[layer.name]


@dataclass
class Replay:
    """A pass of a denoiser whose attention layers are given the same inputs every time, so each is independent."""

    denoiser: Any
    arguments: dict[str, Any]
    inputs: dict[str, Any] = field(default_factory=dict)

    def outputs(self, layers: list[str]) -> dict[str, list[Tensor]]:
        """What each layer returns."""
        found: dict[str, list[Tensor]] = {}
        hooks = []
        for name in layers:
            layer = self.denoiser.get_submodule(name)
            hooks += [
                layer.register_forward_pre_hook(self._given(name), with_kwargs=True),
                layer.register_forward_hook(_kept(name, found)),
            ]
        with torch.no_grad():
            self.denoiser(**self.arguments)
        for hook in hooks:
            hook.remove()
        return found

    def _given(self, name: str) -> Callable[..., Any]:
        def give(module: Any, args: Any, kwargs: Any) -> Any:
            args, kwargs = self.inputs.setdefault(name, (args, kwargs))
            return _copied(args), _copied(kwargs)  # blocks may write into them

        return give


def _kept(name: str, found: dict[str, list[Tensor]]) -> Callable[..., None]:
    def keep(module: Any, args: Any, output: Any) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        found[name] = [x.clone() for x in outputs if x is not None]

    return keep


def _copied(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _copied(value) for name, value in values.items()}
    if isinstance(values, tuple):
        return tuple(map(_copied, values))
    return values.clone() if isinstance(values, Tensor) else values


@served
def test_edits_reach_every_claimed_layer(model: TinyModel, pipe: Any) -> None:
    denoiser = model.denoiser(pipe)
    with recorded(denoiser) as passes:
        model.generate(pipe, WORDS)
    replay = Replay(denoiser, passes[0].arguments)
    with weft.attach(pipe) as attachment:
        layers = list(attachment.changed)
    assert set(layers) == set(passes[0].layers)
    stock = replay.outputs(layers)
    with weft.attach(pipe, Shift(alpha=1.0, delta=0.0)):
        neutral = replay.outputs(layers)
    with weft.attach(pipe, Shift(alpha=0.5, delta=2.0)):
        edited = replay.outputs(layers)
    assert stock.keys() == set(layers)
    for name in layers:
        assert _change(neutral[name], stock[name]) <= 1e-5, name
        assert _change(edited[name], stock[name]) > 1e-3, name


def _change(outputs: list[Tensor], stock: list[Tensor]) -> float:
    """The largest change of any output, as a share of its largest value."""
    pairs = zip(outputs, stock, strict=True)
    return max((ours - theirs).abs().max().item() / theirs.abs().max().item() for ours, theirs in pairs)


class MoreTokens(Control):
    """Adds tokens to the text of every layer that sees it."""

    def begin_generation(self, generation: Generation) -> None:
        self.extra = ExtraText(torch.zeros(1, 2, 32), torch.zeros(1, dtype=torch.int64))

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        return LayerRequest(extra=self.extra) if layer.is_cross else None


@pytest.mark.parametrize("name", JOINT)
def test_tokens_are_refused_where_the_text_is_part_of_the_sequence(model: TinyModel, pipe: Any) -> None:
    width = model.denoiser(pipe).config.joint_attention_dim
    with pytest.raises(ValueError, match=r"SoftTokens: transformer_blocks\.0.* takes no further tokens"):
        weft.attach(pipe, weft.SoftTokens(torch.zeros(3, width), blocks=("transformer_blocks",)))
    with (
        weft.attach(pipe, MoreTokens()),
        pytest.raises(ValueError, match=r"adds no tokens to the text of transformer_blocks\.0"),
    ):
        model.generate(pipe)


# --- what is not served ----------------------------------------------------------------------------------------------


@unserved
def test_without_a_layer_to_serve_images_are_stock_and_a_warning_says_so(
    name: str, model: TinyModel, pipe: Any
) -> None:
    prompt = {} if model.text is None else {"prompt": WORDS}
    stock = model.generate(pipe, **prompt)
    before = state_of(pipe, model.denoiser(pipe))
    with pytest.warns(UserWarning, match=f"serves 0 of.*{UNSERVED[name]}"), weft.attach(pipe) as attachment:
        assert torch.equal(model.generate(pipe, **prompt), stock)
        assert not attachment.changed and attachment.skipped
    assert state_of(pipe, model.denoiser(pipe)) == before


@unserved
def test_maps_are_refused_where_no_layer_is_served(name: str, model: TinyModel, pipe: Any) -> None:
    before = state_of(pipe, model.denoiser(pipe))
    kind = type(model.denoiser(pipe)).__name__
    message = f"AttentionMaps needs attention layers, and weft serves 0 of.*{kind}.*{UNSERVED[name]}"
    with pytest.raises(ValueError, match=message):
        weft.attach(pipe, weft.AttentionMaps("circle"))
    assert state_of(pipe, model.denoiser(pipe)) == before
