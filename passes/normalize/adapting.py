"""The interface of adapters, which convert single operators from one opset to a newer one.

Each adapter gets a node, the current version of its operator, and the opset to reach; it returns None (nothing to do),
a Decline, or a function that makes the change. Nothing is changed until every node of the model has an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir import Attribute, Node, Value
from graphopt.rewriting.passes import Rewriter

Adapt = Callable[[Rewriter], None]


@dataclass(frozen=True)
class Decline:
    """The reason why a node cannot be converted."""

    reason: str


Answer = Adapt | Decline | None
ADAPTERS: dict[str, Callable[[Node, int, int], Answer]] = {}


def adapts(*op_types: str) -> Callable[[Callable[[Node, int, int], Answer]], Callable[[Node, int, int], Answer]]:
    def register(adapter: Callable[[Node, int, int], Answer]) -> Callable[[Node, int, int], Answer]:
        ADAPTERS.update(dict.fromkeys(op_types, adapter))
        return adapter

    return register


def move_to_inputs(node: Node, rewriter: Rewriter, names: dict[str, Any], first: int) -> None:
    """Turn attributes into inputs `first`, `first + 1`, ...: an array is that input, None omits it."""
    inputs: list[Value | None] = list(node.inputs[:first])
    inputs += [None] * (first - len(inputs))
    for name, array in names.items():
        inputs.append(None if array is None else rewriter.constant(array, f"{node.name or node.op_type}/{name}"))
        rewriter.set_attribute(node, name, None)
    while inputs and inputs[-1] is None:
        inputs.pop()
    rewriter.set_inputs(node, inputs)


def int64(values: Any) -> np.ndarray | None:
    return None if values is None else np.array(values, np.int64)


def become(node: Node, rewriter: Rewriter, op_type: str, inputs: Any, attributes: dict[str, Any | Attribute]) -> None:
    """Replace a node by another operator."""
    new = rewriter.op(op_type, inputs, attributes, types=[node.output.type], name=node.name)
    rewriter.replace(node, new.output)
