"""Bad input to ``contrastive_loss``: one clear error for each way to be wrong, before anything is computed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import weft
from weft.ops import Columns, contrastive_loss

R, K, D = 4, 6, 3


def arguments(**changed: Any) -> dict[str, Any]:
    """A call that is right but for what is ``changed``."""
    return {"rows": torch.zeros(R, D), "cols": torch.zeros(K, D)} | changed


def ids(*lengths: int, dtype: torch.dtype = torch.int64) -> Any:
    made = tuple(torch.zeros(length, dtype=dtype) for length in lengths)
    return made if len(made) > 1 else made[0]


TYPES = {
    "rows are a list": (arguments(rows=[[1.0]]), "`rows` must be a tensor; got list"),
    "rows integer": (
        arguments(rows=torch.zeros(R, D).int()),
        "`rows` must be float32, bfloat16, float16 or float64; got",
    ),
    "cols are a module": (
        arguments(cols=torch.nn.Linear(1, 1)),
        "`cols` must be a tensor or a sequence of weft.ops.Col",
    ),
    "cols are tensors": (arguments(cols=[torch.zeros(K, D)]), "`cols` must hold weft.ops.Columns; got Tensor"),
    "a segment of a list": (arguments(cols=[Columns([[1.0]])]), "`cols` must be a tensor; got list"),
    "cols of another dtype": (
        arguments(cols=torch.zeros(K, D).half()),
        "`cols` must have the dtype of rows, float32; got float16; convert it with .to(rows.dtype)",
    ),
    "positives are a list": (
        arguments(positives=[0, 1, 2, 3]),
        '`positives` must be "diagonal", a tensor of ids or two of them, of rows and of columns; got list',
    ),
    "positives are None": (
        arguments(positives=None),
        "a tensor of ids or two of them, of rows and of columns; got None",
    ),
    "classes are lists": (
        arguments(classes=([0] * R, [0] * K)),
        "`classes` must be a tensor of ids or two of them, of rows and of columns; got list, list",
    ),
    "a mask of pairs": (
        arguments(exclude=torch.eye(R, K, dtype=torch.bool)),
        "`exclude` must be integer ids; got bool; a mask of pairs is no ids: number the groups",
    ),
    "ids are floats": (
        arguments(positives=ids(R, K, dtype=torch.float32)),
        "`positives` must be integer ids; got float32",
    ),
    "temperature is text": (arguments(temperature="0.1"), "`temperature` must be a number or a tensor; got str"),
    "symmetric is a number": (arguments(symmetric=1), "`symmetric` must be True or False; got 1"),
    "weight is text": (arguments(cols=[Columns(torch.zeros(K, D), weight="1")]), "`weight` must be a number; got str"),
}

VALUES = {
    "rows of one axis": (arguments(rows=torch.zeros(D)), "`rows` must be [R, D], at least one row; got [3]"),
    "no rows": (arguments(rows=torch.zeros(0, D)), "`rows` must be [R, D], at least one row; got [0, 3]"),
    "no columns": (arguments(cols=torch.zeros(0, D)), "[K, 3] to match rows, at least one column; got [0, 3]"),
    "another width": (arguments(cols=torch.zeros(K, D + 1)), "`cols` must be [K, D] = [K, 3] to match rows, at least"),
    "no segments": (arguments(cols=[]), "`cols` must have at least one segment; got an empty sequence"),
    "an option beside segments": (
        arguments(cols=[Columns(torch.zeros(K, D))], temperature=0.1),
        "`temperature` of several segments must be given in each of them; got it beside a sequence; move it into",
    ),
    "ids beside segments": (
        arguments(cols=[Columns(torch.zeros(K, D))], positives=ids(R, K)),
        "`positives` of several segments must be given in each of them",
    ),
    "positives of another word": (arguments(positives="self"), "`positives` must be \"diagonal\" or ids; got 'self'"),
    "exclude of another word": (arguments(exclude="diagonal"), "`exclude` must be \"self\" or ids; got 'diagonal'"),
    "classes of a word": (arguments(classes="self"), "`classes` must be ids or None; got 'self'"),
    "a diagonal of few columns": (
        arguments(cols=torch.zeros(R - 1, D)),
        '`positives` = "diagonal" needs a column for each row, K >= R = 4; got K = 3; give ids',
    ),
    "one tensor of ids": (
        arguments(positives=ids(R)),
        "`positives` must be [K] = [6]; got [4]; one tensor serves rows and columns only where these are as many",
    ),
    "ids of other lengths": (arguments(exclude=ids(K, R)), "`exclude` must be [R] = [4]; got [6]"),
    "temperature of zero": (arguments(temperature=0), "`temperature` must be above 0 and finite; got 0"),
    "temperature not a number": (
        arguments(temperature=float("nan")),
        "`temperature` must be above 0 and finite; got nan",
    ),
    "temperatures": (
        arguments(temperature=torch.ones(2)),
        "`temperature` must be one floating-point number; got float32",
    ),
    "temperature integer": (
        arguments(temperature=torch.ones(()).int()),
        "must be one floating-point number; got int32 []",
    ),
    "weight infinite": (
        arguments(cols=[Columns(torch.zeros(K, D), weight=float("inf"))]),
        "`weight` must be finite; got inf",
    ),
    "an unknown backend": (arguments(backend="fast"), "must be one of auto, cuda, triton, cpu, reference; got 'fast'"),
}


@pytest.mark.parametrize(("call", "message"), TYPES.values(), ids=TYPES)
def test_types(call: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)) as error:
        contrastive_loss(**call)
    assert str(error.value).startswith("contrastive_loss: ")


@pytest.mark.parametrize(("call", "message"), VALUES.values(), ids=VALUES)
def test_values(call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        contrastive_loss(**call)


@pytest.mark.parametrize("name", ["cols", "positives", "exclude", "classes", "temperature"])
def test_devices(name: str) -> None:
    given = {"cols": torch.zeros(K, D), "temperature": torch.ones(())}.get(name)
    there = given.to("meta") if given is not None else tuple(x.to("meta") for x in ids(R, K))
    with pytest.raises(ValueError, match=f"`{name}` must be on the device of rows, cpu; got meta"):
        contrastive_loss(**arguments(**{name: there}))


def test_what_is_right_passes() -> None:
    assert contrastive_loss(**arguments()).shape == ()
    assert contrastive_loss(**arguments(cols=Columns(torch.zeros(K, D)))).shape == ()
    relations = {"positives": ids(R, K), "exclude": "self", "classes": ids(R, K), "temperature": torch.ones(1)}
    assert contrastive_loss(**arguments(**relations)).shape == ()


def test_a_backend_that_refuses_says_why() -> None:
    with pytest.raises(weft.BackendUnavailableError, match="has no `cuda` backend"):
        contrastive_loss(**arguments(), backend="cuda")
