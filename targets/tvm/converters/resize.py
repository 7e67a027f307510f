"""Resize (and its predecessor Upsample): nearest, linear and cubic interpolation along any axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from graphopt.targets.tvm.converters.cast import convert
from graphopt.targets.tvm.converters.window import int_expr
from graphopt.targets.tvm.lowering.call import Call, normal_axis
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter


@dataclass(frozen=True)
class Axis:
    """The resizing of one axis. `scale` is output size over input size, as a number if it is known."""

    axis: int
    old: Dim
    new: Dim
    scale: float | tirx.Expr
    begin: float = 0.0
    end: float = 1.0


def real(value: Any) -> tirx.Expr:
    """Return a number or an expression as float32, the type in which ONNX Runtime computes coordinates."""
    if isinstance(value, int | float):
        return tirx.const(float(value), "float32")
    return value.astype("float32")


def _coordinate(mode: str, axis: Axis, i: tirx.Expr) -> tirx.Expr:
    """Return the position in the input, as a float, for output index `i`.

    TVM's interval analysis fails on quotients of floats by open sizes; it does not look into a `reinterpret`.
    """
    place = _formula(mode, axis, i)
    is_open = not (isinstance(axis.scale, float) and isinstance(axis.old, int) and isinstance(axis.new, int))
    return tirx.reinterpret("float32", tirx.reinterpret("int32", place)) if is_open else place


def _formula(mode: str, axis: Axis, i: tirx.Expr) -> tirx.Expr:
    x, scale = real(i), real(axis.scale)
    half, one = real(0.5), real(1)
    if mode == "asymmetric":
        return x / scale
    if mode in ("half_pixel", "pytorch_half_pixel"):
        place = (x + half) / scale - half
        if mode == "pytorch_half_pixel":
            if isinstance(axis.new, int):
                return place if axis.new > 1 else real(0)
            return tirx.Select(axis.new > int_expr(1), place, real(0))
        return place
    if mode == "half_pixel_symmetric":
        length = scale * real(axis.old)
        adjustment = real(axis.new) / length
        center = real(axis.old) / real(2)
        return center * (one - adjustment) + (x + half) / scale - half
    if mode == "align_corners":
        if isinstance(axis.new, int):
            return real(0) if axis.new == 1 else x * real(axis.old - 1) / real(axis.new - 1)
        span = tirx.max(axis.new - int_expr(1), int_expr(1))
        return x * real(axis.old - int_expr(1)) / real(span)
    if mode == "tf_crop_and_resize":
        last = real(int_expr(axis.old) - int_expr(1))
        if isinstance(axis.new, int) and axis.new == 1:
            return half * real(axis.begin + axis.end) * last
        step = real(axis.end - axis.begin) * last / real(int_expr(axis.new) - int_expr(1))
        return real(axis.begin) * last + x * step
    raise Declined(f"coordinate_transformation_mode {mode!r}")


_ROUNDING: dict[str, Callable[[tirx.Expr], tirx.Expr]] = {
    "round_prefer_floor": lambda x: tirx.ceil(x - tirx.const(0.5, "float32")),
    "round_prefer_ceil": lambda x: tirx.floor(x + tirx.const(0.5, "float32")),
    "floor": tirx.floor,
    "ceil": tirx.ceil,
}


BEFORE_11 = "up where shrinking"
"""The rounding of nearest positions before opset 11, as in ONNX Runtime: up if the scale is below 1."""


def _rounding(method: Method, axis: Axis) -> Callable[[tirx.Expr], tirx.Expr]:
    if method.nearest == BEFORE_11:
        assert isinstance(axis.scale, float)
        return tirx.ceil if axis.scale < 1 else tirx.floor
    return _ROUNDING[method.nearest]


@dataclass(frozen=True)
class Taps:
    """The input positions that one output index reads along an axis, and their weights; `inside` may veto all."""

    places: list[tirx.Expr]
    weights: list[tirx.Expr] | None
    inside: tirx.Expr | None


@dataclass(frozen=True)
class Method:
    """The attributes that determine the interpolation."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool
    extrapolation: float


def _clamp(place: tirx.Expr, size: Dim) -> tirx.Expr:
    return tirx.max(int_expr(0), tirx.min(place, int_expr(size) - int_expr(1)))


def _taps(method: Method, axis: Axis, i: tirx.Expr) -> Taps:
    x = _coordinate(method.coordinates, axis, i)
    inside = None
    if method.coordinates == "tf_crop_and_resize":
        inside = tirx.And(x >= real(0), x <= real(int_expr(axis.old) - int_expr(1)))
    if method.mode == "nearest":
        whole = isinstance(axis.scale, float) and axis.scale.is_integer()
        if whole and method.coordinates == "asymmetric" and method.nearest in ("floor", BEFORE_11):
            return Taps([tirx.floordiv(i, int_expr(int(axis.scale)))], None, inside)
        place = _rounding(method, axis)(x).astype("int64")
        return Taps([_clamp(place, axis.old)], None, inside)
    if method.antialias:
        places, weights = _antialiased(method, axis, x)
    elif method.mode == "linear":
        x = tirx.max(real(0), tirx.min(x, real(int_expr(axis.old) - int_expr(1)))) if inside is None else x
        low = tirx.floor(x)
        ratio = x - low
        places, weights = [low.astype("int64") + int_expr(d) for d in (0, 1)], [real(1) - ratio, ratio]
    else:
        low = tirx.floor(x)
        places = [low.astype("int64") + int_expr(d) for d in (-1, 0, 1, 2)]
        weights = [_cubic(x - low - real(d), method.cubic) for d in (-1, 0, 1, 2)]
        if method.exclude_outside:
            weights = _renormalized(places, weights, axis.old)
    return Taps([_clamp(place, axis.old) for place in places], weights, inside)


def _antialiased(method: Method, axis: Axis, x: tirx.Expr) -> tuple[list[tirx.Expr], list[tirx.Expr]]:
    """Return a filter stretched by the downscaling factor."""
    if not isinstance(axis.scale, float):
        raise Declined("antialias with a scale that is not a constant")
    stretch = min(axis.scale, 1.0)
    reach = int(np.ceil((1 if method.mode == "linear" else 2) / stretch))
    low = tirx.floor(x)
    places, weights = [], []
    for d in range(-reach, reach + 2):
        distance = (x - low - real(d)) * real(stretch)
        weight = (
            tirx.max(real(0), real(1) - tirx.abs(distance))
            if method.mode == "linear"
            else _cubic(distance, method.cubic)
        )
        places.append(low.astype("int64") + int_expr(d))
        weights.append(weight)
    if method.exclude_outside:
        return places, _renormalized(places, weights, axis.old)
    return places, _normalized(weights)


def _renormalized(places: list[tirx.Expr], weights: list[tirx.Expr], size: Dim) -> list[tirx.Expr]:
    """Set the weights of positions outside the data to zero, and scale the others to a sum of one."""
    kept = [tirx.Select(tirx.And(p >= int_expr(0), p < int_expr(size)), w, real(0)) for p, w in zip(places, weights)]
    return _normalized(kept)


def _normalized(weights: list[tirx.Expr]) -> list[tirx.Expr]:
    total = weights[0]
    for weight in weights[1:]:
        total = total + weight
    return [weight / total for weight in weights]


def _cubic(distance: tirx.Expr, a: float) -> tirx.Expr:
    """Evaluate the cubic convolution kernel (Keys, 1981)."""
    d = tirx.abs(distance)
    near = (real(a + 2) * d - real(a + 3)) * d * d + real(1)
    far = ((real(a) * d - real(5 * a)) * d + real(8 * a)) * d - real(4 * a)
    return tirx.Select(d <= real(1), near, tirx.Select(d < real(2), far, real(0)))


def _resize_axis(c: Call, data: Operand, axis: Axis, method: Method) -> Operand:
    """Return the data with one axis resized; linear and cubic interpolation are separable."""
    sizes = list(data.shape)
    sizes[axis.axis] = axis.new

    def resize(x: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            taps = _taps(method, axis, index[axis.axis])
            read = [x(*index[: axis.axis], place, *index[axis.axis + 1 :]) for place in taps.places]
            if taps.weights is None:
                value = read[0]
            else:
                value = read[0].astype("float32") * taps.weights[0]
                for one, weight in zip(read[1:], taps.weights[1:]):
                    value = value + one.astype("float32") * weight
            if taps.inside is not None:
                outside = tirx.const(method.extrapolation, str(value.ty.dtype))
                value = tirx.Select(taps.inside, value, outside)
            return value

        return define(sizes, element, name="resize")

    return c.ctx.te(resize, data, name=f"resize_{method.mode}")


def _resize_nearest(c: Call, data: Operand, axes: Sequence[Axis], method: Method) -> Operand:
    """Resize all axes at once, which only reads at other positions."""
    sizes = list(data.shape)
    for axis in axes:
        sizes[axis.axis] = axis.new

    def resize(x: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            place, inside = list(index), None
            for axis in axes:
                taps = _taps(method, axis, index[axis.axis])
                place[axis.axis] = taps.places[0]
                if taps.inside is not None:
                    inside = taps.inside if inside is None else tirx.And(inside, taps.inside)
            value = x(*place)
            if inside is None:
                return value
            return tirx.Select(inside, value, tirx.const(method.extrapolation, data.dtype))

        return define(sizes, element, name="resize")

    return c.ctx.te(resize, data, name="resize_nearest")


def _resize(c: Call, axes: list[Axis], method: Method) -> Operand:
    data = c[0]
    moving = [axis for axis in axes if not _unchanged(c, axis, method)]
    if not moving:
        return data
    if method.mode == "nearest":
        return _resize_nearest(c, data, moving, method)
    if method.coordinates == "tf_crop_and_resize":
        raise Declined("tf_crop_and_resize with interpolation")
    result = data
    for axis in moving:
        result = _resize_axis(c, result, axis, method)
    if result.dtype == data.dtype:
        return result
    shape = result.shape
    return c.ctx.te(lambda x: define(shape, lambda *i: convert(x(*i), data.dtype), name="resized"), result)


def _unchanged(c: Call, axis: Axis, method: Method) -> bool:
    same_scale = isinstance(axis.scale, float) and axis.scale == 1.0
    return same_scale and c.ctx.same(axis.old, axis.new) and method.coordinates != "tf_crop_and_resize"


@converter("Resize", since=11)
def resize(c: Call) -> Operand:
    method = Method(
        mode=str(c.attr("mode", "nearest")),
        coordinates=str(c.attr("coordinate_transformation_mode", "half_pixel")),
        nearest=str(c.attr("nearest_mode", "round_prefer_floor")),
        cubic=float(c.attr("cubic_coeff_a", -0.75)),
        exclude_outside=bool(c.attr("exclude_outside", 0)),
        antialias=bool(c.attr("antialias", 0)),
        extrapolation=float(c.attr("extrapolation_value", 0.0)),
    )
    return _resize(c, _axes(c), method)


@converter("Resize", since=10)
@converter("Upsample", since=7)
def upsample(c: Call) -> Operand:
    """Lower the older form: scales only, asymmetric coordinates."""
    listed = c.attr("scales")
    scales = [float(s) for s in (listed if listed is not None else c.constant(1, "the scales"))]  # type: ignore[union-attr]
    mode = {"bilinear": "linear"}.get(str(c.attr("mode", "nearest")), str(c.attr("mode", "nearest")))
    method = Method(mode, "asymmetric", BEFORE_11, -0.75, False, False, 0.0)
    return _resize(c, [_by_scale(c, axis, scale) for axis, scale in enumerate(scales)], method)


def _by_scale(c: Call, axis: int, scale: float, begin: float = 0.0, end: float = 1.0) -> Axis:
    old = c[0].shape[axis]
    if isinstance(old, int):
        new: Dim = int(np.floor(np.float32(old) * np.float32(scale) * np.float32(end - begin)))
    elif scale.is_integer() and end - begin == 1.0:
        new = old * int(scale)
    else:
        new = tirx.floor(real(old) * real(scale * (end - begin))).astype("int64")
    return Axis(axis, old, c.ctx.dim(new), scale, begin, end)


def _axes(c: Call) -> list[Axis]:
    rank = c[0].rank
    listed = c.attr("axes")
    axes = list(range(rank)) if listed is None else [normal_axis(int(a), rank) for a in listed]
    regions = (
        c.constant(1, "the region of interest")
        if c.attr("coordinate_transformation_mode") == ("tf_crop_and_resize")
        else None
    )
    roi = [float(v) for v in regions] if regions is not None else [0.0] * len(axes) + [1.0] * len(axes)
    spans = [(roi[i], roi[i + len(axes)]) for i in range(len(axes))]
    sizes = c.input(3)
    if sizes is not None and sizes.shape != (0,):
        return _by_sizes(c, axes, list(c.ctx.scalars(sizes).ravel()), spans)
    given = c.input(2)
    if given is None:
        raise Declined("neither scales nor sizes")
    if not given.is_host:
        raise Declined("the scales are not known at compile time")
    scales = given.scalars().ravel()
    if not all(isinstance(s, int | float) for s in scales):
        raise Declined("the scales follow from sizes that are not known at compile time; give sizes instead")
    return [_by_scale(c, a, float(np.float32(s)), *span) for a, s, span in zip(axes, scales, spans)]


def _by_sizes(c: Call, axes: list[int], wanted: list[Any], spans: list[tuple[float, float]]) -> list[Axis]:
    policy = str(c.attr("keep_aspect_ratio_policy", "stretch"))
    old = [c[0].shape[axis] for axis in axes]
    if policy == "stretch":
        return [Axis(a, o, c.ctx.dim(w), _ratio(c, w, o), *span) for a, o, w, span in zip(axes, old, wanted, spans)]
    if not all(isinstance(v, int) for v in [*old, *wanted]):
        raise Declined("keeping the aspect ratio of sizes that are not known at compile time")
    ratios = [w / o for w, o in zip(wanted, old)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [Axis(a, o, int(np.floor(scale * int(o) + 0.5)), scale, *span) for a, o, span in zip(axes, old, spans)]


def _ratio(c: Call, new: Dim, old: Dim) -> float | tirx.Expr:
    if isinstance(new, int) and isinstance(old, int):
        return float(np.float32(new) / np.float32(old))
    if isinstance(old, int) and old == 0:
        raise Declined("resizing an empty axis")
    quotient = c.ctx.symbols.simplify(
        tirx.floordiv(int_expr(c.ctx.symbols.expand(new)), int_expr(c.ctx.symbols.expand(old)))
    )
    if isinstance(quotient, int) and quotient > 0 and c.ctx.same(new, old * quotient):
        return float(quotient)
    return real(new) / real(old)
