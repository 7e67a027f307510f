"""Recognition of decomposed layer normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Node, Value
from graphopt.passes.fusion._normalization import (
    Inverse,
    Norm,
    check,
    fits_scale,
    inverse_root,
    normalized,
    replace_norm,
    with_scale_and_bias,
)
from graphopt.passes.matching.match import NOTHING, below_opset, operands, produced_by
from graphopt.passes.matching.means import Mean, behind_views, last_axes, mean, same_axes, square
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.values import number_beside


@dataclass(frozen=True)
class _Variance:
    """The variance of `mean.data` over `mean.axes`, and the nodes that compute it."""

    mean: Mean
    nodes: tuple[Node, ...]


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
        inverse = inverse_root(node)
        variance = None if inverse is None else _variance(inverse.variance)
        if inverse is None or variance is None:
            return NOTHING
        if (old := below_opset(context)) is not None:
            return old
        data = variance.mean.data
        axis = last_axes(variance.mean.axes, data.rank)
        if axis is None:
            return Miss("not the last axes are normalized")
        multiplied_out = _multiplied_out(inverse, variance, axis)
        if multiplied_out is not None:
            return check(multiplied_out, context)
        norm = normalized(inverse, data, axis, variance.nodes, lambda value: _centring(value, variance.mean))
        return norm if isinstance(norm, Miss) else check(with_scale_and_bias(norm, True), context)

    def rewrite(self, match: Norm, rewriter: Rewriter) -> None:
        replace_norm(match, "LayerNormalization", rewriter)


def _centring(value: Value, wanted: Mean) -> tuple[Node, ...] | None:
    """Return the nodes that compute `value` as the data minus its mean; None if it is something else."""
    subtract = produced_by(value, "Sub")
    found = None if subtract is None else mean(subtract.inputs[1])
    if subtract is None or found is None or subtract.inputs[0] is not wanted.data:
        return None
    if found.data is not wanted.data or not same_axes(found.axes, wanted.axes, wanted.data.rank):
        return None
    return (subtract, *found.nodes)


def _multiplied_out(inverse: Inverse, variance: _Variance, axis: int) -> Norm | None:
    """Match `x * f + (bias - mean * f)` with f = scale / root, as Keras writes batch and layer normalization."""
    factor, scale, data = inverse.value, None, variance.mean.data
    nodes = (*variance.nodes, *inverse.nodes)
    scaling = None if inverse.divides else factor.sole_user
    if scaling is not None and scaling.op == "Mul":
        scale = next(b for a, b in operands(scaling) if a is factor)
        factor, nodes = scaling.output, (*nodes, scaling)
    products = [user for user in factor.users if user.op == "Mul"]
    if inverse.divides or len(products) != 2 or (scale is not None and not fits_scale(scale, data, axis)):
        return None
    for scaled, offset in (products, products[::-1]):
        of_data, of_mean = (next(b for a, b in operands(node) if a is factor) for node in (scaled, offset))
        found, shift, root = mean(of_mean), offset.output.sole_user, scaled.output.sole_user
        if of_data is not data or found is None or shift is None or root is None or root.op != "Add":
            continue
        if found.data is not data or not same_axes(found.axes, variance.mean.axes, data.rank):
            continue
        bias = shift.inputs[0]
        fits = shift.op == "Sub" and shift.inputs[1] is offset.output and shift.output.sole_user is root
        if fits and bias is not None and fits_scale(bias, data, axis):
            nodes = (*nodes, *found.nodes, scaled, offset, shift, root)
            return Norm(root, data, axis, inverse.epsilon, nodes, scale, bias)
    return None


def _variance(value: Value) -> _Variance | None:
    bare, views = behind_views(value)
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
