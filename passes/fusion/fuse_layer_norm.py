"""Recognition of decomposed layer normalization."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from graphopt.ir import Node, Value
from graphopt.passes.fusion._normalization import (
    Norm,
    check,
    fits_scale,
    norm_of,
    normalized,
    replace_norm,
    root_patterns,
    with_scale_and_bias,
)
from graphopt.passes.matching.match import NOTHING, below_opset, operands, produced_by
from graphopt.passes.matching.means import Mean, before_views, last_axes, mean, same_axes, square
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.pattern import Capture, Expression, Match, any_of, op
from graphopt.rewriting.values import number_beside


@dataclass(frozen=True)
class _Variance:
    """The variance of `mean.data` over `mean.axes`, and the nodes that compute it."""

    mean: Mean
    nodes: tuple[Node, ...]


def _multiplied_out(root: Expression, inverse: Expression) -> Expression:
    """Return a pattern for `x * f + (bias - mean * f)` with f = scale / root, as Keras writes layer normalization."""
    factor = any_of(op.Mul(inverse, Capture("scale")), inverse)
    return op.Add(op.Mul(Capture("data"), factor), op.Sub(Capture("bias"), op.Mul(Capture("mean"), factor)))


def _norm(found: Match) -> Norm | Miss:
    variance = _variance(found["variance"])
    if variance is None:
        return NOTHING
    data = variance.mean.data
    axis = last_axes(variance.mean.axes, data.rank)
    if axis is None:
        return Miss("not the last axes are normalized")
    if "dividend" in found.values:
        return norm_of(found, data, axis, variance.nodes, _centring(found["dividend"], variance.mean))
    subtracted, bias = _mean_of(found["mean"], variance.mean), found["bias"]
    nodes = subtracted if found["data"] is data and fits_scale(bias, data, axis) else None
    norm = norm_of(found, data, axis, variance.nodes, nodes)
    return norm if isinstance(norm, Miss) else replace(norm, bias=bias)


def _objection(found: Match) -> Miss | None:
    norm = _norm(found)
    return norm if isinstance(norm, Miss) else None


_NORMALIZED = root_patterns(normalized, _objection)
_MULTIPLIED_OUT = root_patterns(_multiplied_out, _objection)


@dataclass(frozen=True)
class FuseLayerNorm(RewritePass):
    """Recognize layer normalization of the last axes, decomposed into ReduceMean, Sub, Pow, Sqrt, Div, Mul and Add.

    The variance may be the mean of squared differences or E[x²] - E[x]² (less accurate than its replacement), the root
    a divisor, a reciprocal or a power, and scale and bias may have either order of operands or be absent.
    Half-precision data that is normalized in float32 between two casts is supported.
    """

    name: ClassVar[str] = "fuse-layer-norm"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Sqrt", "Pow")

    def match(self, node: Node, context: PassContext) -> Norm | Miss:
        found = _MULTIPLIED_OUT[node.op].match(node)
        if isinstance(found, Miss):
            found = _NORMALIZED[node.op].match(node)
        if isinstance(found, Miss):
            return found
        norm = _norm(found)
        if isinstance(norm, Miss):
            return norm
        return below_opset(context) or check(norm if norm.bias else with_scale_and_bias(norm, True), context)

    def rewrite(self, match: Norm, rewriter: Rewriter) -> None:
        replace_norm(match, "LayerNormalization", rewriter)


def _centring(value: Value, wanted: Mean) -> tuple[Node, ...] | None:
    """Return the nodes that compute `value` as the data minus its mean; None if it is something else."""
    subtract = produced_by(value, "Sub")
    nodes = None if subtract is None else _mean_of(subtract.inputs[1], wanted)
    if subtract is None or nodes is None or subtract.inputs[0] is not wanted.data:
        return None
    return (subtract, *nodes)


def _mean_of(value: Value | None, wanted: Mean) -> tuple[Node, ...] | None:
    """Return the nodes that compute `value` as the mean of the same data over the same axes, or None."""
    found = mean(value)
    if found is None or found.data is not wanted.data:
        return None
    return found.nodes if same_axes(found.axes, wanted.axes, wanted.data.rank) else None


def _variance(value: Value) -> _Variance | None:
    bare, views = before_views(value)
    result = value if views else None
    maximum = produced_by(bare, "Max")
    if maximum is not None and len(maximum.inputs) == 2:
        # A variance is never negative: the bound only catches rounding of the difference of squares.
        bounded = [a for a, b in operands(maximum) if number_beside(b, a) == 0]
        if not bounded:
            return None
        bare, views = bounded[0], (*views, maximum)
    subtract = produced_by(bare, "Sub")
    if subtract is not None:
        return _difference_of_squares(subtract, result, views)
    squares = mean(bare, result)
    squared = None if squares is None else square(squares.data)
    if squares is None or squared is None:
        return None
    centred, power = squared
    subtract = produced_by(centred, "Sub")
    of_data = None if subtract is None else mean(subtract.inputs[1])
    if subtract is None or of_data is None or subtract.inputs[0] is not of_data.data:
        return None
    if not same_axes(squares.axes, of_data.axes, of_data.data.rank):
        return None
    return _Variance(of_data, (*views, *squares.nodes, power, subtract, *of_data.nodes))


def _difference_of_squares(subtract: Node, result: Value | None, views: tuple[Node, ...]) -> _Variance | None:
    """Match E[x²] - E[x]², which equals the variance except for the digits lost by the subtraction."""
    squares, squared_mean = mean(subtract.inputs[0], result), square(subtract.inputs[1])
    of_data = None if squared_mean is None else mean(squared_mean[0], result)
    squared = None if squares is None else square(squares.data)
    if squares is None or squared is None or of_data is None or squared_mean is None:
        return None
    if squared[0] is not of_data.data or not same_axes(squares.axes, of_data.axes, of_data.data.rank):
        return None
    nodes = (*views, subtract, *squares.nodes, squared[1], squared_mean[1], *of_data.nodes)
    return _Variance(of_data, nodes)
