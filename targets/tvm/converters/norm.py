"""Normalizations: batch, layer, RMS, instance, group, local response, mean-variance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm.converters.reshape import reshape_to
from graphopt.targets.tvm.converters.tensors import broadcast_index, elementwise, wide
from graphopt.targets.tvm.kernels.lrn.compute import square_sums
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter


def _per_channel(ctx: Context, vector: Operand, rank: int) -> Operand:
    return reshape_to(ctx, vector, [1, *vector.shape, *[1] * (rank - 2)])


@converter("BatchNormalization")
def batch_normalization(c: Call) -> Operand:
    if c.attr("training_mode", 0) or (c.version < 14 and any(c.wants(i) for i in range(1, 5))):
        raise Declined("training mode")
    data = c[0]
    scale, bias, mean, variance = (_per_channel(c.ctx, c[i], data.rank) for i in range(1, 5))
    kind, epsilon = wide(data.dtype), float(c.attr("epsilon", 1e-5))

    def factor(s: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        return s.astype(kind) / tirx.sqrt(v.astype(kind) + tirx.const(epsilon, kind))

    scaled = elementwise(c.ctx, factor, [scale, variance], kind, "bn_scale")

    def normalize(x: tirx.Expr, f: tirx.Expr, m: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
        return (x.astype(kind) - m.astype(kind)) * f + b.astype(kind)

    return elementwise(c.ctx, normalize, [data, scaled, mean, bias], data.dtype, "batch_norm")


class _Rows:
    """The stages that normalizations over trailing axes share, inside one kernel."""

    def __init__(self, x: te.Tensor, shape: Sequence[Dim], axes: Sequence[int], kind: str) -> None:
        self.x, self.shape, self.axes, self.kind = x, shape, list(axes), kind
        self.kept: list[Dim] = [1 if i in self.axes else size for i, size in enumerate(shape)]
        count: Any = tirx.const(1, "int64")
        for axis in self.axes:
            count = count * shape[axis]
        self.count = count.astype(kind)

    def row(self, index: Sequence[Any]) -> list[Any]:
        """Return the index of the row's statistic for an index of the data."""
        return [0 if axis in self.axes else i for axis, i in enumerate(index)]

    def mean_of(self, source: Callable[..., tirx.Expr], name: str) -> te.Tensor:
        loops = {axis: te.reduce_axis((0, self.shape[axis]), f"k{axis}") for axis in self.axes}

        def element(*index: tirx.Expr) -> tirx.Expr:
            return te.sum(source(*[loops.get(a, i) for a, i in enumerate(index)]), axis=list(loops.values()))

        total = define(self.kept, element, name=f"{name}_sum")
        return define(self.kept, lambda *i: total(*i) / self.count, name=name)

    def mean(self) -> te.Tensor:
        return self.mean_of(lambda *i: self.x(*i).astype(self.kind), "mean")

    def variance(self, mean: te.Tensor) -> te.Tensor:
        def square(*index: tirx.Expr) -> tirx.Expr:
            distance = self.x(*index).astype(self.kind) - mean(*self.row(index))
            return distance * distance

        return self.mean_of(square, "variance")

    def inverse_deviation(self, variance: te.Tensor, epsilon: float) -> te.Tensor:
        one, small = tirx.const(1, self.kind), tirx.const(epsilon, self.kind)
        return define(self.kept, lambda *i: one / tirx.sqrt(variance(*i) + small), name="inverse_deviation")


def _stash(c: Call, dtype: str) -> str:
    if c.attr("stash_type", 1) != 1:
        raise Declined("a stash_type other than float32")
    return dtype if dtype == "float64" else "float32"


@converter("LayerNormalization")
def layer_normalization(c: Call) -> list[Operand | None]:
    data = c[0]
    axes = range(c.axis(data.rank, -1), data.rank)
    kind = _stash(c, data.dtype)
    epsilon = float(c.attr("epsilon", 1e-5))
    others = _trailing(c, axes)

    def normalize(x: te.Tensor, *affine: te.Tensor) -> list[te.Tensor]:
        rows = _Rows(x, data.shape, axes, kind)
        mean = rows.mean()
        inverse = rows.inverse_deviation(rows.variance(mean), epsilon)

        def element(*index: tirx.Expr) -> tirx.Expr:
            value = (x(*index).astype(kind) - mean(*rows.row(index))) * inverse(*rows.row(index))
            return _affine(value, index, others, affine).astype(data.dtype)

        result = define(data.shape, element, name="layer_norm")
        return [result, *([mean] if c.wants(1) else []), *([inverse] if c.wants(2) else [])]

    made = c.ctx.te_many(normalize, data, *others, name="layer_norm")
    results: list[Operand | None] = [made.pop(0)]
    results.append(made.pop(0) if c.wants(1) else None)
    results.append(made.pop(0) if c.wants(2) else None)
    return results


def _trailing(c: Call, axes: range) -> list[Operand]:
    """Return scale and, if there is one, bias, with the sizes of the normalized axes (or 1)."""
    sizes = c[0].shape
    others = []
    for operand in (c.input(1), c.input(2)):
        if operand is None:
            continue
        tail = sizes[len(sizes) - operand.rank :]
        wanted = [have if isinstance(have, int) and have == 1 else want for have, want in zip(operand.shape, tail)]
        others.append(c.ctx.require(operand, wanted))
    return others


def _affine(
    value: tirx.Expr, index: Sequence[Any], operands: Sequence[Operand], tensors: Sequence[te.Tensor]
) -> tirx.Expr:
    kind = str(value.ty.dtype)
    for step, (operand, tensor) in enumerate(zip(operands, tensors)):
        other = tensor(*broadcast_index(operand.shape, index)).astype(kind)
        value = value * other if step == 0 else value + other
    return value


@converter("RMSNormalization")
def rms_normalization(c: Call) -> Operand:
    data = c[0]
    axes = range(c.axis(data.rank, -1), data.rank)
    kind = _stash(c, data.dtype)
    epsilon = float(c.attr("epsilon", 1e-5))
    others = _trailing(c, axes)

    def normalize(x: te.Tensor, scale: te.Tensor) -> te.Tensor:
        rows = _Rows(x, data.shape, axes, kind)
        squares = rows.mean_of(lambda *i: x(*i).astype(kind) * x(*i).astype(kind), "mean_square")
        inverse = rows.inverse_deviation(squares, epsilon)

        def element(*index: tirx.Expr) -> tirx.Expr:
            value = x(*index).astype(kind) * inverse(*rows.row(index))
            return _affine(value, index, others, [scale]).astype(data.dtype)

        return define(data.shape, element, name="rms_norm")

    return c.ctx.te(normalize, data, *others[:1], name="rms_norm")


def _normalized(ctx: Context, data: Operand, axes: Sequence[int], epsilon: float, kind: str, name: str) -> Operand:
    """Compute (x - mean) / sqrt(variance + epsilon) over `axes`, as `kind`."""

    def normalize(x: te.Tensor) -> te.Tensor:
        rows = _Rows(x, data.shape, axes, kind)
        mean = rows.mean()
        inverse = rows.inverse_deviation(rows.variance(mean), epsilon)
        return define(
            data.shape,
            lambda *i: (x(*i).astype(kind) - mean(*rows.row(i))) * inverse(*rows.row(i)),
            name=name,
        )

    return ctx.te(normalize, data, name=name)


def _scale_and_shift(ctx: Context, data: Operand, scale: Operand, bias: Operand, dtype: str) -> Operand:
    kind = data.dtype
    return elementwise(
        ctx, lambda x, s, b: x * s.astype(kind) + b.astype(kind), [data, scale, bias], dtype, "scale_shift"
    )


@converter("InstanceNormalization")
def instance_normalization(c: Call) -> Operand:
    data = c[0]
    epsilon = float(c.attr("epsilon", 1e-5))
    plain = _normalized(c.ctx, data, range(2, data.rank), epsilon, wide(data.dtype), "instance_norm")
    scale, bias = (_per_channel(c.ctx, c[i], data.rank) for i in (1, 2))
    return _scale_and_shift(c.ctx, plain, scale, bias, data.dtype)


@converter("GroupNormalization", since=18)
def group_normalization(c: Call) -> Operand:
    data, groups = c[0], int(c.attr("num_groups"))
    kind = _stash(c, data.dtype) if c.version >= 21 else wide(data.dtype)
    channels = data.shape[1]
    if not isinstance(channels, int) or channels % groups:
        raise Declined("the number of channels is not a known multiple of the number of groups")
    split = reshape_to(c.ctx, data, [data.shape[0], groups, channels // groups, *data.shape[2:]])
    epsilon = float(c.attr("epsilon", 1e-5))
    plain = _normalized(c.ctx, split, range(2, split.rank), epsilon, kind, "group_norm")
    if c.version >= 21:
        plain = reshape_to(c.ctx, plain, data.shape)
        scale, bias = (_per_channel(c.ctx, c[i], data.rank) for i in (1, 2))
        return _scale_and_shift(c.ctx, plain, scale, bias, data.dtype)
    scale, bias = (_per_channel(c.ctx, c[i], split.rank) for i in (1, 2))
    return reshape_to(c.ctx, _scale_and_shift(c.ctx, plain, scale, bias, data.dtype), data.shape)


@converter("MeanVarianceNormalization")
def mean_variance_normalization(c: Call) -> Operand:
    data = c[0]
    if 0 in data.shape:
        return data
    axes = [int(a) % data.rank for a in c.attr("axes") or (0, 2, 3)]
    kind = wide(data.dtype)

    def normalize(x: te.Tensor) -> te.Tensor:
        rows = _Rows(x, data.shape, axes, kind)
        mean = rows.mean()
        variance = rows.variance(mean)
        small = tirx.const(1e-9, kind)  # added to the deviation, as in the operator's function body
        return define(
            data.shape,
            lambda *i: ((x(*i).astype(kind) - mean(*rows.row(i))) / (tirx.sqrt(variance(*rows.row(i))) + small)).astype(
                data.dtype
            ),
            name="mean_variance_norm",
        )

    return c.ctx.te(normalize, data, name="mean_variance_norm")


@converter("LRN")
def lrn(c: Call) -> Operand:
    """Normalize across channels: x / (bias + alpha / size * sum of squares of neighbours) ^ beta."""
    data, size = c[0], int(c.attr("size"))
    kind = wide(data.dtype)
    alpha, beta, bias = (float(c.attr(n, d)) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    before = (size - 1) // 2

    def normalize(x: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, size), "k")
        nil = tirx.const(0, kind)

        def squares(n: Any, ch: Any, *index: tirx.Expr) -> tirx.Expr:
            place = ch + k - before
            inside = tirx.And(place >= tirx.const(0, "int64"), place < data.shape[1])
            value = tirx.if_then_else(inside, x(n, place, *index).astype(kind), nil)
            return te.sum(value * value, axis=k)

        total = define(data.shape, squares, name="square_sum")

        def element(*index: tirx.Expr) -> tirx.Expr:
            base = tirx.const(bias, kind) + tirx.const(alpha / size, kind) * total(*index)
            return (x(*index).astype(kind) / _raised(base, beta)).astype(data.dtype)

        return define(data.shape, element, name="lrn")

    return c.ctx.te(normalize, data, name="lrn")


@converter("graphopt::BlockedLRN")
def blocked_lrn(c: Call) -> Operand:
    """Compute LRN of a channel-blocked value."""
    data, size = c[0], int(c.attr("size"))
    alpha, beta, bias = (float(c.attr(name)) for name in ("alpha", "beta", "bias"))

    def normalize(x: te.Tensor) -> te.Tensor:
        total = square_sums(x, size)

        def element(*index: tirx.Expr) -> tirx.Expr:
            base = tirx.const(bias, data.dtype) + tirx.const(alpha / size, data.dtype) * total(*index)
            return x(*index) / _raised(base, beta)

        return define(data.shape, element, name="lrn_result")

    return c.ctx.te(normalize, data, name="lrn")


def _raised(base: tirx.Expr, exponent: float) -> tirx.Expr:
    """Compute a power; the usual exponent with square roots, which are correctly rounded and much faster."""
    if exponent == 0.75:
        root = tirx.sqrt(base)
        return root * tirx.sqrt(root)
    return tirx.power(base, tirx.const(exponent, str(base.ty.dtype)))
