"""The data of a matmul as its kernels multiply them, made once before any column is computed.

Group by group, with zeros where rows fill words of the matrix. Floats are divided by the powers of two by which the
integers of the matrix are too large in their places. Rounded ones are integers of a scale for each group. Each group
has its sum, which the zero points of the matrix are multiplied with:

    x (q - z) summed over a group  =  (sum x q) - z (sum x)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common import nest
from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.nbits.plan import MIDDLE
from graphopt.targets.tvm.kernels.nbits.vectors import Matrix, Sums, spread

_LARGEST = 127.0
"""The magnitude of the largest rounded number, as in ONNX Runtime."""


class Data:
    """The prepared data: `rows` of them, a number or an expression."""

    def __init__(self, source: Any, matrix: Matrix, rows: Any, *, rounded: bool) -> None:
        layout = matrix.layout
        self.source, self.matrix, self.layout, self.rounded = source, matrix, layout, rounded
        self.kind = "int8" if rounded else "float32"
        groups = layout.workload.groups
        self.values = T.alloc_buffer((rows, groups * layout.rows), self.kind)
        self.sums = T.alloc_buffer((rows, groups), "int32" if rounded else "float32")
        self.scales = T.alloc_buffer((rows, groups), "float32") if rounded else None

    def prepare(self, row: Any) -> None:
        """Emit the preparation of a row."""
        work = self.layout.workload
        full, rest = divmod(work.k, work.block)
        with nest.serial(full) as group:
            self._group(row, group, work.block)
        if rest:
            self._group(row, long(full), rest)

    def value(self, row: Any, group: Any, place: Any) -> Any:
        """Return an element of a group."""
        return self.values[row, group * self.layout.rows + place]

    def four(self, row: Any, group: Any, place: Any) -> Any:
        """Return four rounded numbers of a group, for every lane, as bytes."""
        first = group * self.layout.rows + place
        word = tirx.reinterpret("int32", self.values[row, tirx.Ramp(first, long(1), 4)])
        lanes = self.layout.plan.lanes
        return tirx.reinterpret(f"int8x{4 * lanes}", spread(word, lanes))

    def initial(self, row: Any, group: Any) -> Any:
        """Return the integers that the sums of a group begin with: their zero points, if these are all the same."""
        work = self.layout.workload
        start = tirx.const(0, "int32") if work.zeros else self.sums[row, group] * -MIDDLE[work.bits]
        return spread(start, self.layout.plan.lanes)

    def scaled(self, start: Any, vector: Any, row: Any, group: Any, sums: Any) -> Any:
        """Return the floats that sums of the rounded data of a group are, for the group of the matrix at `start`."""
        assert self.scales is not None
        lanes = self.layout.plan.lanes
        floats = sums.astype(f"float32x{lanes}")
        if self.layout.workload.zeros:
            total = spread(self.sums[row, group].astype("float32"), lanes)
            floats = floats - self.matrix.zero(start, vector) * total
        return floats * self.matrix.scale(start, vector) * spread(self.scales[row, group], lanes)

    def _group(self, row: Any, group: Any, count: int) -> None:
        """Emit the preparation of a group with `count` elements, vectors of as many as a word has."""
        factor = None
        if self.scales is not None:
            factor = self._find_scale(row, group, count)
        sums = Sums(1, self.layout.per, str(self.sums.dtype))
        sums.clear()

        def each(place: Any, values: Any) -> None:
            made = self._made(values, factor)
            sums[0] = sums[0] + (made if self.rounded else values)
            made = made.astype(f"int8x{self.layout.per}") if self.rounded else made * self._places()
            span = tirx.Ramp(group * self.layout.rows + place, long(1), self.layout.per)
            T.buffer_store(self.values, made, [row, span])

        self._over(row, group, count, each)
        filled = -(-count // self.layout.per) * self.layout.per
        for place in range(filled, self.layout.rows, self.layout.per):
            span = tirx.Ramp(group * self.layout.rows + place, long(1), self.layout.per)
            T.buffer_store(self.values, spread(tirx.const(0, self.kind), self.layout.per), [row, span])
        T.buffer_store(self.sums, _folded(sums, lambda a, b: a + b), [row, group])

    def _find_scale(self, row: Any, group: Any, count: int) -> Any:
        """Emit the scale of a group; return the factor that makes integers of its elements."""
        largest = Sums(1, self.layout.per, "float32")
        largest.clear()

        def each(_place: Any, values: Any) -> None:
            largest[0] = tirx.max(largest[0], tirx.abs(values))

        self._over(row, group, count, each)
        scale = nest.stored(_folded(largest, tirx.max) / tirx.const(_LARGEST, "float32"))
        T.buffer_store(self.scales, scale, [row, group])
        one, nil = tirx.const(1.0, "float32"), tirx.const(0.0, "float32")
        return nest.stored(tirx.Select(scale > nil, one / scale, nil))

    def _made(self, values: Any, factor: Any) -> Any:
        if factor is None:
            return values
        per = self.layout.per
        return tirx.nearbyint(values * spread(factor, per)).astype(f"int32x{per}")

    def _places(self) -> Any:
        factors = [1 / self.matrix.weight_of(row) for row in range(self.layout.per)]
        numbers = [tirx.const(factor, "float32") for factor in factors]
        return tirx.Shuffle(numbers, [tirx.const(i, "int32") for i in range(len(numbers))])

    def _over(self, row: Any, group: Any, count: int, each: Callable[[Any, Any], None]) -> None:
        """Emit `each(place, vector)` over the elements of a group; zeros fill the last vector."""
        per, first = self.layout.per, group * self.layout.workload.block
        full, rest = divmod(count, per)
        with nest.serial(full) as step:
            each(step * per, self.source[row, tirx.Ramp(first + step * per, long(1), per)])
        if rest:
            last = Sums(1, per, "float32")
            last.clear()
            for place in range(rest):
                T.buffer_store(last.buffer, self.source[row, first + (full * per + place)], [long(place)])
            each(long(full * per), last[0])


def _folded(vector: Sums, fold: Callable[[Any, Any], Any]) -> Any:
    total = vector.lane(0, long(0))
    for lane in range(1, vector.lanes):
        total = fold(total, vector.lane(0, long(lane)))
    return total
