"""How far the results of one model may be from those of another way to compute it."""

from __future__ import annotations

from graphopt.ir import DType, Model

from .tolerance import Tolerance

_ROUNDING = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul"})
_STEPS = 5e-2
_FLOATS = (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16, DType.DOUBLE)
_NARROW = {kind: Tolerance().allowed("", kind) for kind in (DType.FLOAT16, DType.BFLOAT16)}
_INTEGERS = (DType.INT8, DType.UINT8)


def is_rounded(model: Model) -> bool:
    """Return whether a model rounds activations to integers while it runs."""
    return any(
        node.op_type in _ROUNDING
        or node.op_type.startswith(("QLinear", "QGemm"))
        or (node.op_type == "MatMulNBits" and node.attr("accuracy_level", 0) == 4)
        for node in model.graph.all_nodes()
    )


def standard_of(model: Model) -> Tolerance:
    """Return the tolerance for the results of a model: the default one, or a wider one if it `is_rounded`.

    A sum that lies in the middle between two integers, but for its rounding, may become either of them. Such a step in
    an early layer reaches everything after it, however exact the arithmetic is. Values that are floats of 16 bits
    inside of a model may be computed in float32 as well, so its results have the tolerance of the narrowest.
    """
    if is_rounded(model):
        return Tolerance(dict.fromkeys((*_FLOATS, *_INTEGERS), _STEPS))
    kinds = {value.dtype for value in model.graph.inputs} | {
        DType(node.attr("to")) for node in model.graph.all_nodes() if node.op == "Cast"
    }
    narrow = max((_NARROW[kind] for kind in kinds if kind in _NARROW), default=0.0)
    return Tolerance({DType.FLOAT: narrow}) if narrow else Tolerance()
