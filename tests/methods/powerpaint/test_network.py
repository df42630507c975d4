"""A network beside a UNet: what it consists of at released widths, how it begins, and with which UNets it works."""

from __future__ import annotations

import copy
import math
import re

import branches
import pytest
import tiny_pipelines as tiny
import torch

from weft.methods.powerpaint.network import UNKNOWN_FROM_SHAPES, Branch, beside, config_from_shapes, empty_branch

RELEASED = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, **UNKNOWN_FROM_SHAPES}


def released_shapes(branch: Branch) -> dict[str, tuple[int, ...]]:
    state = branch.state_dict()
    return {name: tuple(state[ours].shape) for name, ours in branch.released_names().items()}


def test_tensors_at_released_widths() -> None:
    """Counts, names and size of the published file: 24, 2 and 30 tensors of 1x1 convolutions, 3.54 GB in fp32."""
    shapes = released_shapes(empty_branch(RELEASED))
    counts = {
        part: sum(name.startswith(part) for name in shapes)
        for part in ("brushnet_down_blocks.", "brushnet_mid_block.", "brushnet_up_blocks.", "conv_in_condition.")
    }
    assert list(counts.values()) == [24, 2, 30, 2]
    others = {name.split(".")[0] for name in shapes} - {part.rstrip(".") for part in counts}
    assert others == {"time_embedding", "down_blocks", "mid_block", "up_blocks"}
    assert shapes["conv_in_condition.weight"] == (320, 9, 3, 3)
    assert shapes["brushnet_down_blocks.11.weight"] == shapes["brushnet_mid_block.weight"] == (1280, 1280, 1, 1)
    assert shapes["brushnet_up_blocks.0.weight"] == (1280, 1280, 1, 1)
    assert shapes["brushnet_up_blocks.14.weight"] == (320, 320, 1, 1)
    assert round(4 * sum(map(math.prod, shapes.values())) / 1e9, 2) == 3.54


@pytest.mark.parametrize(
    "config", [RELEASED, {**branches.BASE, **UNKNOWN_FROM_SHAPES}, {**RELEASED, "use_linear_projection": True}]
)
def test_shapes_give_the_configuration(config: dict) -> None:
    shapes = released_shapes(empty_branch(config))
    assert released_shapes(empty_branch({**UNKNOWN_FROM_SHAPES, **config_from_shapes(shapes)})) == shapes


def test_it_begins_as_the_unet_and_adds_nothing() -> None:
    unet = branches.unet()
    branch = beside(unet)
    sample, timestep, text = branches.inputs(channels=9)
    with torch.no_grad():
        found = branch(sample, timestep, text)
    assert [residual.shape[1] for residual in found[:3]] == [32, 32, 32]
    assert all(not residual.any() for residual in found)
    first = branch.unet.conv_in.weight
    assert torch.equal(first[:, :4], unet.conv_in.weight) and torch.equal(first[:, 4:8], unet.conv_in.weight)
    assert not first[:, 8].any(), "the mask is read by nothing yet"
    assert torch.equal(branch.unet.mid_block.resnets[0].conv1.weight, unet.mid_block.resnets[0].conv1.weight)
    assert not any(parameter.requires_grad for parameter in branch.parameters())
    other = beside(unet, masked_latents_at=5).unet.conv_in.weight
    assert not other[:, 4].any() and torch.equal(other[:, 5:], unet.conv_in.weight)


def test_a_copy_taps_itself() -> None:
    branch = branches.branch(branches.unet())
    twin, given = copy.deepcopy(branch), branches.inputs(channels=9)
    with torch.no_grad():
        expected = branch(*given)
        branch.unet.conv_in.weight.zero_()
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(twin(*given), expected, strict=True))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"block_out_channels": (32, 32, 64, 96)}, r"64 channels at down_blocks\.3\.resnets\.0, this UNet 96"),
        ({"layers_per_block": 1}, r"adds at 28 places and this UNet has 20"),
        ({"cross_attention_dim": 48}, r"reads text of width 32, this UNet 48"),
        ({"in_channels": 9}, None),  # asked of the pipeline
    ],
)
def test_with_which_unets_it_works(changes: dict, reason: str | None) -> None:
    branch = branches.branch(branches.unet())
    found = branch.mismatch(tiny.unet({**branches.BASE, **changes}))
    assert (found is None) == (reason is None)
    assert reason is None or re.search(reason, str(found))
