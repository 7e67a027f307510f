"""Values whose channels can be scaled: what computes them is divided by a factor, what reads them is multiplied by it.

A region is the set of values that then must be scaled together, because they are connected by operators f for which
f(s x) = s f(x) for s > 0: ReLUs, pools, sums of residual branches, multiplication by a gate. A multiplication by a
constant ends a region on either side: the factors go into the constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from graphopt.compression.products import groups_of
from graphopt.ir import DType, Node, Tensor, Value
from graphopt.rewriting.passes import PassContext

_HOMOGENEOUS = frozenset({"Dropout", "Identity", "LeakyRelu", "PRelu", "Relu"})
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"})
_FLATTENING = frozenset({"Flatten", "Reshape", "Squeeze"})
_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})


class _NotScalable(Exception):
    """The reason why a value cannot be scaled."""


@dataclass
class Region:
    """Values that are scaled together, by `channels` factors.

    `producers`: products and normalizations that compute them. `offsets`: additions of a constant, with the index of
    that; `multipliers`: the same for multiplications. `consumers`: products that read them. `gates`: multiplications of
    two activations, one of which is scaled. `sums`: additions of two.
    """

    channels: int
    axes: dict[Value, int] = field(default_factory=dict)
    producers: dict[Node, None] = field(default_factory=dict)
    offsets: dict[Node, int] = field(default_factory=dict)
    multipliers: dict[Node, int] = field(default_factory=dict)
    consumers: dict[Node, None] = field(default_factory=dict)
    gates: dict[Node, None] = field(default_factory=dict)
    sums: dict[Node, None] = field(default_factory=dict)

    def scale(self, context: PassContext, factors: np.ndarray) -> None:
        """Divide the values by factors, one for each channel, and multiply what products make of them."""
        down = (1 / factors).astype(np.float64)
        for node in self.producers:
            if node.op in _PRODUCTS:
                _replace(context, node, 1, partial(scale_results, node, factors=down))
                _replace(context, node, 2, lambda b: b * down)
            else:
                for index in range(1, len(node.inputs)):
                    _replace(context, node, index, lambda b: b * down)
        for node, index in self.offsets.items():
            self._scale_constant(context, node, index, node.output, down)
        for node, index in self.multipliers.items():
            data = node.inputs[1 - index]
            assert data is not None
            if data not in self.axes:
                self._scale_constant(context, node, index, node.output, down)
            elif node.output not in self.axes:
                self._scale_constant(context, node, index, data, factors)
        for node in self.consumers:
            _replace(context, node, 1, partial(scale_data, node, factors=factors))

    def _scale_constant(self, context: PassContext, node: Node, index: int, scaled: Value, factors: np.ndarray) -> None:
        """Multiply a constant that is added to, or multiplied by, a value of the region."""
        shape = [-1 if i == self.axes[scaled] else 1 for i in range(scaled.rank or 0)]
        _replace(context, node, index, partial(_scale_broadcast, shape=shape, factors=factors))


def _scale_broadcast(constant: np.ndarray, shape: list[int], factors: np.ndarray) -> np.ndarray:
    """Return a constant times factors that have `shape`, of at most the rank that it needs for all channels."""
    full = constant * factors.reshape(shape)
    kept = max(constant.ndim, len(shape) - shape.index(-1))
    return full.reshape(full.shape[len(shape) - kept :])


def _replace(context: PassContext, node: Node, index: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace a constant of a node by a changed one, for this node alone."""
    value = node.input(index)
    if value is None:
        return
    assert value.constant is not None
    rewriter = context.rewriter(node.graph, node)
    tensor = Tensor.of(change(value.constant.numpy().astype(np.float64)).astype(np.float32))
    if value.sole_user is node and not value.is_graph_output:
        rewriter.set_tensor(value, tensor)
    else:
        rewriter.set_input(node, index, rewriter.constant(tensor, value.name))


def scale_results(node: Node, weights: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return weights of a product whose results are multiplied by factors, one for each channel."""
    if node.op == "Conv":
        return weights * factors.reshape(-1, *[1] * (weights.ndim - 1))
    return weights * (factors[:, None] if node.op == "Gemm" and node.attr("transB", 0) else factors)


def scale_data(node: Node, weights: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return weights of a product that multiplies each channel of its data by a factor first."""
    if node.op == "Conv":
        groups = groups_of(node)
        own = factors.reshape(groups, 1, -1, *[1] * (weights.ndim - 2))
        return (weights.reshape(groups, -1, *weights.shape[1:]) * own).reshape(weights.shape)
    return weights * (factors if node.op == "Gemm" and node.attr("transB", 0) else factors[:, None])


def result_sizes(node: Node, weights: np.ndarray) -> np.ndarray:
    """Return the largest magnitude of the weights of each channel of a product's results."""
    sizes = np.abs(weights)
    if node.op == "Conv":
        return sizes.reshape(len(weights), -1).max(1)
    return sizes.max(1 if node.op == "Gemm" and node.attr("transB", 0) else 0)


def data_sizes(node: Node, weights: np.ndarray) -> np.ndarray:
    """Return the largest magnitude of the weights by which a product multiplies each channel of its data."""
    sizes = np.abs(weights)
    if node.op == "Conv":
        grouped = sizes.reshape(groups_of(node), -1, weights.shape[1], int(np.prod(weights.shape[2:])))
        return grouped.max((1, 3)).reshape(-1)
    return sizes.max(0 if node.op == "Gemm" and node.attr("transB", 0) else 1)


def region_of(value: Value, axis: int) -> Region | str:
    """Return the region of a value whose channels lie along `axis`, or why it cannot be scaled."""
    size = None if value.shape is None else value.shape[axis]
    if not isinstance(size, int):
        return "the number of channels is not known"
    region = Region(size)
    waiting = [(value, axis)]
    try:
        while waiting:
            one, place = waiting.pop()
            if one in region.axes:
                if region.axes[one] != place:
                    raise _NotScalable("channels lie along two axes")
                continue
            _check(one, place, size)
            region.axes[one] = place
            waiting += _before(region, one, place)
            for use in one.uses:
                waiting += _after(region, one, use.node, use.index, place)
    except _NotScalable as reason:
        return str(reason)
    if any(sum(value in region.axes for value in gate.inputs) != 1 for gate in region.gates):
        return "a Mul multiplies scaled values with each other"
    return region


def _check(value: Value, axis: int, channels: int) -> None:
    if value.is_graph_output or value.producer is None:
        raise _NotScalable("it is an input or a result of the model")
    if value.dtype is not DType.FLOAT or value.shape is None or value.shape[axis] != channels:
        raise _NotScalable("its type is not known to be float32 with as many channels")
    if any(use.node.graph is not value.graph for use in value.uses):
        raise _NotScalable("a nested graph reads it")


def _before(region: Region, value: Value, axis: int) -> list[tuple[Value, int]]:
    """Note what computes a value; return its inputs that must be scaled with it."""
    node = value.producer
    assert node is not None
    if node.op in _PRODUCTS | _NORMS and axis == produced_axis(node) and _is_constant(node):
        region.producers[node] = None
        return []
    if node.op in _PRODUCTS | _NORMS:
        raise _NotScalable(f"a {node.op} computes it from other than constants")
    if node.op == "Mul":
        index = _constant_factor(node)
        if index is not None:
            region.multipliers[node] = index
            return []
    return _through(region, node)


def produced_axis(node: Node) -> int | None:
    """Return the axis of the channels of the result of a product or normalization; None if it is not known."""
    rank = node.output.rank
    if node.op == "Conv":
        return 1
    if node.op in _NORMS and node.attr("axis", -1) not in (-1, None if rank is None else rank - 1):
        return None
    return None if rank is None else rank - 1


def _is_constant(node: Node) -> bool:
    """Return whether all but the data of a product or normalization are constants of float32, one for each channel."""
    others = node.inputs[1:]
    if (
        any(v is not None and (v.constant is None or v.dtype is not DType.FLOAT) for v in others)
        or len(node.outputs) > 1
    ):
        return False
    weights = node.inputs[1]
    assert weights is not None
    rank = len(weights.shape or ())
    if node.op in _NORMS:
        return rank == 1
    bias = node.input(2)
    fits = bias is None or len(bias.shape or ()) == 1
    return fits and (node.op == "Conv" or rank == 2)


def _after(region: Region, value: Value, node: Node, index: int, axis: int) -> list[tuple[Value, int]]:
    """Note what reads a value; return what must be scaled with it."""
    if node.op in _PRODUCTS:
        expected = 1 if node.op == "Conv" else (value.rank or 0) - 1
        weights = node.input(1)
        usable = index == 0 and weights is not None and weights.constant is not None and not node.attr("transA", 0)
        if not usable or axis != expected or weights is None or weights.dtype is not DType.FLOAT:
            raise _NotScalable(f"a {node.op} reads it in another way")
        if node.op != "Conv" and len(weights.shape or ()) != 2:
            raise _NotScalable(f"a {node.op} reads it in another way")
        region.consumers[node] = None
        return []
    if node.op == "PRelu" and index != 0:
        raise _NotScalable("it is the slope of a PRelu")
    if node.op == "Mul":
        constant = _constant_factor(node)
        if constant is not None:
            region.multipliers[node] = constant
            return []
    _through(region, node)
    return [(node.output, 1 if node.op in _FLATTENING else axis)]


def _through(region: Region, node: Node) -> list[tuple[Value, int]]:
    """Return the inputs of a homogeneous operator that are scaled with its result. Raises _NotScalable for others."""
    data, out = node.inputs[0], node.output
    if data is None or any(value.has_uses for value in node.outputs[1:]):
        raise _NotScalable(f"a {node.op} has several results")
    if node.op in _HOMOGENEOUS:
        return [(data, region.axes.get(out, region.axes.get(data, 1)))]
    if node.op in _POOLS:
        return [(data, 1)]
    shape = data.shape or ()
    if node.op in _FLATTENING and out.rank == 2 and len(shape) > 2 and all(size == 1 for size in shape[2:]):
        return [(data, 1)]
    if node.op == "Add":
        return _summands(region, node)
    if node.op == "Mul":
        return _gated(region, node)
    raise _NotScalable(f"a {node.op} is between products")


def _summands(region: Region, node: Node) -> list[tuple[Value, int]]:
    axis = next(axis for value, axis in region.axes.items() if value in (node.output, *node.inputs))
    constants = [i for i, value in enumerate(node.inputs) if value is not None and value.constant is not None]
    found = [value for value in node.inputs if value is not None and value.constant is None]
    if any(value.shape is None or value.rank != node.output.rank for value in found):
        raise _NotScalable("the summands of an Add differ in shape")
    for index in constants:
        value = node.inputs[index]
        if value is None or value.dtype is not DType.FLOAT or len(value.shape or ()) > (node.output.rank or 0):
            raise _NotScalable("an Add has a constant of another shape")
        region.offsets[node] = index
    if len(found) > 1:
        region.sums[node] = None
    return [(value, axis) for value in found]


def _constant_factor(node: Node) -> int | None:
    """Return the index of the constant of a Mul, which factors for channels can go into; None if it has none."""
    for index, value in enumerate(node.inputs):
        other = node.inputs[1 - index]
        if value is None or value.constant is None or other is None or other.constant is not None:
            continue
        rank = node.output.rank
        if value.dtype is DType.FLOAT and rank is not None and other.rank == rank and len(value.shape or ()) <= rank:
            return index
    return None


def _gated(region: Region, node: Node) -> list[tuple[Value, int]]:
    """Return the operand of a Mul that is scaled with its result: one that is scaled already, or is as large as it."""
    axis = next(axis for value, axis in region.axes.items() if value in (node.output, *node.inputs))
    operands = [value for value in node.inputs if value is not None and value.constant is None]
    if len(operands) != 2 or any(value.rank != node.output.rank for value in operands):
        raise _NotScalable("the factors of a Mul differ in rank")
    region.gates[node] = None
    scaled = [value for value in operands if value in region.axes]
    wide = [value for value in operands if value.shape == node.output.shape]
    return [(value, axis) for value in (scaled or wide)[:1]]
