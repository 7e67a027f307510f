"""Resize (and its predecessor Upsample): nearest, linear and cubic interpolation along any axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from graphopt.targets.tvm.converters.cast import convert
from graphopt.targets.tvm.converters.interpolation import BEFORE_11, Axis, Method, real, taps_at
from graphopt.targets.tvm.converters.window import int_expr
from graphopt.targets.tvm.lowering.call import Call, normal_axis
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter


def _resize_axis(c: Call, data: Operand, axis: Axis, method: Method) -> Operand:
    """Return the data with one axis resized; linear and cubic interpolation are separable."""
    sizes = list(data.shape)
    sizes[axis.axis] = axis.new

    def resize(x: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            taps = taps_at(method, axis, index[axis.axis])
            read = [x(*index[: axis.axis], place, *index[axis.axis + 1 :]) for place in taps.places]
            if taps.weights is None:
                value = read[0]
            else:
                value = read[0].astype("float32") * taps.weights[0]
                for one, weight in zip(read[1:], taps.weights[1:]):
                    value = value + one.astype("float32") * weight
                if not isinstance(axis.scale, float):  # a neighbour of weight 0 that is not finite would make NaN
                    same = tirx.EQ(int_expr(axis.old), int_expr(axis.new))
                    here = tirx.min(index[axis.axis], int_expr(axis.old) - int_expr(1))
                    itself = x(*index[: axis.axis], here, *index[axis.axis + 1 :])
                    value = tirx.Select(same, itself.astype("float32"), value)
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
                taps = taps_at(method, axis, index[axis.axis])
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
