"""FLOPs of nodes, from the shapes of their values.

A multiplication and an addition count as one each, so a multiply-add is two. Elementwise operators count one per output
element whatever the function, reductions one per input element, softmax and normalizations a fixed number per element;
data movement counts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from graphopt.ir import Node, Value
from graphopt.ir.facts import facts_of


def count_flops(node: Node) -> int | None:
    """Return the arithmetic operations of one run of `node`; None if a shape or the operator is unknown."""
    facts, counter = facts_of(node.op), _COUNTERS.get(node.op)
    try:
        if facts.flops is not None:
            return facts.flops * _elements(node.input(0) if facts.flops_of_input else node.output) if facts.flops else 0
        return counter(node) if counter else None
    except _UnknownShape:
        return None


class _UnknownShape(Exception):
    """A shape that the count needs is not known."""


def _shape(value: Value | None) -> tuple[int, ...]:
    shape = value.shape if value is not None else None
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        raise _UnknownShape
    return tuple(dim for dim in shape if isinstance(dim, int))


def _elements(value: Value | None) -> int:
    return math.prod(_shape(value))


def _conv(weights: int) -> Callable[[Node], int]:
    def count(node: Node) -> int:
        per_output = 2 * math.prod(_shape(node.input(weights))[1:])
        has_bias = node.op_type == "Conv" and node.input(2) is not None
        return _elements(node.output) * (per_output + has_bias)

    return count


def _blocked_conv(node: Node) -> int:
    """Count only the channels that exist: a blocked output may have more lanes."""
    batch, _, *space, _ = _shape(node.output)
    channels, *depth = _shape(node.input(1))
    return batch * channels * math.prod(space) * (2 * math.prod(depth) + (node.input(2) is not None))


def _conv_transpose(node: Node) -> int:
    bias = _elements(node.output) if node.input(2) is not None else 0
    return 2 * _elements(node.input(0)) * math.prod(_shape(node.input(1))[1:]) + bias


def _matmul(node: Node) -> int:
    return 2 * _elements(node.output) * _shape(node.input(0))[-1]


def _gemm(node: Node) -> int:
    a = _shape(node.input(0))
    depth = a[0] if node.attr("transA", 0) else a[1]
    return _elements(node.output) * (2 * depth + (node.input(2) is not None))


def _pool(node: Node) -> int:
    return _elements(node.output) * math.prod(node.attr("kernel_shape", ()))


def _recurrent(gates: int) -> Callable[[Node], int]:
    def count(node: Node) -> int:
        steps, batch, features = _shape(node.input(0))
        directions, _, hidden = _shape(node.input(2))
        return 2 * steps * batch * directions * gates * hidden * (features + hidden)

    return count


def _attention(node: Node) -> int:
    query, key, output = (_shape(value) for value in (node.input(0), node.input(1), node.output))
    past = node.input(4)
    key_length = key[-2] + (_shape(past)[-2] if past is not None else 0)
    width = query[-1] + output[-1]
    if len(query) == 4:
        width *= query[1]
    return 2 * query[0] * query[-2] * key_length * width


def _einsum(node: Node) -> int:
    terms = str(node.attr("equation", "")).replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        if "..." in term:
            raise _UnknownShape
        sizes.update(zip(term, _shape(value), strict=True))
    return max(len(terms), 1) * math.prod(sizes.values())


def _resize(node: Node) -> int:
    taps = {"linear": 2, "cubic": 4}.get(node.attr("mode", "nearest"), 0)
    output, input_ = _shape(node.output), _shape(node.input(0))
    scaled = sum(after != before for after, before in zip(output, input_, strict=True))
    return 2 * math.prod(output) * taps**scaled if taps else 0


_COUNTERS: dict[str, Callable[[Node], int]] = {
    "Attention": _attention,
    "AveragePool": _pool,
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "GRU": _recurrent(3),
    "Gemm": _gemm,
    "LSTM": _recurrent(4),
    "LpPool": _pool,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "MaxPool": _pool,
    "QLinearConv": _conv(3),
    "QLinearMatMul": _matmul,
    "RNN": _recurrent(1),
    "Resize": _resize,
    "com.microsoft::MatMulNBits": _matmul,
    "graphopt::BlockedConv": _blocked_conv,
    "graphopt::BlockedConvInteger": _blocked_conv,
    "graphopt::ConvToBlocked": _blocked_conv,
}
