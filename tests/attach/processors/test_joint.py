"""Joint attention: stock bits with no control; maps and edits against attention in the open; exchange and undo."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import tiny_joint as tiny
import torch
from diffusers.models.attention_processor import FusedJointAttnProcessor2_0, JointAttnProcessor2_0
from eager_joint import eager
from torch import Tensor

import weft
from weft.attach import Control, LayerInfo, LayerRequest, Step
from weft.attach.families import family_of
from weft.attach.families.family import attention_layers
from weft.attach.processors.joint import JointSeam
from weft.ops import Edit

PIXELS = 16
KINDS = pytest.mark.parametrize("config", [tiny.SD3, tiny.SD35], ids=["sd3", "sd3.5"])


class Asking(Control):
    """Asks the same of every joint layer, or of every second attention, and keeps what it reads."""

    def __init__(self, request: LayerRequest, is_joint: bool = True) -> None:
        self.request_, self.is_joint = request, is_joint
        self.maps: dict[str, Tensor] = {}

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        return self.request_ if layer.is_joint == self.is_joint else None

    def read_maps(self, layer: LayerInfo, step: Step, maps: Tensor) -> None:
        self.maps[layer.name] = maps


def random_edit(rows: int, columns: int, batch: int = 1) -> Edit:
    generator = torch.Generator().manual_seed(3)
    alpha, beta, gamma, delta = torch.randn(4, batch, rows, columns, generator=generator)
    delta[0, 1, 0] = -torch.inf
    return Edit(alpha, beta / 4, gamma / 4, delta)


def spread(edit: Edit, query_labels: Tensor, key_labels: Tensor, text: int) -> tuple[Tensor, ...]:
    """The tables at every pair of the whole sequence, whose first queries and last keys the edit knows."""
    rows, columns = query_labels.shape[1], key_labels.shape[1]
    whole = []
    for table, neutral in zip(edit.tables(), (1.0, 0.0, 0.0, 0.0), strict=True):
        assert table is not None
        wide = torch.full((len(query_labels), rows + text, rows + text), neutral)
        for sample in range(len(query_labels)):
            known = table[sample % len(table)][query_labels[sample]][:, key_labels[sample % len(key_labels)]]
            wide[sample, :rows, rows + text - columns :] = known
        whole.append(wide)
    return tuple(whole)


@KINDS
def test_without_controls_every_bit_is_stock(config: dict[str, Any]) -> None:
    model = tiny.transformer(**config)
    stock = tiny.call(model)
    before = dict(model.attn_processors)
    keys = list(model.state_dict())
    with weft.attach(model) as attachment:
        assert torch.equal(tiny.call(model), stock)
        assert torch.equal(tiny.call(model, skip_layers=[1]), tiny.call(copy.deepcopy(model), skip_layers=[1]))
        assert list(model.state_dict()) == keys
        assert attachment.skipped == [] and len(attachment.changed) == len(before)
        assert all(isinstance(p, JointSeam) for p in model.attn_processors.values())
        assert type(pickle.loads(pickle.dumps(model.attn_processors))) is dict
    assert all(model.attn_processors[name] is before[name] for name in before)
    assert torch.equal(tiny.call(model), stock)


@pytest.mark.parametrize("side", [8, (8, 12)])
def test_every_layer_is_described_as_it_runs(side: Any) -> None:
    model, seen = tiny.transformer(**tiny.SD35), {}
    family = family_of(model)
    assert family is not None
    for name, attn in attention_layers(model):
        assert family.refuse_layer(model, name, attn) is None

        def see(module: Any, args: Any, kwargs: Any, name: str = name) -> None:
            seen[name] = (kwargs["hidden_states"].shape[1], "encoder_hidden_states" in kwargs)

        attn.register_forward_pre_hook(see, with_kwargs=True)
    tiny.call(model, **tiny.inputs(side=side))
    assert len(seen) == len(model.attn_processors) == 5
    for name, attn in attention_layers(model):
        info = family.layer_info(model, name, attn)
        h, w = info.grid((side, side) if isinstance(side, int) else side)
        assert (h * w, info.is_joint) == seen[name]
        assert info.is_cross == info.is_joint == (not name.endswith("attn2"))
        assert info.heads * info.head_dim == attn.to_q.out_features


@KINDS
def test_maps_are_the_text_columns_of_the_image_rows(config: dict[str, Any]) -> None:
    model = tiny.transformer(**config)
    with eager(model) as layers:
        expected = tiny.call(model)
        wanted = {name: layer.probabilities[:, :, :PIXELS, PIXELS:].mean(1) for name, layer in layers.items()}
    with weft.attach(model, asking := Asking(LayerRequest(readout=torch.eye(tiny.TEXT)[None]))):
        torch.testing.assert_close(tiny.call(model), expected, atol=1e-5, rtol=1e-5)
    assert set(asking.maps) == {name for name in wanted if name.endswith(".attn")}
    for name, maps in asking.maps.items():
        torch.testing.assert_close(maps, wanted[name], atol=1e-6, rtol=1e-4)


@KINDS
@pytest.mark.parametrize("labels", ["own", "shared", "none"])
def test_edits_move_the_image_towards_the_text_alone(config: dict[str, Any], labels: str) -> None:
    """Row maximum and minimum are those of the whole row, pixels included; the text keeps its logits."""
    model, generator = tiny.transformer(**config), torch.Generator().manual_seed(5)
    samples = 2 if labels == "own" else 1
    queries = torch.randint(3, (samples, PIXELS), generator=generator, dtype=torch.int32)
    keys = torch.randint(2, (samples, tiny.TEXT), generator=generator, dtype=torch.int32)
    edit = random_edit(3, 2, samples)
    if labels == "none":
        queries, keys = torch.zeros_like(queries), torch.zeros_like(keys)
    tables = spread(edit, queries.expand(2, -1), keys.expand(2, -1), tiny.TEXT)
    with eager(model, attn=tables):
        expected = tiny.call(model)
    assert (expected - tiny.call(model)).abs().max() > 1e-3
    given = {} if labels == "none" else {"query_labels": queries, "key_labels": keys}
    with weft.attach(model, Asking(LayerRequest(edit, **given))):
        torch.testing.assert_close(tiny.call(model), expected, atol=1e-5, rtol=1e-4)


@KINDS
def test_every_token_may_have_a_label_as_query_and_as_key(config: dict[str, Any]) -> None:
    model, generator = tiny.transformer(**config), torch.Generator().manual_seed(6)
    total = PIXELS + tiny.TEXT
    queries, keys = torch.randint(3, (2, 1, total), generator=generator, dtype=torch.int32)
    edit = random_edit(3, 3)
    with eager(model, attn=spread(edit, queries, keys, 0)):
        expected = tiny.call(model)
    request = LayerRequest(
        edit,
        queries[:, :PIXELS],
        keys[:, PIXELS:],
        pixel_key_labels=keys[:, :PIXELS],
        text_query_labels=queries[:, PIXELS:],
    )
    with weft.attach(model, Asking(request)):
        torch.testing.assert_close(tiny.call(model), expected, atol=1e-5, rtol=1e-4)
    alone = LayerRequest(request.edit, request.query_labels, request.key_labels)
    with weft.attach(model, Asking(alone)):
        assert (tiny.call(model) - expected).abs().max() > 1e-3


def test_labels_of_a_joint_attention_are_refused_elsewhere() -> None:
    labels = torch.zeros(1, PIXELS, dtype=torch.int32)
    request = LayerRequest(Edit(alpha=torch.ones(1, 1, 1)), pixel_key_labels=labels)
    model = tiny.transformer(**tiny.SD35)
    with (
        weft.attach(model, Asking(request, is_joint=False)),
        pytest.raises(ValueError, match=r"`pixel_key_labels` .* are of a joint attention, and .*attn2 is none"),
    ):
        tiny.call(model)


def test_tables_may_be_written_into_between_passes() -> None:
    model = tiny.transformer()
    edit = Edit(alpha=torch.ones(1, 1, 1))
    with weft.attach(model, Asking(LayerRequest(edit))):
        neutral = tiny.call(model)
        torch.testing.assert_close(neutral, tiny.call(copy.deepcopy(model)), atol=1e-5, rtol=1e-5)
        edit.alpha.fill_(2.0)  # type: ignore[union-attr]
        assert (tiny.call(model) - neutral).abs().max() > 1e-4


def test_the_second_attention_is_one_of_pixels() -> None:
    model = tiny.transformer(**tiny.SD35)
    labels = torch.arange(PIXELS, dtype=torch.int32)[None] % 3
    edit = random_edit(3, 3)
    with eager(model, attn2=spread(edit, labels, labels, 0)) as layers:
        expected = tiny.call(model)
        wanted = {name: layer.probabilities.mean(1) for name, layer in layers.items()}
    request = LayerRequest(edit, labels, labels, torch.eye(PIXELS)[None])
    with weft.attach(model, asking := Asking(request, is_joint=False)):
        torch.testing.assert_close(tiny.call(model), expected, atol=1e-5, rtol=1e-4)
    assert set(asking.maps) == {f"transformer_blocks.{block}.attn2" for block in (0, 1)}
    for name, maps in asking.maps.items():
        torch.testing.assert_close(maps, wanted[name], atol=1e-6, rtol=1e-4)


def test_sinks_get_the_rows_of_the_image() -> None:
    model, taken = tiny.transformer(), []
    request = LayerRequest(readout=torch.ones(1, tiny.TEXT, 2), sink=taken.append)
    with weft.attach(model, asking := Asking(request), Asking(LayerRequest(readout=torch.eye(tiny.TEXT)[None]))):
        tiny.call(model)
    assert [maps.shape for maps in taken] == [(2, PIXELS, 2)] * 3 and asking.maps == {}


def test_fusing_and_unfusing_while_attached() -> None:
    model = tiny.transformer(qk_norm="rms_norm")
    stock = tiny.call(model)
    first = dict(model.attn_processors)
    fused = copy.deepcopy(model)
    fused.fuse_qkv_projections()
    stock_fused = tiny.call(fused)
    asking = Asking(LayerRequest(readout=torch.eye(tiny.TEXT)[None]))
    with weft.attach(model) as attachment:
        tiny.call(model)
        model.fuse_qkv_projections()
        attachment.reset()
        assert torch.equal(tiny.call(model), stock_fused)
        assert all(isinstance(p, JointSeam) for p in model.attn_processors.values())
        attachment.add(asking)
        attachment.reset()
        torch.testing.assert_close(tiny.call(model), stock_fused, atol=1e-5, rtol=1e-5)
        model.unfuse_qkv_projections()
        attachment.reset()
        torch.testing.assert_close(tiny.call(model), stock, atol=1e-5, rtol=1e-5)
        model.fuse_qkv_projections()
    assert {type(p) for p in model.attn_processors.values()} == {FusedJointAttnProcessor2_0}
    model.unfuse_qkv_projections()
    assert all(model.attn_processors[name] is first[name] for name in first)


def test_other_processors_are_left_and_listed() -> None:
    class Custom(JointAttnProcessor2_0):
        """The same arithmetic by other functions."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    model = tiny.transformer()
    model.transformer_blocks[1].attn.set_processor(Custom())
    with weft.attach(model) as attachment:
        assert attachment.skipped == [
            (
                "transformer_blocks.1.attn",
                "Custom calls neither dispatch_attention_fn nor F.scaled_dot_product_attention",
            )
        ]
        assert "2 joint-attention layers" in attachment.describe()


def test_a_pass_with_layers_left_out_is_distinguished() -> None:
    class Watching(Control):
        def __init__(self) -> None:
            self.seen: list[tuple[int, bool]] = []

        def end_pass(self, step: Step) -> None:
            self.seen.append((step.index, step.is_perturbed))

    model = tiny.transformer()
    with weft.attach(model, watching := Watching()):
        tiny.call(model)
        tiny.call(model, skip_layers=[1])
        tiny.call(model, timestep=torch.tensor([400.0, 400.0]))
    assert watching.seen == [(0, False), (0, True), (1, False)]


def test_patches_that_no_level_has() -> None:
    model = tiny.transformer(patch_size=3, sample_size=9)
    with weft.attach(model) as attachment:
        assert not attachment.changed
        assert {reason for _, reason in attachment.skipped} == {
            "patches of 3 x 3 cells halve the latent no whole times"
        }
