"""Evaluation of nodes on values known at compile time, including symbolic sizes, which need no kernel.

Exporters compute shapes with ordinary operators (`Shape`, `Gather`, `Mul`, `Concat`...). Because these are evaluated
element by element over numbers and symbolic expressions, a `Reshape` that reads the result keeps its dynamic sizes.
"""

from __future__ import annotations

from graphopt.ir import DType, shape_arithmetic
from graphopt.ir.shape_arithmetic import LARGEST, Known
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.operand import Operand
from graphopt.targets.tvm.lowering.registry import Declined
from graphopt.targets.tvm.lowering.scalars import Scalars

_TYPES = {"int64": DType.INT64, "int32": DType.INT32, "bool": DType.BOOL, "float32": DType.FLOAT}


def evaluate(call: Call) -> list[Operand | None] | None:
    """Return the outputs of a node whose inputs are all host values, or None if it must become a kernel.

    Raises Declined if the node is invalid: an index out of range, incompatible shapes.
    """
    given = [operand for operand in call.inputs if operand is not None]
    if any(not operand.is_host or operand.dtype not in _TYPES for operand in given):
        return None
    if any(operand.size is None or operand.size > LARGEST for operand in given):
        return None
    inputs = [None if operand is None else known(operand) for operand in call.inputs]
    try:
        results = shape_arithmetic.evaluate(call.node, inputs, Scalars(call.ctx.symbols))
    except (ValueError, IndexError) as error:
        raise Declined(str(error)) from error
    if results is None or any(result.dtype not in _TYPES.values() for result in results):
        return None
    return [operand_of(result) for result in results]


def known(operand: Operand) -> Known:
    """Return the elements of a host value."""
    return Known(operand.scalars(), _TYPES[operand.dtype])


def operand_of(result: Known) -> Operand:
    """Return a host value with these elements."""
    return Operand.symbolic(result.elements, result.dtype.text)
