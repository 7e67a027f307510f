"""Rounding to bfloat16 before elements are moved, instead of after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import DType, Node, TensorType, Value
from graphopt.passes.matching.match import NOTHING
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter

_MOVERS = ("Concat", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that ONNX Runtime applies to any type of elements, which they leave as they are."""


@dataclass(frozen=True)
class RoundFirst(RewritePass):
    """Round to bfloat16 before elements are moved: Cast(Concat(x, y)) is Concat(Cast(x), Cast(y)).

    The kernels that compute the elements then write half as many bytes, and no kernel is left that only rounds. For
    targets that multiply bfloat16, where `widen-floats` and files leave such Casts before products.
    """

    name: ClassVar[str] = "round-first"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    ops: ClassVar[tuple[str, ...]] = ("Cast",)

    def match(self, node: Node, context: PassContext) -> tuple[Node, Node] | Miss:
        data = node.inputs[0]
        if data is None or data.dtype is not DType.FLOAT or node.output.dtype is not DType.BFLOAT16:
            return NOTHING
        mover = data.producer
        if mover is None or mover.op not in _MOVERS or mover.graph is not node.graph:
            return NOTHING
        if context.target is None or not context.target.multiplies_bfloat16:
            return NOTHING
        return (node, mover) if data.sole_user is node else Miss("what is moved is read as float32 too")

    def rewrite(self, match: tuple[Node, Node], rewriter: Rewriter) -> None:
        cast, mover = match
        moved = [value for value in mover.inputs[: None if mover.op == "Concat" else 1] if value is not None]
        rounded = {value: _rounded(value, rewriter) for value in dict.fromkeys(moved)}
        inputs = [*(rounded[value] for value in moved), *mover.inputs[len(moved) :]]
        made = rewriter.op(mover.op_type, inputs, mover.attributes, types=[cast.output.type], origin=(mover, cast))
        rewriter.replace(cast, made.output)


def _rounded(value: Value, rewriter: Rewriter) -> Value:
    """Return a float32 value as bfloat16: what it was widened from, or a new Cast."""
    source = value.producer
    if source is not None and source.op == "Cast":
        before = source.inputs[0]
        if before is not None and before.dtype is DType.BFLOAT16:
            return before
    type_ = TensorType(DType.BFLOAT16, value.shape)
    return rewriter.op("Cast", [value], {"to": int(DType.BFLOAT16)}, types=[type_]).output
