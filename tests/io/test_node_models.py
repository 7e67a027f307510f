"""The ONNX project's own node tests through the default pipeline, with every check on after every pass."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest

from graphopt.driver.optimizing import optimize
from graphopt.errors import InputError
from graphopt.proof.oracle import OracleError


@functools.cache
def node_tests() -> list[Any]:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    # What draws random numbers has no numbers to keep, and what gives out nothing has none to compare.
    return [
        test
        for test in found
        if not any(word in test.name for word in ("bernoulli", "random", "training_dropout"))
        and all(np.asarray(array, object).size for _, outputs in test.data_sets for array in outputs)
    ]


@pytest.mark.parametrize("part", range(4))
def test_the_default_pipeline_keeps_their_numbers(part: int) -> None:
    """Every 16th model; those that ONNX Runtime itself cannot run prove nothing and are only counted."""
    outcome: Counter[str] = Counter()
    for test in node_tests()[part * 4 :: 64]:
        arrays = test.data_sets[0][0]
        names = [value.name for value in test.model.graph.input]
        given = dict(zip(names, arrays)) if all(isinstance(array, np.ndarray) for array in arrays) else None
        try:
            optimize(test.model, verify=True, data=given)
        except (OracleError, InputError):
            outcome["not for the oracle"] += 1
        else:
            outcome["kept"] += 1
    assert outcome["kept"] > 2 * outcome["not for the oracle"]
