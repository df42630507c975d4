"""Who may import whom: csrc, kernels -> ops -> attach -> methods -> train -> cli, read from every file's imports."""

from __future__ import annotations

import pytest
from packages import CONTRIBUTING, ROOT, violations, with_table

FILES = sorted(
    str(path.relative_to(ROOT))
    for top in ("python", "kernels", "benchmarks", "tests")
    for path in (ROOT / top).rglob("*.py")
)


@pytest.mark.parametrize("path", FILES)
def test_imports_follow_the_arrows(path: str) -> None:
    assert violations((ROOT / path).read_text(), path) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("kernels/attention/reference.py", "import triton"),
        ("kernels/attention/reference.py", "from weft import _errors"),
        ("kernels/attention/reference.py", "from weft.kernels.lowrank_linear import reference"),
        ("kernels/attention/launch.py", "import torch"),
        ("kernels/attention/fwd.py", "from ..contrastive import fwd"),
        ("kernels/attention/fwd.py", "import weft.ops.attention"),
        ("kernels/attention/fwd.py", "from .reference import attention_reference"),
        ("python/weft/_errors.py", "from weft.ops import attention"),
        ("python/weft/ops/attention/op.py", "import triton.language as tl"),
        ("python/weft/ops/attention/op.py", "import diffusers"),
        ("python/weft/ops/attention/op.py", "from ...attach import families"),
        ("python/weft/ops/attention/op.py", "def f():\n    from weft import attach"),
        ("python/weft/attach/families/unet.py", "from weft.kernels.attention import reference"),
        ("python/weft/attach/families/unet.py", "from weft.methods import attention_maps"),
        ("python/weft/methods/lag.py", "from diffusers import models"),
        ("python/weft/methods/lag.py", "from diffusers import UNet2DConditionModel"),
        ("python/weft/methods/lag.py", "import weft\n\n\ndef f():\n    return weft.train.core.fit"),
        ("python/weft/ops/attention/op.py", "import weft\n\nweft.AttentionMaps"),
        ("python/weft/ops/attention/op.py", "import weft as w\n\nw.shapes.pipeline()"),
        ("python/weft/attach/unet.py", "import importlib\n\nimportlib.import_module('weft.train.core')"),
        ("python/weft/attach/unet.py", "from importlib import import_module\n\nimport_module(f'weft.train.{name}')"),
        ("python/weft/attach/unet.py", "from importlib import import_module as load\n\n__import__('weft.methods')"),
        ("python/weft/methods/lag.py", "from diffusers.models.attention_processor import Attention"),
        ("python/weft/methods/lag.py", "from weft import train"),
        ("python/weft/train/core/loop.py", "from weft.kernels.attention.reference import attention_reference"),
        ("python/weft/shapes/world.py", "from weft import ops"),
        ("python/weft/evaluation/distances.py", "from weft.kernels.pairwise_error import reference"),
        ("python/weft/evaluation/samplers.py", "from diffusers import DiffusionPipeline"),
        ("python/weft/train/core/loop.py", "from weft import evaluation"),
        ("python/weft/testing/oracles.py", "from weft._errors import BackendUnavailableError"),
        ("python/weft/commands/demo.py", "import weft.kernels"),
        ("benchmarks/run.py", "import tests"),
        ("tests/ops/test_attention.py", "from benchmarks import registry"),
        ("python/weft/unknown/file.py", "import math"),
    ],
)
def test_a_planted_violation_is_caught(path: str, line: str) -> None:
    assert len(violations(line, path)) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("kernels/attention/reference_bwd.py", "from .reference import attend"),
        (
            "kernels/attention/fwd.py",
            "import triton\nfrom weft.kernels.common import softmax\nfrom .launch import choose",
        ),
        ("python/weft/ops/attention/op.py", "from weft.kernels.attention.reference import attention_reference"),
        ("python/weft/ops/attention/op.py", "from ._attention_checks import check"),
        ("python/weft/methods/lag.py", "from diffusers import DiffusionPipeline\nfrom weft.attach import Control"),
        ("python/weft/shapes/world.py", "from .vocabulary import COLOURS"),
        ("python/weft/cli.py", "import tyro\nfrom weft import _doctor\nfrom weft.commands import demo"),
        ("tests/ops/test_attention.py", "import triton\nfrom weft.kernels.attention import fwd"),
    ],
)
def test_what_the_arrows_allow_passes(path: str, line: str) -> None:
    assert violations(line, path) == []


def test_contributing_shows_the_table() -> None:
    text = CONTRIBUTING.read_text()
    assert text == with_table(text), "run `python tests/structure/support/packages.py`"
