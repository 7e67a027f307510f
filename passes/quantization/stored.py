"""Weights and biases that are stored as integers: reading what they mean, and writing others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.compression.products import is_summing, weight_rows, weights_of_rows
from graphopt.ir import DType, Node, Tensor, Value
from graphopt.rewriting.passes import Rewriter


@dataclass(frozen=True)
class StoredWeights:
    """The integers that a DequantizeLinear makes the weights of a product of, as rows [groups, N, K].

    `scales` and `points` are those of each weight. `limits`: the smallest and largest integer in use.
    """

    node: Node
    source: Node
    integers: np.ndarray
    scales: np.ndarray
    points: np.ndarray
    limits: tuple[int, int]

    @property
    def floats(self) -> np.ndarray:
        """The weights, [groups, N, K] in float64."""
        return self.dequantized(self.integers)

    def dequantized(self, integers: np.ndarray) -> np.ndarray:
        """Return the weights that other integers would stand for."""
        return (integers - self.points) * self.scales

    def rounded(self, floats: np.ndarray) -> np.ndarray:
        """Return the nearest integers."""
        return np.clip(np.rint(floats / self.scales) + self.points, *self.limits)

    @property
    def tensor(self) -> Tensor:
        """The contents of the initializer."""
        return _contents(self.source.inputs[0])

    def as_rows(self, array: np.ndarray) -> np.ndarray:
        """Return an array that broadcasts to the integers as they are stored, as [groups, N, K]."""
        return _as_rows(self.node, np.broadcast_to(array, self.tensor.shape))

    def write(self, rewriter: Rewriter, integers: np.ndarray) -> None:
        """Replace the integers by others, which are within the limits."""
        tensor = self.tensor
        array = weights_of_rows(self.node, integers, tensor.shape).reshape(tensor.shape)
        value = self.source.inputs[0]
        assert value is not None
        rewriter.set_tensor(value, Tensor.of(array.astype(np.int64).astype(tensor.dtype.numpy)))


def stored_weights(node: Node) -> StoredWeights | str:
    """Return the stored weights of a product, or why there are none that may be changed for it alone."""
    source = None if node.input(1) is None else node.inputs[1].producer  # type: ignore[union-attr]
    if source is not None and source.op == "Reshape" and source.output.sole_user is node and source.inputs[0]:
        source = source.inputs[0].producer
    if source is None or source.op != "DequantizeLinear" or any(v and v.constant is None for v in source.inputs):
        return "its weights are not stored as integers"
    if not is_summing(node):
        return "it is no sum of products of one matrix"
    stored = source.inputs[0]
    if source.output.sole_user is None or stored is None or stored.sole_user is not source:
        return "its weights are used elsewhere too"
    scale, point = source.inputs[1], source.input(2)
    scales = everywhere(source, _contents(scale).numpy().astype(np.float64))
    points = np.zeros(()) if point is None else everywhere(source, _contents(point).numpy().astype(np.float64))
    integers = _contents(stored).numpy().astype(np.float64)
    rows, scales, points = (_as_rows(node, np.broadcast_to(a, integers.shape)) for a in (integers, scales, points))
    return StoredWeights(node, source, rows, scales, points, (int(integers.min()), int(integers.max())))


def _as_rows(node: Node, stored: np.ndarray) -> np.ndarray:
    shape = node.inputs[1].shape if node.inputs[1] else None
    assert shape is not None
    return weight_rows(node, stored.reshape([int(size) for size in shape if isinstance(size, int)]))


def everywhere(source: Node, parameter: np.ndarray) -> np.ndarray:
    """Return a scale or zero point for each integer, or of a shape that broadcasts."""
    shape = _contents(source.inputs[0]).shape
    axis, block = source.attr("axis", 1), source.attr("block_size", 0)
    if parameter.size == 1:
        return parameter.reshape(())
    axis %= len(shape)
    if not block:
        return parameter.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.take(parameter, np.arange(shape[axis]) // block, axis)


def _contents(value: Value | None) -> Tensor:
    assert value is not None
    assert value.constant is not None
    return value.constant


@dataclass(frozen=True)
class Bias:
    """Where the bias of a product is: an input of it, or of the Add after it; `values` are its floats, [N]."""

    node: Node
    index: int
    values: np.ndarray


def bias_of(node: Node) -> Bias | str:
    """Return the bias of a product, which is zero if it may have one and has none; or why it cannot be changed."""
    size = node.inputs[1].shape if node.inputs[1] else None
    assert size is not None
    if node.op == "MatMul":
        return _added(node, size[-1])
    count = size[0] if node.op == "Conv" or node.attr("transB", 0) else size[-1]
    if node.op == "Gemm" and (node.attr("beta", 1.0) != 1 or node.attr("alpha", 1.0) != 1):
        return "it is scaled"
    bias = node.input(2)
    if bias is None:
        return Bias(node, 2, np.zeros(int(count or 0)))
    values = _floats(bias)
    if values is None or values.ndim != 1 or values.size != count:
        return "its bias is no vector of constants"
    return Bias(node, 2, values)


def _added(node: Node, count: object) -> Bias | str:
    add = node.output.sole_user
    if add is None or add.op != "Add":
        return "a matmul without a bias has no place for one"
    index = 1 if add.inputs[0] is node.output else 0
    other = add.inputs[index]
    values = None if other is None else _floats(other)
    return (
        "its bias is no vector of constants" if values is None or values.shape != (count,) else Bias(add, index, values)
    )


def _floats(value: Value) -> np.ndarray | None:
    """Return the contents of a float constant, or of integers that become one."""
    if value.constant is not None:
        return value.constant.numpy().astype(np.float64) if value.dtype is DType.FLOAT else None
    source = value.producer
    if source is None or source.op != "DequantizeLinear" or any(v and v.constant is None for v in source.inputs):
        return None
    point = source.input(2)
    if point is not None and np.any(_contents(point).numpy()):
        return None
    integers = _contents(source.inputs[0]).numpy().astype(np.float64)
    return integers * everywhere(source, _contents(source.inputs[1]).numpy().astype(np.float64))


def write_bias(rewriter: Rewriter, node: Node, bias: Bias, values: np.ndarray) -> bool:
    """Give a product another bias, int32 with the scale of its sums if its data are integers too.

    Return False, and change nothing, if it is too large for that scale.
    """
    old = bias.node.input(bias.index)
    name = f"{node.name or node.output.name}/bias" if old is None else old.name
    scale = sum_scale(node) if bias.node is node else None
    if scale is None:
        _put(rewriter, bias, rewriter.constant(values.astype(np.float32), name))
        return True
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        exact = np.rint(values / scale)
    if not np.all(np.abs(exact) <= np.iinfo(np.int32).max):
        return False
    inputs = [rewriter.constant(exact.astype(np.int32), name), rewriter.constant(scale, f"{name}/scale")]
    attributes = {"axis": 0} if scale.ndim else {}
    alone = Rewriter(node.graph)  # the node has no origin of its own, as those that quantize-static inserts
    floats = alone.op("DequantizeLinear", inputs, attributes, name=f"{name}/dequantize", before=node)
    _put(rewriter, bias, floats.output)
    return True


def _put(rewriter: Rewriter, bias: Bias, value: Value) -> None:
    inputs = list(bias.node.inputs[: bias.index])
    rewriter.set_inputs(bias.node, [*inputs, value, *bias.node.inputs[bias.index + 1 :]])


def sum_scale(node: Node) -> np.ndarray | None:
    """Return the scale of a product's sums, that of its data times those of its weights, in float32.

    None if its data are no integers, or its weights have scales of groups.
    """
    sources = [None if value is None else value.producer for value in node.inputs[:2]]
    scales = []
    for source in sources:
        if source is None or source.op != "DequantizeLinear" or source.attr("block_size", 0):
            return None
        if source.inputs[1] is None or source.inputs[1].constant is None:
            return None
        scales.append(source.inputs[1].constant.numpy().astype(np.float64))
    if scales[0].size != 1:
        return None
    product: np.ndarray = (scales[0].reshape(()) * scales[1]).astype(np.float32)
    return product
