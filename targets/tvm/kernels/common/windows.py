"""Sliding windows over rows of an image: which taps of which positions are inside, and loops over just those.

Convolutions and pooling share them. Rows clip the taps above and below the image; the first and last tiles of a row
leave out those to its left and right. So nothing is copied for padding and no bound is tested inside the loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.nest import even_split, serial

UNROLLED_TAPS = 7
"""The length of filters of one channel up to which they are unrolled: longer ones run out of registers."""

Place = Callable[[int], list[Any]]
"""Returns the input position that a tap reads for a column of a tile, one index per axis."""
Visit = Callable[[Any, tuple[int, ...], Place], None]
"""Emits one tap: given its number over all axes, the columns for which it is inside, and where it reads."""


@dataclass(frozen=True)
class Geometry:
    """The sizes of a sliding window: one entry per spatial axis in every tuple; `space` are the input's extents."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    space: tuple[int, ...]

    @property
    def out_space(self) -> tuple[int, ...]:
        return tuple(
            (size + low + high - dilation * (taps - 1) - 1) // stride + 1
            for size, taps, stride, dilation, low, high in zip(
                self.space, self.kernel, self.strides, self.dilations, self.begin, self.end, strict=True
            )
        )

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """Whether each output position reads only the same input position: all positions form one long row."""
        plain = not any(self.begin) and not any(self.end)
        return plain and all(k == 1 for k in self.kernel) and all(s == 1 for s in self.strides)

    @property
    def is_subsampled(self) -> bool:
        """Whether every output position reads one input position, but not every input position is read."""
        alone = all(k == 1 for k in self.kernel) and not any(self.begin) and not any(self.end)
        return alone and any(s > 1 for s in self.strides)

    @property
    def axis(self) -> int:
        """The axis along which rows run: the last one with more than a single position under a single tap."""
        axis = len(self.space) - 1
        while axis > 0 and (self.space[axis], self.kernel[axis], self.begin[axis], self.end[axis]) == (1, 1, 0, 0):
            axis -= 1
        return axis

    @property
    def rows(self) -> int:
        """The number of rows of an output image."""
        return 1 if self.is_pointwise else math.prod(self.out_space[: self.axis])

    @property
    def width(self) -> int:
        """The number of positions in a row."""
        return math.prod(self.out_space) if self.is_pointwise else self.out_space[self.axis]

    def numbers(self) -> list[int]:
        """Return the geometry as integers for an annotation."""
        each = (self.kernel, self.strides, self.dilations, self.begin, self.end, self.space)
        return [number for numbers in each for number in numbers]

    @staticmethod
    def of(numbers: list[int]) -> Geometry:
        """Decode what `numbers` returned."""
        rank = len(numbers) // 6
        return Geometry(*(tuple(numbers[i * rank : (i + 1) * rank]) for i in range(6)))

    # --- positions

    def row_indices(self, row: Any) -> list[Any]:
        """Return the output indices of a row on all axes before its own."""
        return unflatten(row, self.out_space[: self.axis]) if self.axis > 0 and not self.is_pointwise else []

    def position(self, row: Any, column: Any) -> list[Any]:
        """Return the output indices of a column of a row."""
        if self.is_pointwise:
            return unflatten(column, self.out_space)
        return [*self.row_indices(row), column, *self._behind()]

    def _behind(self) -> list[Any]:
        """Return the only index of each axis after that of the rows."""
        return [long(0)] * (len(self.space) - 1 - self.axis)

    def runs(self, columns: int) -> list[Run]:
        """Return the tiles of a row from left to right, grouping equal ones."""
        tiles = [
            (first + i * length, length)
            for first, length, count in even_split(self.width, columns)
            for i in range(count)
        ]
        runs: list[Run] = []
        for first, length in tiles:
            taps = self._inside(first, length)
            last = runs[-1] if runs else None
            if last is not None and (last.length, last.taps) == (length, taps):
                runs[-1] = Run(last.first, length, last.count + 1, taps)
            else:
                runs.append(Run(first, length, 1, taps))
        return runs

    def _inside(self, first: int, length: int) -> tuple[tuple[int, ...], ...]:
        if self.is_pointwise:
            return (tuple(range(length)),)
        axis = self.axis
        return tuple(
            tuple(
                column
                for column in range(length)
                if 0
                <= (first + column) * self.strides[axis] + tap * self.dilations[axis] - self.begin[axis]
                < self.space[axis]
            )
            for tap in range(self.kernel[axis])
        )

    def ahead(self, run: Run, row: Any, column: Any, step: int) -> Iterator[list[Any]]:
        """Yield every `step`th input position that a later tile reads first, possibly outside the image.

        That tile is the next one in a single row, else the one in the row below; none if rows extend over more than two
        axes.
        """
        if self.is_pointwise:
            for offset in range(run.length, 2 * run.length, step):
                yield unflatten(column + offset, self.space)
            return
        axis, lead = self.axis, self.row_indices(row)
        taps, stride, reach = self.kernel[axis], self.strides[axis], (self.kernel[axis] - 1) * self.dilations[axis]
        first, width = column * stride - self.begin[axis], (run.length - 1) * stride + reach + 1
        step = stride if taps == 1 and stride > step else step
        if not lead:
            for offset in range(max(width, run.length * stride), width + run.length * stride, step):
                yield [first + offset, *self._behind()]
        if len(lead) == 1:
            below = lead[0] * self.strides[0] - self.begin[0] + self.strides[0]
            for tap in range(max(0, self.kernel[0] - self.strides[0]), self.kernel[0]):
                for offset in range(0, width, step):
                    yield [below + tap * self.dilations[0], first + offset, *self._behind()]

    # --- loops

    def visit_taps(self, run: Run, row: Any, column: Any, visit: Visit, *, unroll: bool = False) -> None:
        """Emit loops over the taps inside the image for the tile that begins at `column` of `row`.

        `unroll`: unroll the taps along the row even if all of them are alike.
        """
        if self.is_pointwise:
            visit(long(0), run.taps[0], lambda offset: unflatten(column + offset, self.space))
            return
        lead = self.row_indices(row)

        def along_row(outer: list[Any]) -> None:
            places = [
                index * self.strides[axis] + outer[axis] * self.dilations[axis] - self.begin[axis]
                for axis, index in enumerate(lead)
            ]
            flat: Any = long(0)
            for axis, tap in enumerate(outer):
                flat = flat * self.kernel[axis] + tap
            self._along_row(run, column, places, flat * self.kernel[self.axis], visit, unroll)

        self._leading(0, lead, [], along_row)

    def _along_row(self, run: Run, column: Any, places: list[Any], flat: Any, visit: Visit, unroll: bool) -> None:
        axis = self.axis

        def one(tap: Any, positions: tuple[int, ...]) -> None:
            def place(offset: int) -> list[Any]:
                here = (column + offset) * self.strides[axis] + tap * self.dilations[axis] - self.begin[axis]
                return [*places, here, *self._behind()]

            visit(flat + tap, positions, place)

        for first, count, positions in _alike(run.taps):
            if not positions:
                continue
            if unroll or count == 1:
                for tap in range(first, first + count):
                    one(long(tap), positions)
            else:
                with serial(count) as index:
                    one(first + index, positions)

    def _leading(self, axis: int, lead: list[Any], taps: list[Any], inner: Callable[[list[Any]], None]) -> None:
        """Emit loops over the taps of all axes before the row's, clipped to those inside the image."""
        if axis == len(lead):
            inner(taps)
            return
        low, high = self.tap_range(axis, lead[axis])
        with serial(high if isinstance(low, int) else T.max(long(0), high - low)) as index:
            self._leading(axis + 1, lead, [*taps, low + index], inner)

    def tap_range(self, axis: int, index: Any) -> tuple[Any, Any]:
        """Return the taps of an axis inside the image for an output index: the first, and one past the last."""
        size, dilation = self.kernel[axis], self.dilations[axis]
        if not self.begin[axis] and not self.end[axis]:
            return 0, size
        start = index * self.strides[axis] - self.begin[axis]
        low = T.max(long(0), (dilation - 1 - start) // dilation)
        high = T.min(long(size), (self.space[axis] - start + dilation - 1) // dilation)
        return low, high


@dataclass(frozen=True)
class Run:
    """Tiles of one length in a row that meet the image's edges in the same way.

    `taps[k]` are the tile's columns for which tap k of the row's axis is inside the image.
    """

    first: int
    length: int
    count: int
    taps: tuple[tuple[int, ...], ...]


def _alike(taps: tuple[tuple[int, ...], ...]) -> list[tuple[int, int, tuple[int, ...]]]:
    """Return runs of adjacent taps with the same columns: the first, the number, the columns.

    Each is a loop: if several taps are unrolled, LLVM shares their broadcasts and runs out of registers.
    """
    groups = [(columns, [tap for tap, _ in group]) for columns, group in groupby(enumerate(taps), key=lambda t: t[1])]
    return [(members[0], len(members), columns) for columns, members in groups]


def for_tiles(runs: list[Run], piece: Any, pieces: int, emit: Callable[[Run, Any], None]) -> None:
    """Emit loops over the tiles of one of `pieces` parts of a row; `emit(run, column)` gets a tile's first column."""
    for run in runs:
        if pieces == 1:
            with serial(run.count) as index:
                emit(run, run.first + index * run.length)
            continue
        share = -(-run.count // pieces)
        start = piece * share
        with serial(T.max(long(0), T.min(long(share), run.count - start))) as index:
            emit(run, run.first + (start + index) * run.length)


def unflatten(position: Any, sizes: tuple[int, ...]) -> list[Any]:
    """Return a flat position as one index per axis; the first is not taken modulo its size."""
    index: list[Any] = []
    for size in reversed(sizes[1:]):
        index.insert(0, position % size)
        position = position // size
    return [position, *index]


def read_inside(
    read: Callable[[Sequence[Any]], Any], geometry: Geometry, where: Sequence[Any], taps: Sequence[Any], fill: Any
) -> Any:
    """Return `read` at the position that `taps` reach from the output position `where`; `fill` outside the image."""
    places, inside = [], []
    for axis, (position, tap) in enumerate(zip(where, taps, strict=True)):
        place = position * geometry.strides[axis] + tap * geometry.dilations[axis] - geometry.begin[axis]
        places.append(place)
        if geometry.begin[axis] or geometry.end[axis]:
            inside += [place >= 0, place < geometry.space[axis]]
    value = read(places)
    return tirx.if_then_else(tirx.all(*inside), value, fill) if inside else value
