"""Operators that compute the same on integers as on the floats that the integers stand for."""

from __future__ import annotations

from graphopt.ir import DType, Node, Value
from graphopt.ir.facts import Trait, facts_of

OLDEST_OPSET = 13
"""The oldest opset whose operators move and compare 8-bit integers."""
EIGHT_BITS = (DType.INT8, DType.UINT8)


def moved_inputs(node: Node) -> tuple[int, ...]:
    """Return the data inputs of a node whose results are only elements of these, or constants added; else nothing.

    Applied to 8-bit integers of one scale, it gives the integers of its result. Pad adds a constant, which has to be
    an integer too.
    """
    if node.domain:
        return ()
    if node.op == "Concat":
        return tuple(range(len(node.inputs)))
    if node.op == "Resize":
        return (0,) if _is_nearest(node) else ()
    if node.op == "Pad":
        return (0,) if node.input(1) is not None else ()
    if Trait.KEEPS_SCALE not in facts_of(node.op).traits:
        return ()
    if node.op == "MaxPool" and len(node.outputs) > 1 and node.outputs[1].has_uses:
        return ()  # the places of the maxima
    return (0,)


def moved_outputs(node: Node) -> tuple[Value, ...]:
    """Return the outputs that hold elements of the data, for a node that has `moved_inputs`."""
    return node.outputs if node.op == "Split" else node.outputs[:1]


def _is_nearest(node: Node) -> bool:
    """Return whether a Resize selects elements, all of them from its data."""
    mode = node.attr("coordinate_transformation_mode", "half_pixel")
    return node.attr("mode", "nearest") == "nearest" and mode != "tf_crop_and_resize" and not node.attr("antialias", 0)
