"""Rescaling between integers by multiplications and shifts, in place of floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import DType, Node, TensorType, Value
from graphopt.passes.matching.match import NOTHING
from graphopt.passes.quantization._affine import Affine, Term, affine, unclipped
from graphopt.passes.quantization._pairs import QUANTIZE, Mapping, mapping_of
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter

_FACTOR_BITS = 31
"""Factors are below 2^31, so that each product is one of two 32-bit integers."""
_SUM_BITS = 62
"""Sums of products, with what is added for rounding, are below 2^62: half of what int64 holds."""
_LEAST_BITS = 14
"""The bits that the smallest factor has at least: a result of 255 is then off by less than a hundredth."""


@dataclass(frozen=True)
class _Match:
    """`clip(round(values), low, high)` with a zero point in `values`, whose unit is a step of the result."""

    node: Node
    values: Affine
    low: int
    high: int
    shift: int


@dataclass(frozen=True)
class RequantizeFixedPoint(RewritePass):
    """Compute a QuantizeLinear of sums of integers with integer factors and a shift, instead of floats.

    For y = clip(round(sum(f_i * x_i) + c), low, high), let F_i and C be the integers nearest to f_i * 2^s and c * 2^s.
    Then y = clip((sum(F_i * x_i) + C + 2^(s - 1)) >> s, low, high) in int64: the multiplication by quantized
    factors of Jacob et al. (2018), with one rounding for all terms. The shift s is the largest for which all |F_i| are
    below 2^31 and the sum below 2^62, and is the same for all channels. A value halfway between two integers is rounded
    up, where QuantizeLinear takes the even one.

    Integer products, residual sums, averages over images and changes of scale are rewritten, with ReLU and Clip after
    them. Other operators between integers stay floats, and the report names them.
    """

    name: ClassVar[str] = "requantize-fixed-point"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = (QUANTIZE,)

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        mapping, data = mapping_of(node), node.inputs[0]
        if data is None or data.dtype is not DType.FLOAT or data.producer is None:
            return NOTHING  # what comes into the model
        if mapping is None or not mapping.is_uniform:
            return Miss("channels of the result have scales of their own, or these are computed")
        data, reader, low, high = unclipped(data, node)
        values = affine(data, reader)
        if isinstance(values, str):
            return Miss(f"floats remain: {values}")
        if not values.terms:
            return NOTHING
        values = values.scaled(1 / mapping.scale.astype(np.float64))
        values = values.plus(Affine((), mapping.zero.astype(np.float64)))
        shift = _shift(values)
        if shift is None:
            return Miss("the scales of its channels or operands differ too much for 31 bits")
        return _Match(node, values, _limit(low, mapping), _limit(high, mapping), shift)

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        node, step = match.node, 1 << match.shift
        wide = TensorType(DType.INT64, node.output.shape)

        def apply(op: str, first: Value, second: np.ndarray | int | Value, name: str) -> Value:
            if not isinstance(second, Value):
                second = rewriter.constant(np.asarray(second, np.int64), f"{node.name}_{name}")
            return rewriter.op(op, [first, second], types=[wide]).output

        total: Value | None = None
        for term, factor in match.values.terms:
            product = apply("Mul", _integers(term, rewriter), _fixed(factor, match.shift), "factor")
            total = product if total is None else apply("Add", total, product, "sum")
        assert total is not None
        # Counted from the lower limit, so that what is shifted is not negative, and a division is a shift.
        offset = _fixed(match.values.constant - match.low, match.shift) + step // 2
        total = apply("Add", total, offset, "offset")
        total = apply("Max", total, 0, "least")
        total = apply("Div", total, step, "step")
        total = apply("Min", total, match.high - match.low, "most")
        if match.low:
            total = apply("Add", total, match.low, "low")
        assert node.output.dtype is not None
        narrow = rewriter.op("Cast", [total], {"to": int(node.output.dtype)}, types=[node.output.type])
        rewriter.replace(node, narrow.output)


def _integers(term: Term, rewriter: Rewriter) -> Value:
    """Return a term as int64."""
    values, shape = term.integers, term.integers.shape
    if term.positions > 1:
        assert shape is not None
        values = rewriter.op("Cast", [values], {"to": int(DType.INT32)}, types=[TensorType(DType.INT32, shape)]).output
        axes = rewriter.constant(np.arange(2, len(shape)), f"{values.name}_axes")
        shape = (*shape[:2], *[1] * (len(shape) - 2))
        values = rewriter.op("ReduceSum", [values, axes], types=[TensorType(DType.INT32, shape)]).output
    return rewriter.op("Cast", [values], {"to": int(DType.INT64)}, types=[TensorType(DType.INT64, shape)]).output


def _fixed(numbers: np.ndarray, shift: int) -> np.ndarray:
    return np.rint(np.ldexp(numbers, shift)).astype(np.int64)


def _limit(bound: float, mapping: Mapping) -> int:
    """Return the integer for a limit of the values, which may be infinite."""
    low, high = mapping.limits
    exact = np.rint(np.float64(bound) / np.float64(mapping.scale)) + float(mapping.zero)
    return int(min(max(exact, low), high))


def _shift(values: Affine) -> int | None:
    """Return the largest shift for which factors and sums fit their bits; None if small factors lose too much then."""
    factors = [np.abs(factor) for _, factor in values.terms]
    largest = max(float(factor.max(initial=0)) for factor in factors)
    if not largest:
        return None
    total = float(np.abs(values.constant).max(initial=0)) + 257
    for (term, _), factor in zip(values.terms, factors, strict=True):
        total += float(factor.max(initial=0)) * term.largest
    if not np.isfinite(total):
        return None
    shift = min(_FACTOR_BITS - _bits(largest), _SUM_BITS - _bits(total))
    small = min(float(factor[factor > 0].min(initial=np.inf)) for factor in factors)
    return shift if shift >= 1 and small * 2.0**shift >= 2**_LEAST_BITS else None


def _bits(number: float) -> int:
    """Return the least b for which a number, rounded up, is below 2^b."""
    return int(np.floor(np.log2(number))) + 1
