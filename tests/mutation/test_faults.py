"""The planted faults fit the source as it is: each can be planted, and the tests that should find it are there.

``make mutate`` plants them. An edit that removes the text of a fault fails here: adapt the fault to the new text.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter

import pytest
from mutation import FAULTS, KINDS, ROOT, Fault
from mutation.report import read_results, score

ALL = [fault for faults in FAULTS.values() for fault in faults]
WORDS_OF_K = {"and", "or", "not"}


@pytest.mark.parametrize("fault", ALL, ids=lambda fault: f"{fault.file}:{fault.name}")
def test_a_fault_can_be_planted(fault: Fault) -> None:
    text = (ROOT / fault.file).read_text()
    assert fault.planted(text) != text
    assert fault.kind in KINDS


@pytest.mark.parametrize("tests", sorted({fault.tests for fault in ALL}))
def test_the_tests_of_a_fault_exist(tests: str) -> None:
    fault = next(fault for fault in ALL if fault.tests == tests)
    assert fault.test_files
    text = "".join(path.read_text() for path in fault.test_files)
    arguments = shlex.split(tests)
    for argument in arguments:
        if argument.startswith("tests/") and "::" in argument:
            assert f"def {argument.rpartition('::')[2].partition('[')[0]}(" in text
    if "-k" in arguments:
        words = set(re.findall(r"\w+", arguments[arguments.index("-k") + 1])) - WORDS_OF_K
        missing = {word for word in words if word not in text}
        assert not missing


def test_there_are_faults_of_every_language_and_kind() -> None:
    assert len({fault.name for fault in ALL}) == len(ALL) >= 100
    assert min(map(len, FAULTS.values())) >= 20
    kinds = Counter(fault.kind for fault in ALL)
    assert min(kinds[kind] for kind in KINDS) >= 3


def test_nearly_all_were_found() -> None:
    assert score(read_results()) >= 0.95
