"""Convolutions: Conv and ConvTranspose in one, two or three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm.converters.matmul import agree
from graphopt.targets.tvm.converters.reshape import reshape_to
from graphopt.targets.tvm.converters.tensors import all_of, elementwise, where, wide
from graphopt.targets.tvm.converters.window import Window, int_expr, read_window
from graphopt.targets.tvm.kernels.common.conv_workload import ConvSpec
from graphopt.targets.tvm.kernels.conv.plan import PlainConvWorkload
from graphopt.targets.tvm.kernels.family import Dtypes
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.kernel import kernel
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter


def padded(x: te.Tensor, window: Window, fill: tirx.Expr, kind: str) -> te.Tensor:
    """Return `x` as `kind` with `fill` around its spatial axes; nothing outside of the data is read."""
    sizes = [*x.shape[:2]]
    sizes += [size + low + high for size, low, high in zip(x.shape[2:], window.begin, window.end)]

    def element(n: Any, channel: Any, *index: tirx.Expr) -> tirx.Expr:
        inside, place = [], []
        for i, size, low, high in zip(index, x.shape[2:], window.begin, window.end):
            if not (isinstance(low, int) and low == 0):
                inside.append(i >= int_expr(low))
            if not (isinstance(high, int) and high == 0):
                inside.append(i < size + low)
            place.append(i - low)
        return where(all_of(inside), x(n, channel, *place).astype(kind), fill)

    return define(sizes, element, name="pad")


def is_padded(window: Window) -> bool:
    return any(not (isinstance(p, int) and p == 0) for p in [*window.begin, *window.end])


def convolve(ctx: Context, data: Operand, weight: Operand, window: Window, groups: int, *, dtype: str) -> Operand:
    """Emit a direct convolution, N C spatial by O I/groups kernel, that accumulates in the wide type of `dtype`."""
    kind = wide(dtype)
    outputs, depth = weight.shape[0], weight.shape[1]
    if not isinstance(outputs, int) or not isinstance(depth, int) or outputs % groups:
        raise Declined("the number of channels is not known")
    sizes = [data.shape[0], outputs, *window.output]
    if depth == 0:  # a kernel would not even write the sum of nothing
        return ctx.te(lambda: define(sizes, lambda *_: tirx.const(0, dtype), name="nothing"), name="nothing")
    work = _workload(data, weight, window, groups, dtype)
    chosen = None if work is None else ctx.plans.choose(work, weight.key)
    if work is not None and chosen is not None:
        name = "conv" + "x".join(map(str, window.kernel))
        return kernel(ctx, work, chosen, data, weight, name=name, out_space=window.output)

    def conv(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        source = padded(x, window, tirx.const(0, kind), kind) if is_padded(window) else x
        channel = te.reduce_axis((0, depth), "rc")
        taps = [te.reduce_axis((0, k), f"r{i}") for i, k in enumerate(window.kernel)]

        def element(n: Any, o: Any, *index: tirx.Expr) -> tirx.Expr:
            place = [i * s + r * d for i, s, r, d in zip(index, window.strides, taps, window.dilations, strict=True)]
            first = tirx.indexdiv(o, outputs // groups) * depth if groups > 1 else 0
            value = source(n, first + channel, *place).astype(kind) * w(o, channel, *taps).astype(kind)
            return te.sum(value, axis=[channel, *taps])

        total = define(sizes, element, name=f"conv{window.rank}d")
        if kind == dtype:
            return total
        return define(sizes, lambda *i: total(*i).astype(dtype), name=f"conv{window.rank}d_result")

    return ctx.te(conv, data, weight, name=f"conv{window.rank}d")


def _workload(data: Operand, weight: Operand, window: Window, groups: int, dtype: str) -> PlainConvWorkload | None:
    """Return the workload for kernel families; None if a weight or padding is computed, which needs the definition."""
    pads = [*window.begin, *window.end]
    if not weight.is_constant or not all(isinstance(p, int) for p in pads):
        return None
    spec = ConvSpec(
        out_channels=int(weight.shape[0]),
        in_channels=int(weight.shape[1]) * groups,
        kernel=window.kernel,
        strides=window.strides,
        dilations=window.dilations,
        pads_begin=tuple(int(p) for p in window.begin),
        pads_end=tuple(int(p) for p in window.end),
        groups=groups,
    )
    batch, _, *space = (size if isinstance(size, int) else None for size in data.shape)
    return PlainConvWorkload(spec, batch, tuple(space), Dtypes(data.dtype, weight.dtype, wide(dtype), dtype))


def add_bias(ctx: Context, data: Operand, bias: Operand | None) -> Operand:
    """Add a bias per channel (axis 1)."""
    if bias is None:
        return data
    column = reshape_to(ctx, bias, [*bias.shape, *[1] * (data.rank - 2)])
    kind = wide(data.dtype)
    return elementwise(ctx, lambda x, b: x.astype(kind) + b.astype(kind), [data, column], data.dtype, "bias")


def kernel_size(weight: Operand) -> tuple[int, ...]:
    if not all(isinstance(size, int) for size in weight.shape):
        raise Declined("the size of the kernel is not known")
    return tuple(int(size) for size in weight.shape[2:])


@converter("Conv")
def conv(c: Call) -> Operand:
    groups = int(c.attr("group", 1))
    data, weight = c[0], c[1]
    kernel = kernel_size(weight)
    channels = int(weight.shape[1]) * groups
    data = c.ctx.require(data, [data.shape[0], channels, *data.shape[2:]])
    window = read_window(c, data, kernel)
    sizes = [data.shape[0], weight.shape[0], *window.output]
    data, weight, window = _without_unit_axes(c.ctx, data, weight, window)
    result = convolve(c.ctx, data, weight, window, groups, dtype=data.dtype)
    return reshape_to(c.ctx, add_bias(c.ctx, result, c.input(2)), sizes)


def _without_unit_axes(ctx: Context, data: Operand, weight: Operand, window: Window) -> tuple[Operand, Operand, Window]:
    """Drop spatial axes of size 1 that the kernel does not extend over, as in a 1-D convolution written in 2-D.

    Kernels put vectors along the last axis, where a single element would leave the rest of a vector idle.
    """
    kept = [
        axis
        for axis in range(window.rank)
        if not (data.shape[2 + axis] == 1 and window.kernel[axis] == 1 and window.begin[axis] == window.end[axis] == 0)
    ]
    if not kept or len(kept) == window.rank:
        return data, weight, window
    narrow = Window(*(tuple(entries[axis] for axis in kept) for entries in _entries(window)))
    data = reshape_to(ctx, data, [*data.shape[:2], *(data.shape[2 + axis] for axis in kept)])
    weight = reshape_to(ctx, weight, [*weight.shape[:2], *narrow.kernel])
    return data, weight, narrow


def _entries(window: Window) -> tuple[tuple[Any, ...], ...]:
    return window.kernel, window.strides, window.dilations, window.begin, window.end, window.output


@converter("ConvTranspose")
def conv_transpose(c: Call) -> Operand:
    """Gather, for each output position, the contributing inputs, so that outputs are computed independently."""
    groups = int(c.attr("group", 1))
    data, weight = c[0], c[1]
    data, weight = agree(c.ctx, data, 1, weight, 0)
    kernel = kernel_size(weight)
    rank = data.rank - 2
    strides = [int(s) for s in c.attr("strides") or [1] * rank]
    dilations = [int(d) for d in c.attr("dilations") or [1] * rank]
    begin, output = _transposed_geometry(c, data.shape[2:], kernel, strides, dilations)
    depth, per_group = int(weight.shape[0]) // groups, int(weight.shape[1])
    sizes = [data.shape[0], per_group * groups, *c.ctx.shape(output)]
    kind = wide(data.dtype)

    def transposed(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        channel = te.reduce_axis((0, depth), "rc")
        # With a dilation of 1, one of every `s` taps meets an input, and only these are summed.
        every = [s if d == 1 else 1 for s, d in zip(strides, dilations)]
        steps = [te.reduce_axis((0, -(-k // e)), f"r{i}") for i, (k, e) in enumerate(zip(kernel, every))]

        def element(n: Any, o: Any, *index: tirx.Expr) -> tirx.Expr:
            inside, place, taps = [], [], []
            for i, size, r, k, e, s, d, low in zip(
                index, data.shape[2:], steps, kernel, every, strides, dilations, begin
            ):
                reach, tap, conditions = _reached(i + low, size, r, k, e, s, d)
                place.append(reach)
                taps.append(tap)
                inside += conditions
            first = tirx.indexdiv(o, per_group) * depth + channel
            value = x(n, first, *place).astype(kind) * w(first, tirx.indexmod(o, per_group), *taps).astype(kind)
            return te.sum(where(all_of(inside), value, tirx.const(0, kind)), axis=[channel, *steps])

        total = define(sizes, element, name=f"conv{rank}d_transpose")
        if kind == data.dtype:
            return total
        return define(sizes, lambda *i: total(*i).astype(data.dtype), name=f"conv{rank}d_transpose_result")

    result = c.ctx.te(transposed, data, weight, name=f"conv{rank}d_transpose")
    return add_bias(c.ctx, result, c.input(2))


def _reached(
    i: tirx.Expr, size: Dim, step: Any, kernel: int, every: int, stride: int, dilation: int
) -> tuple[tirx.Expr, Any, list[tirx.Expr]]:
    """Return the input that contributes to padded output `i` by one step of the sum, its tap, and conditions for it."""
    conditions = []
    tap = step * every + tirx.floormod(i, int_expr(every)) if every > 1 else step
    if kernel % every:
        conditions.append(tap < int_expr(kernel))
    reach = i - tap * dilation
    if stride > 1 and every == 1:
        conditions.append(tirx.EQ(tirx.floormod(reach, int_expr(stride)), int_expr(0)))
    reach = tirx.floordiv(i, int_expr(stride)) - step if every > 1 else tirx.floordiv(reach, int_expr(stride))
    return reach, tap, [*conditions, reach >= int_expr(0), reach < int_expr(size)]


def _transposed_geometry(
    c: Call, sizes: Sequence[Dim], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[Dim], list[Dim]]:
    """Return the padding removed before each axis, and the output sizes."""
    rank = len(sizes)
    extra = [int(p) for p in c.attr("output_padding") or [0] * rank]
    mode = c.attr("auto_pad", "NOTSET") or "NOTSET"
    pads = [int(p) for p in c.attr("pads") or [0] * (2 * rank)]
    wanted = c.attr("output_shape")
    begin: list[Dim] = []
    output: list[Dim] = []
    for axis, size in enumerate(sizes):
        span = (kernel[axis] - 1) * dilations[axis] + 1
        full = (size - 1) * strides[axis] + extra[axis] + span
        if wanted is None and mode in ("NOTSET", "VALID"):
            low, high = (pads[axis], pads[axis + rank]) if mode == "NOTSET" else (0, 0)
            begin.append(low)
            output.append(c.ctx.symbols.simplify(full - low - high))
            continue
        total = full - (int(wanted[-rank:][axis]) if wanted is not None else size * strides[axis])
        total = max(total, 0) if isinstance(total, int) else tirx.max(total, int_expr(0))
        half = total // 2
        begin.append(c.ctx.symbols.simplify(half if mode == "SAME_UPPER" else total - half))
        output.append(int(wanted[-rank:][axis]) if wanted is not None else c.ctx.symbols.simplify(full - total))
    return begin, output
