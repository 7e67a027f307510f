"""NaN where no standard says what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.ir import Model
from graphopt.proof.oracle import OracleError, Reference
from graphopt.rewriting.rewriter import Rewriter

_BY_KERNEL = frozenset({"ArgMax", "ArgMin", "GlobalMaxPool", "MaxPool", "MaxRoiPool", "ReduceMax", "ReduceMin", "TopK"})
"""Operators that compare elements: in ONNX Runtime, it depends on the kernel and on positions whether NaN wins."""


def is_defined(model: Model, inputs: Mapping[str, Any]) -> bool:
    """Return whether no NaN reaches an operator of the main graph that treats it in any way; it is run for this."""
    compared = {node.inputs[0] for node in model.graph.nodes if node.op in _BY_KERNEL}
    given = [inputs[value.name] for value in compared if value is not None and value.name in inputs]
    names = sorted(value.name for value in compared if value is not None and value.producer is not None)
    if any(_has_nan(array) for array in given):
        return False
    if not names:
        return True
    copy = model.copy()
    found = [copy.graph.find(name) for name in names]
    Rewriter(copy.graph).set_outputs([value for value in found if value is not None])
    try:
        with Reference(copy) as reference:
            return not any(_has_nan(array) for array in reference.run(inputs).values())
    except OracleError:
        return False


def _has_nan(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f" and bool(np.isnan(array).any())
