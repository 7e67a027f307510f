"""The division of the tiles of a Winograd convolution into strips, for all stages of the loop nest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.common.nest import Fused, serial
from graphopt.targets.tvm.kernels.winograd.plan import WinogradPlan, out_space, tiling
from graphopt.targets.tvm.kernels.winograd.toom_cook import transforms


@dataclass(frozen=True)
class Row:
    """The tiles of one row of tiles that belong to a strip."""

    image: Any
    top: Any
    """The first row of outputs."""
    first: Any
    """The first of the tiles, counted across the image."""
    count: Any
    place: Any
    """The number of the first tile within the strip."""


class Strips:
    """The sizes of one convolution, and loops over its tiles."""

    def __init__(self, fused: Fused, workload: ConvWorkload, plan: WinogradPlan) -> None:
        self.store = fused.store
        self.data, self.weight = fused.inputs
        self.plan, self.lanes, self.spec = plan, workload.lanes, workload.spec
        self.height, self.width = workload.space
        self.out_height, self.out_width = out_space(workload)
        self.blocks = workload.blocks
        self.tiling = tiling(workload, plan.outputs)
        self.length = -(-self.tiling.tiles // plan.strips)
        self.matrices = transforms(plan.outputs)

    @property
    def across(self) -> int:
        """The largest number of tiles of a row in a strip."""
        return min(self.length, self.tiling.across)

    def alloc_halves(self, rows: int, columns: int) -> Any:
        """Allocate the results of the first pass of a transform; more than 1 KiB, or LLVM would scalarize it."""
        return T.alloc_buffer((rows, max(columns, 1 + 256 // (rows * self.lanes)), self.lanes), "float32")

    def bounds(self, strip: Any) -> tuple[Any, Any]:
        """Return the first tile of a strip, and one past the last."""
        tiles, strips = self.tiling.tiles, self.plan.strips
        if tiles % strips == 0:
            return strip * self.length, (strip + 1) * self.length
        return strip * tiles // strips, (strip + 1) * tiles // strips

    def rows(self, strip: Any, emit: Callable[[Row], None]) -> None:
        """Emit a loop over the rows of tiles that a strip covers in part."""
        across, down = self.tiling.across, self.tiling.down
        begin, end = self.bounds(strip)
        with serial((end - 1) // across - begin // across + 1) as index:
            row = begin // across + index
            first = T.max(begin - row * across, long(0))
            last = T.min(end - row * across, long(across))
            top = row % down * self.plan.outputs
            emit(Row(row // down, top, first, last - first, row * across + first - begin))
