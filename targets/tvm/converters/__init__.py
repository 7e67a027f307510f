"""Converters from ONNX operators to Relax, one group of operators per file."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np

from graphopt.ir import Node
from graphopt.targets.tvm.converters import functions, host
from graphopt.targets.tvm.converters.shape import copy
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Operand
from graphopt.targets.tvm.lowering.registry import Declined, find, operators

# Importing a module registers its converters.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Call", "Context", "Declined", "Operand", "convert", "copy", "find", "operators"]


def _empty(call: Call) -> list[Operand | None] | None:
    """Return the outputs of a node that are known to have no elements: there is nothing to compute.

    None if one may have elements.
    """
    made: list[Operand | None] = []
    for value in call.node.outputs:
        shape, dtype = value.shape, value.dtype
        if shape is None or dtype is None or not all(isinstance(size, int) for size in shape) or 0 not in shape:
            return None
        call.ctx.check_dtype(dtype.text)
        made.append(Operand.constant(np.zeros([int(str(size)) for size in shape], dtype.numpy)))
    return made or None


def convert(ctx: Context, node: Node, operands: list[Operand | None], *, broken: bool = False) -> list[Operand | None]:
    """Lower one node; return its outputs.

    With `broken`, some operand could not be computed: nothing is emitted, and only a missing converter is reported.

    Raises:
        Declined: the node cannot be lowered, with the reason.
    """
    version = node.graph.model.opsets.get(node.domain, 1)
    function = find(node.op, version)
    if function is None and not functions.has_body(node.op_type, node.domain, version):
        raise Declined("no converter for this operator")
    if broken:
        return []
    call = Call(ctx, node, operands, version)
    if function is None:
        return functions.expand(call)
    known = host.evaluate(call)
    if known is not None:
        return known
    if empty := _empty(call):
        return empty
    result = function(call)
    return [result] if isinstance(result, Operand) else list(result)
