"""A sample of the ONNX project's node tests; `tools/conformance.py` runs all of them."""

from __future__ import annotations

import collections

import pytest

from tools import conformance

EVERY = 13
"""One test in so many; all of them take minutes."""


@pytest.fixture(scope="module")
def results() -> dict[str, tuple[str, str]]:
    chosen = list(conformance.cases()[::EVERY])
    return {case.name: conformance.run_case(case) for case in chosen}


def test_no_answer_is_wrong(results: dict[str, tuple[str, str]]) -> None:
    assert {name: reason for name, (status, reason) in results.items() if status == "fail"} == {}


def test_most_pass_and_the_rest_say_why_not(results: dict[str, tuple[str, str]]) -> None:
    counts = collections.Counter(status for status, _ in results.values())
    assert counts["pass"] + counts["oracle"] + counts["constant"] > 0.7 * len(results)
    assert all(reason for status, reason in results.values() if status == "unsupported")
