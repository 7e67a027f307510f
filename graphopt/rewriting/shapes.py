"""Fixing of the shapes of a model's inputs, so that all other shapes can be inferred."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from graphopt.errors import InputError
from graphopt.ir import Dim, Model, TensorType, Value, infer_shapes

from .rewriter import Rewriter


def fix_shapes(model: Model, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give inputs of `model` these shapes, by name, and infer everything that follows from them.

    A symbolic size that an input fixes is fixed wherever the model names it. Raises InputError for a name that is not
    an input, a shape that contradicts the declared one, and sizes that contradict each other.
    """
    if not shapes:
        return
    inputs = {value.name: value for value in model.graph.inputs if not value.is_initializer}
    symbols: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in inputs:
            near = difflib.get_close_matches(name, inputs, 1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            known = ", ".join(inputs) or "none"
            raise InputError(f"there is no input '{name}'", where=model.name, remedy=f"{hint}the inputs are: {known}")
        _bind(model, inputs[name], tuple(shape), symbols)
    for graph in model.graph.all_graphs():
        rewriter = Rewriter(graph)
        for value in graph.values():
            _fix(rewriter, value, symbols)
    rewriter = Rewriter(model.graph)
    for name, shape in shapes.items():
        type_ = inputs[name].type
        assert isinstance(type_, TensorType)
        rewriter.set_type(inputs[name], TensorType(type_.dtype, tuple(shape)))
    infer_shapes(model)


def _bind(model: Model, value: Value, shape: tuple[int, ...], symbols: dict[str, int]) -> None:
    """Check `shape` against the declared type of the input, and record the values of its symbolic sizes."""
    if not isinstance(value.type, TensorType):
        raise InputError(f"input '{value.name}' is not a tensor: it has no shape to fix", where=model.name)
    declared = value.shape
    if declared is None:
        return
    if len(declared) != len(shape):
        raise InputError(
            f"input '{value.name}' is {value.type}: it cannot have {len(shape)} dimensions", where=model.name
        )
    for dim, size in zip(declared, shape, strict=True):
        expected = symbols.setdefault(dim, size) if isinstance(dim, str) else dim
        if expected is not None and expected != size:
            what = f"'{dim}' is already {expected}" if isinstance(dim, str) else f"the model fixes it to {dim}"
            raise InputError(
                f"input '{value.name}' is {value.type}: a size cannot be {size}, {what}",
                where=model.name,
                remedy="specify sizes for symbolic dimensions only, and equal sizes for equal names",
            )


def _fix(rewriter: Rewriter, value: Value, symbols: Mapping[str, int]) -> None:
    shape = value.shape
    if shape is None or not isinstance(value.type, TensorType):
        return
    fixed: tuple[Dim, ...] = tuple(symbols.get(dim, dim) if isinstance(dim, str) else dim for dim in shape)
    if fixed != shape:
        rewriter.set_type(value, TensorType(value.type.dtype, fixed))
