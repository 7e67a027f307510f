"""Interpolation along one axis: which positions an output index reads, and with which weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from graphopt.targets.tvm.converters.window import int_expr
from graphopt.targets.tvm.lowering.operand import Dim
from graphopt.targets.tvm.lowering.registry import Declined


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


def taps_at(method: Method, axis: Axis, i: tirx.Expr) -> Taps:
    """Return what output index `i` reads along an axis. Raises Declined for a method that is not supported."""
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
        # Both taps are the last pixel there: with a weight of 0, an infinity would make NaN.
        ratio = tirx.Select(low >= real(int_expr(axis.old) - int_expr(1)), real(0.5), x - low)
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
