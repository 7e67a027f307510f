"""Shape arithmetic: compile-time evaluation of nodes on small tensors of numbers and of symbols for sizes.

Exporters compute shapes with ordinary operators (`Shape`, `Gather`, `Mul`, `Concat`...). This module alone defines what
these do to elements; an `Algebra` defines the symbols. Passes use it to fold what does not depend on a run, and a
backend to express the sizes that are only known at run time.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from .algebra import Algebra, Element, NotRepresentable
from .node import Node
from .shape_rules import CONDITIONS, LARGEST, RULES, Call, Known, full, listed
from .types import DType


def shape_of(node: Node, sizes: Sequence[Element]) -> Known:
    """Return the output of a `Shape` node for an input of these sizes."""
    return Known(listed(sizes)[node.attr("start", 0) : node.attr("end")], DType.INT64)


def size_of(sizes: Sequence[Element], algebra: Algebra) -> Known:
    """Return the output of a `Size` node for an input of these sizes. Raises NotRepresentable if that overflows."""
    product = functools.reduce(lambda a, b: algebra.apply("Mul", DType.INT64, a, b), sizes, 1)
    return Known(full(product), DType.INT64)


def evaluate(node: Node, inputs: Sequence[Known | None], algebra: Algebra) -> list[Known] | None:
    """Return the outputs of a node of ONNX's own domain, or None if they cannot be determined.

    `inputs` has None for omitted inputs; all others must be known. Raises ValueError or IndexError if the node is
    invalid: incompatible shapes, an index out of range.
    """
    rule = None if node.domain else RULES.get(node.op_type)
    given = [known for known in inputs if known is not None]
    if rule is None or not given or any(known.elements.size > LARGEST for known in given):
        return None
    try:
        result = rule(Call(node, inputs, algebra))
    except NotRepresentable:
        return None
    if result is None:
        return None
    results = [result] if isinstance(result, np.ndarray) else list(result)
    if any(array.size > LARGEST for array in results):
        return None
    dtype = _result_type(node, given)
    return [Known(array, dtype) for array in results]


def _result_type(node: Node, given: list[Known]) -> DType:
    if node.op_type in CONDITIONS:
        return DType.BOOL
    if node.op_type == "Cast":
        return DType(node.attr("to"))
    if node.op_type == "ConstantOfShape":
        return node.attr("value").dtype
    return given[1 if node.op_type == "Where" else 0].dtype
