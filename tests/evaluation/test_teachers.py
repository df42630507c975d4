"""An encoder that took part in training is distinguished from one that did not."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
from torch.nn import Linear

from weft.evaluation import Plan, Teachers, evaluate_sampler, judge_extractor, module_extractor, table
from weft.evaluation.judge.judge import Judge
from weft.evaluation.teachers import NO_TEACHERS, UNKNOWN
from weft.train.core.weights import digest_of_weights
from weft.train.gan.generator import Generator
from weft.train.pictures.pairs import Pair

FEW = Plan(count=8, groups=0)
TAUGHT = Teachers(frozenset({digest_of_weights([Judge.load().image])}), are_all=True)


@pytest.mark.parametrize(
    ("teachers", "is_one", "said"),
    [
        (TAUGHT, True, "its encoder took part in training, which flatters"),
        (NO_TEACHERS, False, "its encoder took no part in training"),
        (UNKNOWN, None, "whether its encoder took part in training is not known"),
    ],
)
def test_retrieval_says_whether_its_encoder_took_part(
    teachers: Teachers, is_one: bool | None, said: str, pictures: list[Pair], perfect: Any
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = evaluate_sampler(
            perfect, pictures[:8], judge_extractor(), FEW, measures=("retrieval",), teachers=teachers
        )["measures"]
    warned = [one for one in caught if "'shapes' took part in training what draws" in str(one.message)]
    assert bool(warned) == bool(is_one)
    assert found["retrieval"]["extractor_taught"] is is_one
    lines = table(found).splitlines()
    assert said in lines[0]
    assert lines[-1].startswith("flattered") == bool(is_one)


def test_of_a_custom_extractor_without_digests_nothing_is_said() -> None:
    extractor = module_extractor(lambda x: x.mean((2, 3)), name="means")
    assert all(teachers.include(extractor) is None for teachers in (TAUGHT, NO_TEACHERS, UNKNOWN))


def test_teachers_are_those_of_the_record() -> None:
    def generator(**record: Any) -> Any:
        return Generator(Linear(1, 1), Linear(1, 1), record)  # type: ignore[arg-type]

    assert Teachers.of(generator(taught_by=list(TAUGHT.digests), knows_teachers=True)) == TAUGHT
    assert Teachers.of(generator(taught_by=[], knows_teachers=True)) == NO_TEACHERS
    assert Teachers.of(generator(taught_by=[], knows_teachers=False)) == UNKNOWN
    # written before records had it
    assert Teachers.of(generator()) == UNKNOWN
    # a part that is known counts, whatever else there was
    assert replace(TAUGHT, are_all=False).include(judge_extractor()) is True
