"""Definition of a matmul by a matrix of few bits, and the packing of that matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from graphopt.targets.tvm.kernels.common.computes import long, reduce_axis
from graphopt.targets.tvm.kernels.nbits.plan import MIDDLE, Layout, NBitsPlan, NBitsWorkload

KERNEL = "matmul_nbits"


def stack(integers: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None) -> np.ndarray:
    """Return the parts of a quantized matrix as one array of bytes, which is what `pack` gets.

    integers: uint8 [K, N], from 0 on. scales: float32 [groups, N]. zeros: float32 [groups, N], or None.
    """
    parts = [
        np.ascontiguousarray(part).view(np.uint8).ravel() for part in (integers, scales, zeros) if part is not None
    ]
    return np.concatenate(parts)


def pack(stacked: np.ndarray, layout: Layout) -> np.ndarray:
    """Return a matrix from `stack` as bytes in the order of `Layout`; missing columns have the scale 0."""
    work = layout.workload
    count, numbers = work.k * work.n, work.groups * work.n
    rows = stacked[:count].reshape(work.k, work.n)
    floats = stacked[count:].copy().view(np.float32).reshape(-1, work.groups, 1, work.n)
    assert len(floats) == 1 + work.zeros
    assert floats[0].size == numbers
    groups = np.pad(rows, [(0, work.groups * work.block - work.k), (0, 0)]).reshape(work.groups, work.block, work.n)
    filled = np.pad(groups, [(0, 0), (0, layout.rows - work.block), (0, 0)])
    each = filled.reshape(work.groups, layout.words, layout.per, work.n)
    words = np.zeros((work.groups, layout.words, work.n), "<u4")
    for row in range(layout.per):
        words |= each[:, :, row].astype("<u4") << layout.first_bit(row)
    parts = [_by_panels(part, layout) for part in (*floats, words)]
    return np.concatenate(parts, axis=2).ravel()


def _by_panels(part: np.ndarray, layout: Layout) -> np.ndarray:
    """Return groups, rows, columns as panels, groups, bytes."""
    groups, rows, columns = part.shape
    width, panels = layout.plan.width, layout.panels
    full = np.pad(part, [(0, 0), (0, 0), (0, panels * width - columns)])
    split = full.reshape(groups, rows, panels, width).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(split).view(np.uint8).reshape(panels, groups, -1)


def matmul(data: te.Tensor, weight: te.Tensor, workload: NBitsWorkload, plan: NBitsPlan) -> te.Tensor:
    """Define `data` (m, k) by a packed matrix: (m, n). What rounds the data is the kernel alone."""
    layout = Layout(workload, plan)
    k = reduce_axis(workload.k, "k")

    def element(row: Any, column: Any) -> Any:
        panel, lane = column // plan.width, column % plan.width
        start = (panel * workload.groups + k // workload.block) * layout.group
        within = k % workload.block
        word, place = within // layout.per, within % layout.per
        byte = weight(start + layout.head + (word * plan.width + lane) * 4 + place % 4)
        number = byte >> (place // 4 * workload.bits).astype("uint8") & tirx.const((1 << workload.bits) - 1, "uint8")
        scale = _float_at(weight, start + lane * 4)
        zero: Any = tirx.const(MIDDLE[workload.bits], "float32")
        if workload.zeros:
            zero = _float_at(weight, start + (plan.width + lane) * 4)
        return te.sum(data(row, k) * (scale * (number.astype("float32") - zero)), axis=k)

    numbers = [plan.lanes, plan.vectors, plan.rows, plan.way, workload.m or 0, workload.n, workload.k]
    numbers += [workload.bits, workload.block, int(workload.zeros), int(workload.rounded)]
    attributes = {"kernel": KERNEL, "plan": [long(number) for number in numbers]}
    return te.compute([data.shape[0], long(workload.n)], element, name=KERNEL, attrs=attributes)


def from_numbers(numbers: tuple[int, ...]) -> Layout:
    """Decode the numbers that `matmul` wrote into the annotation of its block."""
    lanes, vectors, rows, way, m, n, k, bits, block, zeros, rounded = numbers
    workload = NBitsWorkload(m or None, n, k, bits, block, bool(zeros), bool(rounded))
    return Layout(workload, NBitsPlan(lanes, vectors, rows, way))


def _float_at(weight: te.Tensor, place: Any) -> Any:
    word: Any = tirx.const(0, "uint32")
    for byte in range(4):
        word = word | weight(place + byte).astype("uint32") << tirx.const(8 * byte, "uint32")
    return tirx.reinterpret("float32", word)
