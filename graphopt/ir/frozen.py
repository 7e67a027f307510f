"""Write protection of the graph: attributes are set only through `write`, by edits, readers and copiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

_WAYS = {
    "type": "rewriter.set_type(value, type)",
    "name": "rewriter.rename(value, name)",
    "tensor": "rewriter.set_tensor(value, tensor)",
    "producer": "rewriter.replace_uses(old, new)",
    "inputs": "rewriter.set_inputs(node, inputs), or rewriter.set_graph_inputs(inputs)",
    "outputs": "rewriter.set_outputs(values)",
    "attributes": "rewriter.set_attribute(node, name, value)",
    "op_type": "rewriter.op(op_type, inputs) and rewriter.replace(node, values)",
    "opset": "rewriter.set_opset(domain, version)",
    "opsets": "rewriter.set_opset(domain, version)",
}


class Frozen:
    """An object whose attributes cannot be assigned or deleted: the AttributeError names the Rewriter's method instead.

    Reading is as fast as reading a slot; only assignments are guarded.
    """

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        way = _WAYS.get(name, "a method of Rewriter")
        raise AttributeError(
            f"'{name}' of a {type(self).__name__} cannot be assigned: only a Rewriter changes a graph; use {way}"
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"'{name}' of a {type(self).__name__} cannot be deleted: only a Rewriter changes a graph")


write: Callable[[Frozen, str, Any], None] = object.__setattr__
"""Assigns an attribute in spite of the guard; only for constructors, edits, readers and copiers of the graph."""
