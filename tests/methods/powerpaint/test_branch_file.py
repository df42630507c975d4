"""Files of a branch: weft's own, and synthetic ones with the names, shapes and conventions of PowerPaint v2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import branches
import inpainting
import pytest
import task_branches
import tiny_pipelines as tiny
import torch
from safetensors.torch import load_file, save_file
from task_branches import PUBLISHED, mirrored, prompts, released
from torch import Tensor

import weft
from weft.methods.powerpaint.branch_published import is_branch_at
from weft.methods.powerpaint.network import UNKNOWN_FROM_SHAPES, Branch, config_from_shapes, empty_branch

BRANCH_FILE = "PowerPaint_Brushnet/diffusion_pytorch_model.safetensors"
TEXT_FILE = "PowerPaint_Brushnet/pytorch_model.bin"


@pytest.fixture(scope="module")
def network() -> Branch:
    return branches.branch(branches.unet())


def assert_same(found: Branch, expected: Branch) -> None:
    mine, theirs = found.state_dict(), expected.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@torch.no_grad()
def spoken(encoder: Any, words: int, vectors: Tensor) -> Tensor:
    """The states of a text that is nothing but ``vectors``, by the encoder itself with a longer table."""
    table = encoder.get_input_embeddings().weight.data[:words]
    encoder.resize_token_embeddings(words + len(vectors) + 1, mean_resizing=False)  # never without a row
    encoder.get_input_embeddings().weight.data[: words + len(vectors)] = torch.cat([table, vectors])
    ids = [words - 2, *range(words, words + len(vectors))]
    ids += [words - 1] * (tiny.MAX_LENGTH - len(ids))
    return encoder(input_ids=torch.tensor([ids])).last_hidden_state[0]


# --- weft's own --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_own_file_round_trip(network: Branch, dtype: torch.dtype | None, tmp_path: Path) -> None:
    path = tmp_path / "task_branch.safetensors"
    branch = weft.TaskBranch(network, task_branches.states(), "dev", "a model")
    branch.save(path, dtype)
    for found in (weft.TaskBranch.load(path), weft.TaskBranch.load(tmp_path)):
        assert (found.dialect, found.base_name) == ("dev", "a model")
        assert found.network.dtype == (dtype or torch.float32)
        if dtype is None:
            assert_same(found.network, network)
            assert all(torch.equal(found.states[name], state) for name, state in branch.states.items())
    assert weft.TaskBranch.load(path, dtype=torch.bfloat16).network.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="is of weft; `dialect` belongs to released weights"):
        weft.TaskBranch.load(path, dialect="dev")


def test_own_file_has_the_released_names(network: Branch, tmp_path: Path) -> None:
    path = tmp_path / "task_branch.safetensors"
    weft.TaskBranch(network, task_branches.states()).save(path)
    names = set(load_file(path))
    assert set(network.released_names()) == {name for name in names if not name.startswith("states.")}
    assert len(names) - len(network.released_names()) == 4


def test_own_file_that_is_damaged_or_another(network: Branch, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    weft.TaskBranch(network, task_branches.states()).save(path)
    tensors = load_file(path)
    with pytest.raises(ValueError, match=r"load it with weft\.TaskBranch"):
        weft.TaskPrompts.load(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut short, damaged or of another kind"):
        weft.TaskBranch.load(path)
    del tensors["states.empty"]
    record = {"kind": "task branch", "format": 1, "dialect": "dev", "base_name": "a", "config": network.config}
    save_file(tensors, path, metadata={"weft": json.dumps(record)})
    with pytest.raises(ValueError, match="has no state of the text 'empty'"):
        weft.TaskBranch.load(path)
    weft.TaskPrompts(inpainting.vectors(32)).save(path)
    with pytest.raises(ValueError, match=r"is no branch but task prompts of weft; load it with weft\.TaskPrompts"):
        weft.TaskBranch.load(path)


# --- published ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_released_folder(network: Branch, prefix: str, tmp_path: Path) -> None:
    folder = released(network, tmp_path / "v2", prefix=prefix)
    for path in (folder, folder / "PowerPaint_Brushnet", folder / BRANCH_FILE):
        found = weft.TaskBranch.load(path)
        assert_same(found.network, network)
        assert (found.dialect, found.base_name, found.reuse) == ("main-v2", "released PowerPaint v2", 1)
        for name, vectors in (*prompts().items(), ("empty", torch.zeros(0, 32))):
            expected = spoken(task_branches.text_encoder(50), 50, vectors)
            assert torch.allclose(found.states[name], expected, atol=1e-5), name
    assert weft.TaskBranch.load(folder, dtype=torch.float16).network.dtype == torch.float16


@pytest.mark.parametrize("dialect", ["main-v2", "dev"])
def test_folder_in_diffusers_layout(network: Branch, dialect: str, tmp_path: Path) -> None:
    """The states are those of the tokens that users of the released code write."""
    folder = mirrored(network, tmp_path / "mirror", dialect)
    if dialect == "dev":
        with pytest.warns(UserWarning, match=r"passed in the form that it expects"):
            found = weft.TaskBranch.load(folder)
    else:
        found = weft.TaskBranch.load(folder)
    assert_same(found.network, network)
    assert found.dialect == dialect
    encoder = type(task_branches.text_encoder(4)).from_pretrained(folder / "text_encoder_brushnet")
    tokenizer = tiny.CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=tiny.MAX_LENGTH)
    for name, token in PUBLISHED.items():
        first = token if dialect == "dev" else f"{token}_0"
        text = " ".join([first, *(f"{token}_{number}" for number in range(1, 10))])
        ids = tokenizer(text, padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            assert torch.allclose(found.states[name], encoder(input_ids=ids).last_hidden_state[0], atol=1e-5), name
    ids = tokenizer("", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.allclose(found.states["empty"], encoder(input_ids=ids).last_hidden_state[0], atol=1e-5)


def test_a_loaded_branch_paints(network: Branch, tmp_path: Path) -> None:
    pipe = branches.pipeline(tmp_path / "tokenizer")
    branch = weft.TaskBranch.load(released(network, tmp_path / "v2"))
    with weft.attach(pipe, branch):
        found = pipe(prompt="", **task_branches.call(output_type="pil"), **branch.removal("red")).images[0]
    assert inpainting.repainted(found, inpainting.picture(size=task_branches.SIZE)).any()


def test_a_text_encoder_whose_prompts_nothing_names(network: Branch, tmp_path: Path) -> None:
    folder = mirrored(network, tmp_path / "mirror")
    expected = weft.TaskBranch.load(folder).states
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(ValueError, match=r"TaskBranch\.load: nothing beside .* 'main-v2' \(context, shape, object\)"):
        weft.TaskBranch.load(folder)
    found = weft.TaskBranch.load(folder, dialect="main-v2").states
    assert all(torch.equal(found[name], state) for name, state in expected.items())
    with pytest.warns(UserWarning, match="in the form that it expects"):
        other = weft.TaskBranch.load(folder, dialect="dev").states
    assert torch.equal(other["object"], expected["context"]), "the wrong order takes the wrong rows"
    with pytest.raises(ValueError, match=r"`dialect` must be 'main-v2' or 'dev'; got 'main-v1'"):
        weft.TaskBranch.load(folder, dialect="main-v1")


def test_released_widths_are_known_by_shapes() -> None:
    config = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, **UNKNOWN_FROM_SHAPES}
    branch = empty_branch(config)
    state = branch.state_dict()
    shapes = {name: tuple(state[ours].shape) for name, ours in branch.released_names().items()}
    config = config_from_shapes(shapes)
    assert len(shapes) == 738
    assert config["block_out_channels"] == (320, 640, 1280, 1280) and config["layers_per_block"] == 2
    assert config["down_block_types"] == ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    assert config["up_block_types"] == ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    assert config["cross_attention_dim"] == 768 and not config["use_linear_projection"]


# --- what does not fit -------------------------------------------------------------------------------------------


def changed(path: Path, change: Any) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("brushnet_up_blocks.14.bias"),
            r"736 tensors of a branch; of these it lacks 1, such as brush",
        ),
        (lambda t: t.pop("time_embedding.linear_1.weight"), r"lacks 1, such as time_embedding\.linear_1\.weight"),
        (lambda t: t.update({"conv_out.weight": torch.ones(1)}), r"it adds 1, such as conv_out\.weight"),
        (
            lambda t: t.update({"brushnet_down_blocks.3.weight": torch.ones(64, 64, 1, 1)}),
            r"brushnet_down_blocks\.3\.weight of .* must be \[32, 32, 1, 1\]; it is \[64, 64, 1, 1\]",
        ),
        (
            lambda t: t.update({"conv_in_condition.weight": torch.ones(32, 8, 3, 3)}),
            r"must have 9 input channels .* conv_in_condition\.weight is \[32, 8, 3, 3\]",
        ),
        (
            lambda t: t.pop("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"),
            r"is damaged: it lacks mid_block\.attentions\.0\.transformer_blocks",
        ),
        (
            lambda t: [t.pop(name) for name in list(t) if ".attentions." in name],
            r"is a branch without attention to text, as plain BrushNet is: it reads no task",
        ),
    ],
)
def test_branches_that_are_not_whole(network: Branch, change: Any, message: str, tmp_path: Path) -> None:
    folder = released(network, tmp_path / "v2")
    changed(folder / BRANCH_FILE, change)
    with pytest.raises(ValueError, match=message):
        weft.TaskBranch.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("text_model.embeddings.token_embedding.trainable_embeddings.P_obj"), r"P_obj'; it has 0"),
        (
            lambda t: t.update(
                {"text_model.embeddings.token_embedding.trainable_embeddings.P_obj": torch.ones(9, 32)}
            ),
            r"P_obj of .* must be \[10, 32\]; it is \[9, 32\]",
        ),
        (lambda t: t.pop("text_model.final_layer_norm.bias"), r"is damaged: it lacks final_layer_norm\.bias"),
        (lambda t: t.pop("text_model.encoder.layers.0.mlp.fc1.bias"), r"lacks encoder\.layers\.0\.mlp\.fc1\.bias"),
        (
            lambda t: t.update({"text_model.encoder.layers.1.mlp.fc1.bias": torch.ones(3)}),
            r"is no CLIP text encoder: .*size mismatch",
        ),
        (lambda t: t.update(step=3), r"must hold tensors by name, as a state dict"),
    ],
)
def test_text_encoders_that_are_not_whole(network: Branch, change: Any, message: str, tmp_path: Path) -> None:
    folder = released(network, tmp_path / "v2")
    tensors = torch.load(folder / TEXT_FILE, weights_only=True)
    change(tensors)
    torch.save(tensors, folder / TEXT_FILE)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        weft.TaskBranch.load(folder)


class Surprise:
    """What a pickled file can do when it is read."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("surprise"),)


def test_no_code_of_a_pickled_file_runs(network: Branch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = released(network, tmp_path / "v2")
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Surprise()}, folder / TEXT_FILE)
    with pytest.raises(ValueError, match="is no whole file of tensors"):
        weft.TaskBranch.load(folder)
    assert not (tmp_path / "surprise").exists()
    (folder / TEXT_FILE).write_bytes(b"PK")
    with pytest.raises(ValueError, match="is no whole file of tensors"):
        weft.TaskBranch.load(folder)
    (folder / TEXT_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"needs its text encoder, from which the task prompts come"):
        weft.TaskBranch.load(folder)


def test_the_first_version_is_reported(network: Branch, tmp_path: Path) -> None:
    """Weights of v1 given to v2 and the reverse say what they are and who reads them."""
    folder = tmp_path / "v1"
    text = task_branches.wrapped(task_branches.text_encoder(50).state_dict())
    parts = {"unet": tiny.unet(in_channels=9).state_dict(), "text_encoder": text}
    for part, tensors in parts.items():
        (folder / part).mkdir(parents=True)
        save_file(tensors, folder / part / f"{part}.safetensors")
    with pytest.raises(ValueError, match=r"v1 is PowerPaint v1: an inpainting UNet .* weft\.TaskPrompts\.load"):
        weft.TaskBranch.load(folder)
    with pytest.raises(ValueError, match=r"is an inpainting UNet, as of PowerPaint v1, with 9 input channels"):
        weft.TaskBranch.load(folder / "unet" / "unet.safetensors")
    with pytest.raises(ValueError, match=r"is a text encoder; needs the branch beside which it lies"):
        weft.TaskBranch.load(folder / "text_encoder" / "text_encoder.safetensors")
    second = released(network, tmp_path / "v2")
    for path in (second, second / BRANCH_FILE):
        with pytest.raises(ValueError, match=r"is PowerPaint v2: a BrushNet branch .* load it with weft\.TaskBranch"):
            weft.TaskPrompts.load(path)


def test_what_is_known_as_a_branch(network: Branch, tmp_path: Path) -> None:
    """Whole or not, so that what loads it can say what is wrong."""
    folder = released(network, tmp_path / "v2")
    paths = (folder, folder / "PowerPaint_Brushnet", folder / BRANCH_FILE)
    assert all(is_branch_at(path) for path in paths)
    changed(folder / BRANCH_FILE, lambda t: t.pop("conv_in_condition.bias"))
    assert all(is_branch_at(path) for path in paths)
    save_file({"conv_in.weight": torch.ones(16, 4, 3, 3)}, tmp_path / "diffusion_pytorch_model.safetensors")
    others = (folder / TEXT_FILE, tmp_path, tmp_path / "diffusion_pytorch_model.safetensors", tmp_path / "absent")
    assert not any(is_branch_at(path) for path in others)
    (folder / BRANCH_FILE).unlink()
    assert is_branch_at(folder), "what was not fetched whole is named too"


def test_the_configuration_beside_a_branch(network: Branch, tmp_path: Path) -> None:
    """What no tensor shows is as it says, zero and false too; a null says nothing."""
    folder = released(network, tmp_path / "v2")
    said = {"norm_num_groups": network.config["norm_num_groups"], "flip_sin_to_cos": False, "act_fn": None}
    (folder / "PowerPaint_Brushnet" / "config.json").write_text(json.dumps(said))
    found = weft.TaskBranch.load(folder).network.config
    assert (found["flip_sin_to_cos"], found["act_fn"]) == (False, UNKNOWN_FROM_SHAPES["act_fn"])


def test_other_things(network: Branch, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is nothing at .*absent; needs a file of weft"):
        weft.TaskBranch.load(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no branch; needs"):
        weft.TaskBranch.load(tmp_path / "empty")
    save_file({"conv_in.weight": torch.ones(16, 4, 3, 3)}, tmp_path / "unet.safetensors")
    with pytest.raises(ValueError, match=r"is a UNet, with 4 input channels and no branch"):
        weft.TaskBranch.load(tmp_path / "unet.safetensors")
    save_file({"weight": torch.ones(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"is no branch: it has no conv_in_condition\.weight"):
        weft.TaskBranch.load(tmp_path / "lora.safetensors")
    torch.save({}, tmp_path / "branch.bin")
    with pytest.raises(ValueError, match=r"branch\.bin is no safetensors file"):
        weft.TaskBranch.load(tmp_path / "branch.bin")
    folder = released(network, tmp_path / "v2")
    (folder / "PowerPaint_Brushnet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        weft.TaskBranch.load(folder)
