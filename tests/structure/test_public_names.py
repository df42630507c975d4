"""The public surface, spelt out: a name that comes or goes is a decision and changes this file."""

from __future__ import annotations

import importlib.metadata

import pytest

import weft
import weft.ops
import weft.train

NAMES = [
    "Attachment",
    "AttentionMaps",
    "BackendUnavailableError",
    "FakeToFake",
    "FakeToReal",
    "LocalizedResiduals",
    "MaskDiffusion",
    "Residual",
    "SoftTokens",
    "TaskBranch",
    "TaskPrompts",
    "attach",
    "backend",
    "detach",
    "evaluation",
    "ops",
    "shapes",
    "testing",
    "train",
]
OPS = [
    "Columns",
    "Edit",
    "attention",
    "bounded_logit",
    "contrastive_loss",
    "lowrank_linear",
    "pairwise_error",
    "regions",
]
TRAIN = [
    "DistributionConfig",
    "Diverged",
    "GanConfig",
    "Generator",
    "Interrupted",
    "LoopConfig",
    "MaskedObject",
    "MaskedPicture",
    "Mixture",
    "ResidualConfig",
    "Sampling",
    "SoftTokensConfig",
    "TaskPromptsConfig",
    "encode_pairs",
    "fit_gan",
    "fit_residual",
    "fit_soft_tokens",
    "fit_task_prompts",
    "inpainting_pipeline",
]


def test_names_of_weft() -> None:
    assert sorted(weft.__all__) == NAMES


def test_names_of_ops() -> None:
    assert sorted(weft.ops.__all__) == OPS


def test_names_of_train() -> None:
    assert sorted(weft.train.__all__) == TRAIN


@pytest.mark.parametrize("name", TRAIN)
def test_name_of_train_is_there_and_documented(name: str) -> None:
    assert getattr(weft.train, name).__doc__


@pytest.mark.parametrize("name", NAMES)
def test_name_of_weft_is_there_and_documented(name: str) -> None:
    assert getattr(weft, name).__doc__
    assert name in dir(weft)


@pytest.mark.parametrize("name", OPS)
def test_name_of_ops_is_there_and_documented(name: str) -> None:
    assert getattr(weft.ops, name).__doc__


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(AttributeError, match="AttentionMaps"):
        _ = weft.AttentionMap


def test_version_is_that_of_the_package() -> None:
    assert weft.__version__ == importlib.metadata.version("weft")
