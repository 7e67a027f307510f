"""Generators of nodes that sum: reductions, normalizations, convolutions, pooling (see `tools/fuzzing/operators`)."""

from __future__ import annotations

import numpy as np

from tools.fuzzing.graph import Growing, Refused, Value
from tools.fuzzing.operators import axes_of, axis_of, dtypes_of, finite, maker
from tools.fuzzing.values import is_float, numbers, words


def floats(g: Growing, op: str) -> tuple[str, ...]:
    return tuple(d for d in dtypes_of(g, op) if "float" in d)


@maker(
    *words(
        """
        ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
        ReduceSum ReduceSumSquare
        """
    )
)
def reduce(g: Growing, op: str) -> list[Value]:
    value = g.pick(dtypes_of(g, op), 0, 4)
    # For integers, ONNX Runtime rounds each exponential; by ONNX's function body, the result is rounded.
    exponentials = op == "ReduceLogSumExp" and not is_float(value.array)
    by_place = op in ("ReduceMax", "ReduceMin", "ReduceLogSumExp") and has_nan(value)
    if exponentials or overflows(value, op) or by_place:
        raise Refused("undefined")
    axes = axes_of(g, value) if g.flip(0.8) else None
    if axes is None and g.flip(0.2) and g.opset >= 18:
        axes = []
    if op in ("ReduceMean", "ReduceLogSum", "ReduceLogSumExp") and 0 in value.shape:
        raise Refused("undefined")
    empty = int(g.flip(0.3)) if not axes else None
    return g.add(op, value, named={"axes": axes}, keepdims=g.choice((0, 1)), noop_with_empty_axes=empty)


def overflows(value: Value, op: str) -> bool:
    """Return whether integers may overflow in a sum of squares, or one whose quotient, root or logarithm is computed.

    A plain sum wraps around in any order. For these, ONNX Runtime combines parts that were divided or rounded
    separately, or ends at the largest integer.
    """
    squares = ("ReduceL2", "ReduceSumSquare")
    if is_float(value.array) or op not in ("ReduceMean", "ReduceLogSum", "ReduceLogSumExp", *squares):
        return False
    wide = np.abs(value.array.astype(np.float64))
    return float((wide * wide if op in squares else wide).sum()) > float(np.iinfo(value.dtype).max)


def has_nan(value: Value) -> bool:
    """Return whether a value has a NaN: whether ONNX Runtime's maximum is NaN depends on its position."""
    return is_float(value.array) and bool(np.isnan(value.array.astype(np.float64)).any())


@maker("CumSum", "CumProd")
def cumulative(g: Growing, op: str) -> list[Value]:
    value = g.pick(dtypes_of(g, op), 1, 3)
    axis = g.parameter(axis_of(g, value), g.choice(("int64", "int32")))
    return g.add(op, value, axis, exclusive=g.choice((0, 1)), reverse=g.choice((0, 1)))


@maker("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")
def along(g: Growing, op: str) -> list[Value]:
    value = g.pick(floats(g, op), 1, 4)
    if op == "Hardmax" and not finite(value):
        raise Refused("undefined")
    return g.add(op, value, axis=axis_of(g, value) if g.flip(0.8) else None, p=g.choice((1, 2)))


@maker("MeanVarianceNormalization")
def mean_variance(g: Growing, op: str) -> list[Value]:
    """Generate with different numbers: for equal ones, ONNX Runtime takes the root of a rounding error of any sign."""
    value = g.pick(floats(g, op), 4, 4, where=lambda v: v.array.size > 0)
    axes = g.choice((None, [0, 2, 3], [1], [2, 3]))
    spans = np.ptp(value.array.astype(np.float64), axis=tuple(axes or (0, 2, 3)))
    if np.prod([value.shape[axis] for axis in axes or (0, 2, 3)]) < 3 or np.any(spans < 1e-3):
        raise Refused("undefined")
    return g.add(op, value, axes=axes)


def per_channel(g: Growing, value: Value, count: int, axis: int = 1) -> list[Value]:
    """Return finite weights for the channels, because ONNX Runtime multiplies them with one another first."""
    made = [g.fresh(value.dtype, (value.shape[axis],)) for _ in range(count)]
    if not all(finite(one) for one in made):
        raise Refused("undefined")
    return made


@maker("BatchNormalization")
def batch_norm(g: Growing, op: str) -> list[Value]:
    value = g.pick(floats(g, op), 2, 4)
    source = np.random.default_rng(g.random.getrandbits(32))
    variance = g.constant(source.uniform(0.3, 2, value.shape[1]), value.dtype)
    return g.add(op, value, *per_channel(g, value, 3), variance, epsilon=g.choice((None, 1e-3)), results=1)


@maker("InstanceNormalization")
def instance_norm(g: Growing, op: str) -> list[Value]:
    value = g.pick(floats(g, op), 3, 4)
    return g.add(op, value, *per_channel(g, value, 2), epsilon=g.choice((None, 1e-3)))


@maker("GroupNormalization")
def group_norm(g: Growing, op: str) -> list[Value]:
    groups, inside = g.choice((1, 2, 3)), g.choice((1, 2, 4))
    value = g.fresh("float32", (g.choice((1, 2)), groups * inside, *([g.choice((1, 3, 4))] * g.choice((1, 2)))))
    size = groups if g.opset < 21 else groups * inside
    return g.add(op, value, g.fresh("float32", (size,)), g.fresh("float32", (size,)), num_groups=groups)


@maker("LayerNormalization", "RMSNormalization")
def layer_norm(g: Growing, op: str) -> list[Value]:
    value = g.pick(floats(g, op), 1, 4)
    axis = axis_of(g, value)
    shape = value.shape[axis:]
    more = [g.fresh(value.dtype, shape)] if op == "LayerNormalization" and g.flip(0.6) else []
    return g.add(op, value, g.fresh(value.dtype, shape), *more, axis=axis, epsilon=g.choice((None, 1e-3)))


@maker("LRN")
def lrn(g: Growing, op: str) -> list[Value]:
    """Generate with finite numbers: in ONNX Runtime's sum along the channels, a NaN stays beyond its window."""
    return g.add(
        op, g.pick(("float32",), 4, 4, where=finite), size=g.choice((1, 3, 5)), alpha=0.01, beta=g.choice((0.75, 0.5))
    )


def window(g: Growing, spatial: tuple[int, ...], padded: bool = True, dilated: bool = False) -> dict[str, object]:
    """Return kernel, strides, dilations and padding over some axes."""
    rank = len(spatial)
    made: dict[str, object] = {"kernel_shape": [g.random.randint(1, min(3, max(1, n))) for n in spatial]}
    if g.flip():
        made["strides"] = [g.choice((1, 2, 2, 3)) for _ in range(rank)]
    if g.flip(0.3):
        made["dilations"] = [g.choice((1, 2)) for _ in range(rank)]
    if g.flip(0.2):
        made["auto_pad"] = g.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))
        if not dilated:  # ONNX Runtime rejects dilated convolutions with automatic padding
            made.pop("dilations", None)
    elif padded and g.flip(0.6):
        kernel = list(made["kernel_shape"])  # type: ignore[call-overload]
        made["pads"] = [g.random.randint(0, k - 1) for k in kernel * 2]
    return made


def picture(g: Growing, dtypes: tuple[str, ...]) -> Value:
    """Return a value with channels and one to three spatial axes."""

    def shape() -> tuple[int, ...]:
        size = [g.choice((1, 3, 5, 8, 9)) for _ in range(g.choice((1, 2, 2, 2, 3)))]
        return (g.choice((1, 1, 2)), g.choice((1, 2, 3, 4, 8, 16)), *size)

    return g.pick(dtypes, 3, 5, where=lambda v: 0 not in v.shape, shape=shape)


@maker("Conv", "ConvTranspose")
def conv(g: Growing, op: str) -> list[Value]:
    value = picture(g, floats(g, op))
    channels, spatial = value.shape[1], value.shape[2:]
    how = window(g, spatial)
    group = g.choice([n for n in (1, 1, 2, channels) if channels % n == 0])
    out = g.choice((1, 2, 4, 8, 16)) * (group if op == "Conv" else 1)
    kernel = how["kernel_shape"]
    shape = (out, channels // group, *kernel) if op == "Conv" else (channels, out, *kernel)  # type: ignore[misc]
    weight = numbers(g.random, value.dtype, shape)
    if op == "Conv" and not np.isfinite(weight.astype(np.float64)).all():
        # One kernel of ONNX Runtime multiplies an infinite weight by the zeros of the padding, another skips those.
        raise Refused("undefined")
    operand = g.constant(weight) if g.flip(0.9) else g.input(weight)
    bias = [g.fresh(value.dtype, (out if op == "Conv" else out * group,))] if g.flip() else []
    if op == "ConvTranspose" and g.flip(0.2):
        how["output_padding"] = [g.choice((0, 1)) for _ in spatial]
    if g.flip(0.2):
        how.pop("kernel_shape")
    return g.add(op, value, operand, *bias, group=group, **how)


@maker("ConvInteger", "QLinearConv")
def conv_integer(g: Growing, op: str) -> list[Value]:
    value = picture(g, ("uint8", "int8"))
    channels, spatial = value.shape[1], value.shape[2:]
    how = window(g, spatial)
    group = g.choice([n for n in (1, 1, channels) if channels % n == 0])
    out = g.choice((1, 4, 8)) * group
    kernel: list[int] = how["kernel_shape"]  # type: ignore[assignment]
    weight = g.constant(numbers(g.random, g.choice(("int8", "uint8")), (out, channels // group, *kernel)))
    zero_x = g.constant(g.choice((0, 3, 100)), value.dtype)
    zero_w = g.constant(0, weight.dtype)
    if op == "ConvInteger":
        return g.add(op, value, weight, *([zero_x, zero_w][: g.random.randint(0, 2)]), group=group, **how)
    scales = [g.constant(g.choice((0.02, 0.1)), "float32") for _ in range(3)]
    if g.flip():
        scales[1] = g.constant(np.linspace(0.01, 0.1, out), "float32")
        zero_w = g.constant(np.zeros(out), weight.dtype)
    zero_y = g.constant(g.choice((0, 7)), value.dtype)
    bias = [g.constant(np.arange(out) * 5, "int32")] if g.flip() else []
    operands = [value, scales[0], zero_x, weight, scales[1], zero_w, scales[2], zero_y, *bias]
    return g.add(op, *operands, group=group, **how)


@maker("MaxPool", "AveragePool", "LpPool")
def pool(g: Growing, op: str) -> list[Value]:
    value = picture(g, dtypes_of(g, op))
    if op == "MaxPool" and (has_nan(value) or (is_float(value.array) and np.any(value.array == -np.inf))):
        raise Refused("undefined")  # of -inf alone, ONNX Runtime makes the smallest number with one kernel of several
    how = window(g, value.shape[2:], dilated=True)
    more = {"ceil_mode": g.choice((0, 1)), "count_include_pad": g.choice((0, 1)), "p": g.choice((1, 2))}
    return g.add(op, value, **how, **more)


@maker("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(g: Growing, op: str) -> list[Value]:
    return g.add(op, g.pick(floats(g, op), 3, 5, where=lambda v: v.array.size > 0 and finite(v)), p=g.choice((1, 2)))


@maker("Resize", "Upsample")
def resize(g: Growing, op: str) -> list[Value]:
    value = g.pick(tuple(d for d in dtypes_of(g, op) if d in ("float32", "uint8", "int32")), 2, 4)
    rank = len(value.shape)
    scales = [1.0 if axis < rank - 2 else g.choice((1.0, 2.0, 0.5, 1.5, 3.0)) for axis in range(rank)]
    modes = ("nearest", "linear", "cubic") if op == "Resize" and g.opset >= 11 else ("nearest", "linear")
    mode = g.choice(modes)
    if 1.0 in scales[-2:] + scales * (rank == 3) and not finite(value):
        mode = "nearest"  # ONNX Runtime also interpolates along axes that keep their size: 0 times infinity is NaN
    if not is_float(value.array):
        mode = "nearest"  # interpolated integers are cut, so that a rounding error of a weight makes them differ by one
    if op == "Upsample":
        scales = [max(1.0, s) for s in scales]
        return g.add(op, value, mode=mode, named={"scales": scales if g.opset < 9 else scaled(g, scales)})
    if g.opset < 11:
        return g.add(op, value, scaled(g, scales), mode=mode)
    places = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    how = {
        "coordinate_transformation_mode": g.choice([*places, *(["half_pixel_symmetric"] if g.opset >= 19 else [])]),
        "nearest_mode": g.choice(("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
        "cubic_coeff_a": g.choice((None, -0.5)),
        "exclude_outside": g.choice((0, 1)) if mode == "cubic" else None,
        "antialias": 1 if mode != "nearest" and g.flip(0.15) else None,
    }
    roi = None if g.opset >= 13 else g.constant(np.zeros(0), "float32")
    if g.flip():
        return g.add(op, value, roi, scaled(g, scales), mode=mode, **how)
    sizes = [max(1, int(n * s)) for n, s in zip(value.shape, scales)]
    none = None if g.opset >= 13 else g.constant(np.zeros(0), "float32")
    return g.add(op, value, roi, none, g.parameter(sizes), mode=mode, **how)


@maker("RoiAlign")
def roi_align(g: Growing, op: str) -> list[Value]:
    """Regions within, across and outside of the picture, at places that are on no border by chance."""
    value = g.pick(("float32",), 4, 4, where=lambda v: v.array.size > 0 and finite(v))
    if 0 in value.shape or not finite(value):
        raise Refused("undefined")
    source = np.random.default_rng(g.random.getrandbits(32))
    count = g.choice((1, 2, 3))
    corners = np.sort(source.uniform(-1, max(value.shape[2:]) + 1, (count, 2, 2)), axis=1).reshape(count, 4)
    regions = g.constant(corners, "float32") if g.flip() else g.input(corners.astype(np.float32))
    images = g.constant(source.integers(0, value.shape[0], count), "int64")
    how = {"output_height": g.choice((1, 2, 3)), "output_width": g.choice((1, 2)), "mode": g.choice(("avg", "max"))}
    how |= {"sampling_ratio": g.choice((0, 1, 2, 3)), "spatial_scale": g.choice((1.0, 0.5))}
    place = g.choice((None, "half_pixel", "output_half_pixel"))
    return g.add(op, value, regions, images, coordinate_transformation_mode=place, **how)


def scaled(g: Growing, scales: list[float]) -> Value:
    return g.parameter(scales, "float32")


@maker("Attention")
def attention(g: Growing, op: str) -> list[Value]:
    batch, heads, queries, keys, depth = g.choice((1, 2)), g.choice((2, 4)), g.choice((1, 3)), g.choice((1, 5)), 4
    few = g.choice((heads, 1))
    query = g.fresh("float32", (batch, heads, queries, depth))
    key, value = (g.fresh("float32", (batch, few, keys, depth)) for _ in range(2))
    mask = [g.fresh(g.choice(("float32", "bool")), (queries, keys))] if g.flip(0.4) else []
    how = {"is_causal": int(g.flip(0.3)), "softcap": g.choice((None, None, 2.0)), "scale": g.choice((None, 0.3))}
    return g.add(op, query, key, value, *mask, results=1, **how)
