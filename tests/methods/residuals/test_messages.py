"""What LocalizedResiduals refuses, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from concepts import BLUE, draw, residual_for

import weft
from weft.testing import assert_differs


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.sd1(tmp_path_factory.mktemp("sd1"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"localize": "maps"}, ValueError, "`localize` must be 'attention' or 'none'; got 'maps'"),
        ({"localize": 3}, TypeError, "must be 'attention', 'none', or a mask or box for each concept"),
        ({"localize": {"red ball": (0, 0, 1, 1)}}, ValueError, "a region for each of 'red circle'; got 'red ball'"),
        ({"localize": [(0, 0, 8, 8)] * 2}, ValueError, "a region for each of 1 concepts; got 2"),
        ({"localize": ["left"]}, TypeError, "must be a box .* or a mask"),
        ({"localize": torch.ones(1, 8, 8)}, ValueError, r"must be \[h, w\]; got \[1, 8, 8\]"),
        ({"localize": torch.full((8, 8), 7.0)}, ValueError, "numbers from 0 to 1; got values from 7 to 7"),
        ({"localize": (0, 0, float("nan"), 8)}, ValueError, "must be finite"),
        ({"threshold": "mean"}, ValueError, "`threshold` must be 'median', 'otsu' or a number"),
        ({"threshold": 1.0}, ValueError, r"a number in \[0, 1\); got 1.0"),
        ({"scale": [np.float32("nan")]}, TypeError, r"finite numbers; got .*nan"),
        ({"scale": "much"}, TypeError, "finite numbers; got 'much'"),
        ({"scale": float("inf")}, TypeError, "finite numbers; got inf"),
        ({"scale": [1.0, 2.0]}, ValueError, "a number for each of 1 concepts"),
        ({"scale": [[1.0], [1.0, 2.0]]}, ValueError, "a number for each of 1 concepts"),
        ({"cfg": "none"}, ValueError, "`cfg` must be 'both' or 'conditional'"),
        ({"overlap": "first"}, ValueError, "`overlap` must be 'largest' or 'sum'"),
        ({"inner": "first"}, ValueError, "`inner` must be 'mean' or 'last'"),
    ],
)
def test_arguments(pipe: Any, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        weft.LocalizedResiduals(residual_for(pipe), **arguments)


def test_residuals(pipe: Any) -> None:
    with pytest.raises(TypeError, match=r"must be weft\.Residual; got str"):
        weft.LocalizedResiduals(["dog.safetensors"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"must be weft\.Residual; got str"):
        weft.LocalizedResiduals("dog.safetensors")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"must be weft\.Residual; got int"):
        weft.LocalizedResiduals(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes 1 to 64 residuals; got 0"):
        weft.LocalizedResiduals([])
    with pytest.raises(ValueError, match="'red circle' is the name of several"):
        weft.LocalizedResiduals([residual_for(pipe), residual_for(pipe)])


def test_a_residual_of_another_model(pipe: Any, tmp_path: Path) -> None:
    other = tiny.sd1(tmp_path, config=tiny.SD2)
    with pytest.raises(ValueError, match="does not fit"):
        weft.attach(other, weft.LocalizedResiduals(residual_for(pipe)))
    weft.attach(other).detach()  # nothing was left behind


def test_two_of_them_at_once(pipe: Any) -> None:
    first, second = weft.LocalizedResiduals(residual_for(pipe)), weft.LocalizedResiduals(residual_for(pipe, BLUE))
    with pytest.raises(ValueError, match="give all concepts to one of them"):
        draw(pipe, first, second)


@pytest.mark.parametrize(
    ("arguments", "call", "message"),
    [
        (
            {},
            {"prompt": "a green ball"},
            "among the first 15 tokens.* written 'red circle'; the prompts",
        ),
        ({"localize": (0, 0, 64, 8)}, {}, "must lie in the image, 32 x 32 pixels"),
        ({"localize": np.ones((16, 16), bool)}, {}, r"must have the size of the image, 32 x 32 .*; got 16 x 16"),
        ({"scale": [[1.0], [1.0], [1.0]]}, {"prompt": ["red circle"] * 2}, "one row for each of 2 images; got 3"),
    ],
)
def test_what_the_prompt_and_the_image_must_be(
    pipe: Any, arguments: dict[str, Any], call: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw(pipe, weft.LocalizedResiduals(residual_for(pipe), **arguments), **call)


def test_embeddings_without_text(pipe: Any) -> None:
    text, _ = pipe.encode_prompt("red circle", "cpu", 1, False)
    call = {"prompt": None, "prompt_embeds": text, "negative_prompt_embeds": torch.zeros_like(text)}
    with pytest.raises(ValueError, match="words of the prompt are not known"):
        draw(pipe, weft.LocalizedResiduals(residual_for(pipe)), **call)
    drawn = draw(pipe, weft.LocalizedResiduals(residual_for(pipe), "none"), **call)
    assert_differs(drawn, draw(pipe, **call))
