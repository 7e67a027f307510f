"""RoiAlign: means or maxima of samples in the cells of image regions, interpolated between pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.converters.cast import convert
from graphopt.targets.tvm.kernels.common import nest
from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.operand import Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter

Expr = Any
Keep = Callable[[Expr], Expr]
_MOST_SAMPLES = 1 << 16  # along one side of a cell: a limit for regions that are not finite


@converter("RoiAlign")
def roi_align(c: Call) -> Operand:
    data, rois, images = c[0], c[1], c[2]
    if data.dtype not in ("float32", "float64"):
        raise Declined(f"regions of {data.dtype}")
    default = "half_pixel" if c.version >= 16 else "output_half_pixel"
    align = _Align(
        (int(c.attr("output_height", 1)), int(c.attr("output_width", 1))),
        int(c.attr("sampling_ratio", 0)),
        float(c.attr("spatial_scale", 1.0)),
        (c.attr("coordinate_transformation_mode") or default) == "half_pixel",
        c.attr("mode", "avg") == "max",
        data.dtype,
    )
    sizes = c.ctx.shape([rois.shape[0], data.shape[1], *align.cells])
    if align.ratio > 0 and not align.largest:
        return c.ctx.te(lambda x, r, i: _fixed(align, sizes, x, r, i), data, rois, images, name="roi_align")
    if c.ctx.machine is None:
        raise Declined("maxima, and as many samples as a region has pixels, are for CPUs only")
    return c.ctx.te(lambda x, r, i: _looped(align, sizes, x, r, i), data, rois, images, name="roi_align")


@dataclass(frozen=True)
class _Align:
    """The attributes of a RoiAlign; `ratio` is the number of samples along each side of a cell, 0 for one per pixel."""

    cells: tuple[int, int]
    ratio: int
    scale: float
    half_pixel: bool
    largest: bool
    dtype: str

    def number(self, value: float) -> Expr:
        return tirx.const(value, self.dtype)

    def begin_and_cell(self, rois: Any, roi: Expr, side: int) -> tuple[Expr, Expr]:
        """Return where a region begins along a side (0 height, 1 width), and the size of its cells."""
        offset = self.number(0.5 if self.half_pixel else 0.0)
        first, last = (rois[roi, long(1 - side + 2 * end)] * self.number(self.scale) - offset for end in (0, 1))
        size = last - first if self.half_pixel else tirx.max(last - first, self.number(1.0))
        return first, size / self.number(self.cells[side])

    def samples(self, cell: Expr) -> Expr:
        """Return the number of samples along a side of a cell."""
        if self.ratio > 0:
            return long(self.ratio)
        count = convert(tirx.ceil(cell), "int64")
        return tirx.max(tirx.min(count, long(_MOST_SAMPLES)), long(0))

    def terms(self, data: Any, image: Expr, channel: Expr, y: Expr, x: Expr, keep: Keep) -> list[Expr]:
        """Return the four pixels around a point, each times its weight; zero if the point is outside of the image.

        `keep` stores a value that is read several times.
        """
        n = keep(tirx.max(tirx.min(image, long(data.shape[0]) - 1), long(0)))
        rows, columns = self._neighbours(y, data.shape[2], keep), self._neighbours(x, data.shape[3], keep)
        inside = keep(tirx.all(*(self._inside(p, s) for p, s in ((y, data.shape[2]), (x, data.shape[3])))))
        zero = self.number(0.0)
        return [tirx.if_then_else(inside, data[n, channel, i, j] * (v * w), zero) for i, v in rows for j, w in columns]

    def _inside(self, place: Expr, size: Expr) -> Expr:
        return tirx.all(place >= self.number(-1.0), place <= long(size).astype(self.dtype))

    def _neighbours(self, place: Expr, size: Expr, keep: Keep) -> list[tuple[Expr, Expr]]:
        """Return the two pixels around a position along one side, and their weights."""
        last = long(size) - 1
        at = keep(tirx.min(tirx.max(place, self.number(0.0)), last.astype(self.dtype)))
        low = keep(tirx.max(tirx.min(convert(tirx.floor(at), "int64"), last), long(0)))
        high = keep(tirx.min(low + 1, last))
        part = keep(at - low.astype(self.dtype))
        return [(low, self.number(1.0) - part), (high, part)]


def _fixed(align: _Align, sizes: Any, data: te.Tensor, rois: te.Tensor, images: te.Tensor) -> te.Tensor:
    """Compute cells with a fixed number of samples each."""
    taps = [te.reduce_axis((long(0), long(align.ratio)), name) for name in ("sy", "sx")]

    def element(roi: Expr, channel: Expr, i: Expr, j: Expr) -> Expr:
        places = []
        for side, (index, tap) in enumerate(zip((i, j), taps)):
            begin, cell = align.begin_and_cell(rois, roi, side)
            step = (tap.astype(align.dtype) + align.number(0.5)) * cell / align.number(align.ratio)
            places.append(begin + index.astype(align.dtype) * cell + step)
        # An index that is a named value would hide from TVM which part of the image is read.
        y, x = places
        a, b, c, d = align.terms(data, images[roi].astype("int64"), channel, y, x, lambda value: value)
        return te.sum((a + b + c + d) / align.number(align.ratio**2), axis=taps)

    return define(sizes, element, name="roi_align")


def _looped(align: _Align, sizes: Any, data: te.Tensor, rois: te.Tensor, images: te.Tensor) -> te.Tensor:
    """Compute cells with one sample per pixel, or maxima: the largest weighted pixel, as in ONNX Runtime."""

    def body(ins: Any, outs: Any) -> Any:
        x, regions, which = ins
        count = long(sizes[0]) * long(sizes[1])
        with IRBuilder() as builder, T.seq_scope(), nest.spread(count, count * 1024) as at:
            roi, channel = at // long(sizes[1]), at % long(sizes[1])
            with nest.serial(long(align.cells[0])) as i, nest.serial(long(align.cells[1])) as j:
                _cell(align, (x, regions, which, outs[0]), (roi, channel, i, j))
        return builder.get()

    return te.extern([sizes], [data, rois, images], body, dtype=[align.dtype], name="roi_align")


def _cell(align: _Align, buffers: Any, index: Any) -> None:
    """Compute one element of the result."""
    data, rois, images, out = buffers
    roi, channel, *cell_index = index
    sides = [[nest.stored(value) for value in align.begin_and_cell(rois, roi, side)] for side in (0, 1)]
    counts = [nest.stored(align.samples(cell)) for _, cell in sides]
    first = align.number(float("-inf")) if align.largest else align.number(0.0)
    T.buffer_store(out, first, index)
    with nest.serial(counts[0]) as sy, nest.serial(counts[1]) as sx:
        places = [
            nest.stored(
                begin
                + (i.astype(align.dtype) + (s.astype(align.dtype) + align.number(0.5)) / n.astype(align.dtype)) * cell
            )
            for (begin, cell), i, s, n in zip(sides, cell_index, (sy, sx), counts)
        ]
        y, x = places
        for term in align.terms(data, images[roi].astype("int64"), channel, y, x, nest.stored):
            value = nest.stored(term)
            T.buffer_store(out, tirx.max(out[*index], value) if align.largest else out[*index] + value, index)
    total = nest.stored(counts[0] * counts[1])
    if align.largest:
        T.buffer_store(out, tirx.if_then_else(total == 0, align.number(0.0), out[*index]), index)
    else:
        T.buffer_store(out, out[*index] / tirx.max(total, long(1)).astype(align.dtype), index)
