"""Common parts of layer norm and RMS norm: means, inverse roots, scales and biases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from graphopt.ir import DType, Node, TensorType, Value
from graphopt.passes.matching.match import NOTHING, operands, produced_by
from graphopt.passes.matching.means import Nodes
from graphopt.rewriting.passes import Miss, PassContext, Rewriter
from graphopt.rewriting.pattern import Capture, Expression, Match, Pattern, any_of, constant, op
from graphopt.rewriting.values import ESCAPES, escapes, fits_beside, number_beside


@dataclass(frozen=True)
class Norm:
    """A recognized normalization of the last axes of `data`, from the first normalized `axis` (negative)."""

    root: Node
    data: Value
    axis: int
    epsilon: float
    nodes: tuple[Node, ...]
    scale: Value | None = None
    bias: Value | None = None

    def extended(self, root: Node, **changes: Value) -> Norm:
        """The same with one more node after it."""
        return replace(self, root=root, nodes=(*self.nodes, root), **changes)  # type: ignore[arg-type]


def root_patterns(
    shape: Callable[[Expression, Expression], Expression], check: Callable[[Match], Miss | None]
) -> dict[str, Pattern]:
    """Return patterns, by their anchor, that `shape` makes of a root of `variance + epsilon` and of its inverse.

    Only the reasons of `check` are reported: most roots have nothing to do with a normalization.
    """
    radicand = op.Add(Capture("variance"), constant("epsilon"))
    patterns = {}
    for at, root in (("Sqrt", op.Sqrt(radicand)), ("Pow", op.Pow(radicand, 0.5))):
        power = [op.Pow(radicand, -0.5)] if at == "Pow" else []
        inverse = any_of(op.Reciprocal(root), op.Div(1, root), *power)
        patterns[at] = Pattern(shape(root, inverse), at, shared=True, check=check, near=99)
    return patterns


def normalized(root: Expression, inverse: Expression) -> Expression:
    """Return a pattern for a dividend that is divided by a root, where a scale may come before it."""
    dividend = Capture("dividend")
    scaled = op.Mul(op.Mul(inverse, Capture("scale")), dividend)
    return any_of(op.Div(dividend, root), scaled, op.Mul(dividend, inverse))


def norm_of(found: Match, data: Value, axis: int, nodes: Nodes, centring: Nodes | None) -> Norm | Miss:
    """Return the match of a pattern as a normalization of `data`.

    `nodes` are those of the variance, `centring` those that turn the data into the value to normalize (the data minus
    its mean); None if the match divides something else.
    """
    epsilon, scale = number_beside(found["epsilon"], found["variance"]), found.values.get("scale")
    if epsilon is None or epsilon < 0:
        return NOTHING
    if centring is None or (scale is not None and not fits_scale(scale, data, axis)):
        return Miss(
            "the root does not divide what it was computed from"
            if found.root.op == "Div"
            else "the inverse root does not multiply what it was computed from"
        )
    return Norm(found.root, data, axis, epsilon, (*nodes, *found.nodes, *centring), scale)


def with_scale_and_bias(norm: Norm, has_bias: bool) -> Norm:
    """Extend the normalization by the Cast, Mul and Add after it, as far as they are its own scale and bias."""
    norm = _with_cast(norm)
    if norm.scale is None:
        norm = _with_operand(norm, "Mul", "scale")
    if has_bias:
        norm = _with_operand(norm, "Add", "bias")
    return norm


def _with_cast(norm: Norm) -> Norm:
    """Extend to half-precision data normalized in float32, which the operator does itself, between the two casts."""
    before, after = produced_by(norm.data, "Cast"), norm.root.output.sole_user
    if before is None or after is None or after.op != "Cast" or norm.scale is not None:
        return norm
    source = before.inputs[0]
    if source is None or source.dtype not in (DType.FLOAT16, DType.BFLOAT16) or norm.data.dtype is not DType.FLOAT:
        return norm
    if after.attr("to") != int(source.dtype):
        return norm
    # The first Cast may have other users: it then stays.
    return replace(norm.extended(after), data=source)


def _with_operand(norm: Norm, op: str, name: str) -> Norm:
    user = norm.root.output.sole_user
    if user is None or user.op != op:
        return norm
    operand = next(b for a, b in operands(user) if a is norm.root.output)
    return norm.extended(user, **{name: operand}) if fits_scale(operand, norm.data, norm.axis) else norm


def fits_scale(value: Value, data: Value, axis: int) -> bool:
    """Return whether `value` can be a scale or bias of the normalized axes: of their shape, or a matching constant."""
    sizes = normalized_shape(data, axis)
    if sizes is None or (value.dtype is not data.dtype and value.dtype is not None):
        return False
    tensor = value.constant
    if tensor is None:
        return value.shape is not None and value.shape == sizes
    if tensor.size == 1:
        return fits_beside(value, data)
    leading = len(tensor.shape) - len(sizes)
    if data.rank is not None and len(tensor.shape) > data.rank:
        return False
    shape = tensor.shape[leading:] if leading > 0 else (1,) * -leading + tensor.shape
    return all(dim == 1 for dim in tensor.shape[: max(leading, 0)]) and all(
        dim in (1, size) for dim, size in zip(shape, sizes)
    )


def normalized_shape(data: Value, axis: int) -> tuple[int, ...] | None:
    """The sizes of the normalized axes, or None if they are not numbers."""
    if data.shape is None or len(data.shape) < -axis:
        return None
    sizes = data.shape[axis:]
    return tuple(d for d in sizes if isinstance(d, int)) if all(isinstance(d, int) for d in sizes) else None


def check(norm: Norm, context: PassContext) -> Norm | Miss:
    """Return a miss if the operator would not compute the same as the nodes."""
    if norm.data.dtype not in (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16):
        return Miss("only float32, float16 and bfloat16 are normalized in at least their own precision")
    if normalized_shape(norm.data, norm.axis) is None:
        return Miss("the sizes of the normalized axes are not known")
    cast = norm.data.producer
    nodes = [node for node in norm.nodes if node is not cast]
    return Miss(ESCAPES) if escapes(nodes, norm.root) else norm


def replace_norm(norm: Norm, op: str, rewriter: Rewriter) -> None:
    """Replace the nodes by the operator `op`, with a scale of ones if there is none."""
    sizes, dtype = normalized_shape(norm.data, norm.axis), norm.data.dtype
    assert sizes is not None
    assert dtype is not None
    scale = _parameter(norm.scale, sizes, 1.0, dtype, rewriter)
    inputs = [norm.data, scale]
    if norm.bias is not None:
        inputs.append(_parameter(norm.bias, sizes, 0.0, dtype, rewriter))
    shape = norm.root.output.shape or norm.data.shape
    new = rewriter.op(
        op,
        inputs,
        {"axis": norm.axis, "epsilon": norm.epsilon},
        types=[TensorType(dtype, shape)],
        origin=norm.nodes,
        before=norm.root,
    )
    rewriter.replace(norm.root, [new.output])


def _parameter(value: Value | None, sizes: tuple[int, ...], default: float, dtype: DType, rewriter: Rewriter) -> Value:
    """Return a scale or bias in the full shape of the normalized axes, the only form that all runtimes accept."""
    if value is None:
        return rewriter.constant(np.full(sizes, default, dtype.numpy), "scale")
    tensor = value.constant
    if tensor is None or tensor.shape == sizes:
        return value
    array = tensor.numpy()
    array = array.reshape(array.shape[max(array.ndim - len(sizes), 0) :])
    return rewriter.constant(np.ascontiguousarray(np.broadcast_to(array, sizes)), value.name)
