"""How long a layer takes in floats and in 8-bit integers: what placement and the search for mixed precision compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from graphopt.ir import Node, Value

FLOATS, INTEGERS = "float32", "int8"
PRECISIONS = (FLOATS, INTEGERS)
"""The precisions in which a layer can compute."""

_MOVES = ("Reshape", "Transpose", "Cast", "Identity")


@dataclass(frozen=True)
class LayerSizes:
    """The sizes of a convolution or matmul, all that its time depends on; an open batch counts as one.

    `data` is [N, C, D1...Dn] with `weight` [O, C / groups, k1...kn], or [..., M, K] with [..., K, N]. `pads` are those
    at the begin of each axis, then at the end. `constant`: the weight is known when the model is compiled. `groups` is
    0 for a matmul.
    """

    data: tuple[int, ...]
    weight: tuple[int, ...]
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    groups: int = 0
    constant: bool = True

    @property
    def is_conv(self) -> bool:
        return self.groups > 0

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel of the result comes from a single channel of the data."""
        return 1 < self.groups == self.data[1] == self.weight[0]

    @property
    def result(self) -> tuple[int, ...]:
        """The shape of the result."""
        if not self.is_conv:
            return (*self.data[:-1], self.weight[-1])
        half = len(self.pads) // 2
        axes = zip(self.data[2:], self.weight[2:], self.strides, self.dilations, strict=True)
        pads = [begin + end for begin, end in zip(self.pads[:half], self.pads[half:], strict=True)]
        space = [(n + p - d * (k - 1) - 1) // s + 1 for (n, k, s, d), p in zip(axes, pads, strict=True)]
        return (self.data[0], self.weight[0], *space)

    @property
    def products(self) -> int:
        """The number of multiplications."""
        summed = math.prod(self.weight[1:]) if self.is_conv else self.data[-1]
        return math.prod(self.result) * summed

    @property
    def key(self) -> str:
        """The name of the layer in records: equal for equal sizes."""
        if not self.is_conv:
            return f"layer matmul {_by(self.data)} {_by(self.weight)}{'' if self.constant else ' computed'}"
        half = len(self.pads) // 2
        pads = f"{_by(self.pads[:half])}+{_by(self.pads[half:])}"
        window = f"s{_by(self.strides)} d{_by(self.dilations)} p{pads} g{self.groups}"
        return f"layer conv {_by(self.data)} {_by(self.weight)} {window}"

    @staticmethod
    def of(node: Node) -> LayerSizes | None:
        """Return the sizes of a Conv, Gemm or MatMul; None for another node, or where sizes are not known."""
        data, weight = node.input(0), node.input(1)
        if data is None or weight is None or node.op not in ("Conv", "Gemm", "MatMul"):
            return None
        shapes = _known(data), _known(weight)
        if shapes[0] is None or shapes[1] is None or 0 in (*shapes[0], *shapes[1]):
            return None
        return _conv(node, *shapes) if node.op == "Conv" else _matmul(node, *shapes, constant=_is_constant(weight))  # type: ignore[arg-type]


LEAST_GAIN = 1.2
"""How many times as fast a layer has to be as integers: the rounding of its data and changes of precision around it, of
which its own time says nothing, take the rest."""


@dataclass(frozen=True)
class Choice:
    """The seconds of a layer in both precisions; `measured` on the target, or else estimated."""

    floats: float
    integers: float
    measured: bool

    @property
    def integers_win(self) -> bool:
        """Whether integers are faster for data that are rounded anyway."""
        return self.integers < self.floats

    @property
    def pays(self) -> bool:
        """Whether integers are so much faster that rounding the data of a float layer for them pays."""
        return self.integers * LEAST_GAIN < self.floats

    def seconds(self, precision: str) -> float:
        """Return the time in one of PRECISIONS."""
        return self.integers if precision == INTEGERS else self.floats


class Latencies(Protocol):
    """What is known about the times of layers on one target."""

    def measured(self, sizes: LayerSizes, precision: str) -> float | None:
        """Return the seconds that a record has for a layer; None if there is none."""
        ...

    def estimated(self, sizes: LayerSizes, precision: str) -> float:
        """Return the seconds of a layer by a closed form."""
        ...


def choose(latencies: Latencies, sizes: LayerSizes) -> Choice:
    """Return the times of a layer: those that were measured if both were, else both estimates."""
    floats, integers = latencies.measured(sizes, FLOATS), latencies.measured(sizes, INTEGERS)
    if floats is not None and integers is not None:
        return Choice(floats, integers, True)
    return Choice(latencies.estimated(sizes, FLOATS), latencies.estimated(sizes, INTEGERS), False)


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _known(value: Value) -> tuple[int, ...] | None:
    """Return the shape of a value with one for an open batch; None if another size is open."""
    if value.shape is None or len(value.shape) < 2:
        return None
    first, *rest = value.shape
    shape = (first if isinstance(first, int) else 1, *rest)
    return shape if all(isinstance(size, int) for size in shape) else None  # type: ignore[return-value]


def _is_constant(value: Value) -> bool:
    """Return whether a value is constant, or is made of constants by moving and dequantizing them."""
    while value.constant is None:
        node = value.producer
        if node is None or node.op not in (*_MOVES, "DequantizeLinear") or node.inputs[0] is None:
            return False
        value = node.inputs[0]
    return True


def _conv(node: Node, data: tuple[int, ...], weight: tuple[int, ...]) -> LayerSizes | None:
    rank = len(data) - 2
    if rank < 1 or len(weight) != rank + 2:
        return None
    strides, dilations = (tuple(node.attr(name) or [1] * rank) for name in ("strides", "dilations"))
    pads = tuple(node.attr("pads") or [0] * 2 * rank)
    auto = node.attr("auto_pad") or "NOTSET"
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        begin, end = [], []
        for size, kernel, stride, dilation in zip(data[2:], weight[2:], strides, dilations, strict=True):
            whole = max(0, (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size)
            less, more = whole // 2, whole - whole // 2
            begin.append(less if auto == "SAME_UPPER" else more)
            end.append(more if auto == "SAME_UPPER" else less)
        pads = (*begin, *end)
    return LayerSizes(data, weight, strides, dilations, pads, node.attr("group", 1))


def _matmul(node: Node, data: tuple[int, ...], weight: tuple[int, ...], constant: bool) -> LayerSizes | None:
    """Return the sizes of a product; all rows that read one matrix count as those of one matrix."""
    if node.op == "Gemm":
        data = data[::-1] if node.attr("transA", 0) else data
        weight = weight[::-1] if node.attr("transB", 0) else weight
    if len(weight) == 2:
        rows = 1
        for size in data[:-1]:
            rows *= size
        data = (rows, data[-1])
    return LayerSizes(data, weight, constant=constant)
