"""The inputs that a model takes, and checks of arrays for them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.errors import InputError
from graphopt.ir import DType, Model, TensorType, Value

from .sizes import check_shape


def required_inputs(model: Model) -> list[Value]:
    """Return the inputs that a caller must pass: those without a default."""
    return [value for value in model.graph.inputs if not value.is_initializer]


def optional_inputs(model: Model) -> list[Value]:
    """Return the inputs that a caller may omit: those with a default."""
    return [value for value in model.graph.inputs if value.is_initializer]


def check_input(model: Model, value: Value, array: Any) -> None:
    """Raise InputError unless the array has the dtype of the input and a shape that it allows."""
    if not isinstance(value.type, TensorType) or not isinstance(array, np.ndarray):
        return
    expected = value.type.dtype
    if array.dtype != expected.numpy and not (expected is DType.STRING and array.dtype.kind in "US"):
        raise InputError(
            f"input '{value.name}' has dtype {array.dtype}, but must have {expected.text}",
            where=model.name,
            remedy=f"convert it first: array.astype('{expected.text}')",
        )
    check_shape(model, value, array.shape)


def check_name(model: Model, values: Mapping[str, Value], name: str) -> None:
    if name not in values:
        near = difflib.get_close_matches(name, values, 1)
        remedy = f"did you mean '{near[0]}'?" if near else f"its inputs: {', '.join(values) or 'none'}"
        raise InputError(f"the model has no input '{name}'", where=model.name, remedy=remedy)
