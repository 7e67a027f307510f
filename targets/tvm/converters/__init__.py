"""Converters from ONNX operators to Relax, one small file a subject."""

from __future__ import annotations

from graphopt.ir import Node

from . import cast, elementwise, host, shape  # noqa: F401  (registered by being imported)
from .call import Call
from .context import Context
from .operand import Operand
from .registry import Declined, find, operators
from .shape import copy

__all__ = ["Call", "Context", "Declined", "Operand", "convert", "copy", "find", "operators"]


def convert(ctx: Context, node: Node, operands: list[Operand | None], *, broken: bool = False) -> list[Operand | None]:
    """Lower one node; returns its outputs.

    With `broken`, some operand could not be made: nothing is emitted, and only a missing converter is reported.

    Raises:
        Declined: the node cannot be lowered, with the reason.
    """
    version = node.graph.model.opsets.get(node.domain, 1)
    function = find(node.op, version)
    if function is None:
        raise Declined("no converter for this operator")
    if broken:
        return []
    call = Call(ctx, node, operands, version)
    known = host.evaluate(call)
    if known is not None:
        return known
    result = function(call)
    return [result] if isinstance(result, Operand) else list(result)
