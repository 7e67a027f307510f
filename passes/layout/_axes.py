"""Operators that split, concatenate, pad or resize blocked values along spatial axes, or along whole channel blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.ir import Node, Value
from graphopt.passes.layout._blocks import NOTHING, UNKNOWN, Layout, Plan, channels_of, is_image, same_op
from graphopt.rewriting.passes import Miss, Rewriter

_PARTIAL = Miss("its pieces do not fill blocks of channels")
_CHANGES_LANES = Miss("it works along the batch or the channels")
_COMPUTED = Miss("its axes or sizes are computed")


def concat(node: Node, layout: Layout) -> Plan | Miss:
    """Concat along spatial axes, or along channels if every piece but the last fills its blocks."""
    if not any(value in layout for value in node.inputs):
        return NOTHING
    pieces = [value for value in node.inputs if value is not None]
    if not is_image(node.output) or not all(is_image(value) for value in pieces):
        return UNKNOWN
    assert node.output.rank is not None
    axis = node.attr("axis", 0) % node.output.rank
    if axis == 0:
        return _CHANGES_LANES
    if any(value.constant is not None for value in pieces):
        return Miss("a piece is constant")
    if axis == 1 and any(channels_of(value) % layout.block for value in pieces[:-1]):
        return _PARTIAL
    return same_op(node, [layout.blocked(value) for value in pieces], layout, axis=axis)


def depth_to_space(node: Node, layout: Layout) -> Plan | Miss:
    """DepthToSpace of two spatial axes, if the channels of each position fill their blocks: whole blocks are moved."""
    data = node.inputs[0]
    if data is None or data not in layout:
        return NOTHING
    if not is_image(node.output) or not is_image(data):
        return UNKNOWN
    if channels_of(node.output) % layout.block or (node.attr("mode", "DCR") or "DCR") != "DCR":
        return _PARTIAL
    factor = int(node.attr("blocksize"))
    assert data.shape is not None
    _, _, height, width = data.shape
    assert isinstance(height, int)
    assert isinstance(width, int)
    blocks, lanes = channels_of(node.output) // layout.block, layout.block

    def make(rewriter: Rewriter) -> Sequence[Value | None]:
        apart = _ints(rewriter, [0, factor, factor, blocks, height, width, lanes], node, "apart")
        pieces = rewriter.op("Reshape", [layout[data], apart]).output
        turned = rewriter.op("Transpose", [pieces], {"perm": [0, 3, 4, 1, 5, 2, 6]}).output
        together = _ints(rewriter, [0, blocks, height * factor, width * factor, lanes], node, "together")
        return [rewriter.op("Reshape", [turned, together], types=[layout.type_of(node.output)]).output]

    return make


def split(node: Node, layout: Layout) -> Plan | Miss:
    """Split of spatial axes, or of channels into whole blocks."""
    data = node.inputs[0]
    if data is None or data not in layout:
        return NOTHING
    if not all(is_image(value) for value in node.outputs):
        return UNKNOWN
    assert data.rank is not None
    axis = node.attr("axis", 0) % data.rank
    if axis == 0:
        return _CHANGES_LANES
    sizes = [int(value.shape[axis]) for value in node.outputs if value.shape is not None]
    if axis == 1:
        if any(size % layout.block for size in sizes[:-1]):
            return _PARTIAL
        sizes = [-(-size // layout.block) for size in sizes]

    def make(rewriter: Rewriter) -> Sequence[Value | None]:
        inputs = [layout[data], _ints(rewriter, sizes, node, "split")]
        types = [layout.type_of(value) for value in node.outputs]
        return rewriter.op("Split", inputs, {"axis": axis}, types=types).outputs

    return make


def resize(node: Node, layout: Layout) -> Plan | Miss:
    """Resize of spatial axes, nearest or linear."""
    data, scales, sizes = node.inputs[0], node.input(2), node.input(3)
    if data is None or data not in layout:
        return NOTHING
    if not is_image(node.output):
        return UNKNOWN
    rank = data.rank
    assert rank is not None
    mode = node.attr("mode", "nearest")
    if mode not in ("nearest", "linear") or (mode == "linear" and rank > 4):
        return Miss(f"it is {mode} in {rank - 2} axes")
    if node.attr("antialias", 0) or node.attr("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return Miss("it crops or smooths")
    if node.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        return Miss("it keeps the aspect ratio")
    axes = [int(axis) % rank for axis in node.attr("axes") or range(rank)]
    wanted = scales if scales is not None and scales.shape != (0,) else sizes
    if wanted is None or wanted.constant is None:
        return _COMPUTED
    numbers = dict(zip(axes, wanted.constant.numpy().tolist(), strict=True))
    if data.shape is None or node.output.shape is None or data.shape[:2] != node.output.shape[:2]:
        return _CHANGES_LANES
    if wanted is scales and any(numbers.get(axis, 1.0) != 1.0 for axis in (0, 1)):
        return _CHANGES_LANES
    if data.shape[0] is None and 0 in axes and wanted is sizes:
        return _CHANGES_LANES
    spatial = [axis for axis in axes if axis >= 2]

    def make(rewriter: Rewriter) -> list[Value | None]:
        kept = np.array([numbers[axis] for axis in spatial], np.float32 if wanted is scales else np.int64)
        given = rewriter.constant(kept, f"{node.name}_sizes")
        inputs = [layout[data], None, given] if wanted is scales else [layout[data], None, None, given]
        attributes = {**node.attributes, "axes": spatial}
        return [rewriter.op("Resize", inputs, attributes, types=[layout.type_of(node.output)]).output]

    return make if spatial else NOTHING


def pad(node: Node, layout: Layout) -> Plan | Miss:
    """Pad of spatial axes, in any mode."""
    data, pads, axes = node.inputs[0], node.input(1), node.input(3)
    if data is None or data not in layout:
        return NOTHING
    if pads is None or pads.constant is None or (axes is not None and axes.constant is None):
        return _COMPUTED
    if not is_image(node.output):
        return UNKNOWN
    rank = data.rank
    assert rank is not None
    chosen = range(rank) if axes is None or axes.constant is None else axes.constant.numpy().ravel()
    begin, end = [0] * (rank + 1), [0] * (rank + 1)
    numbers = pads.constant.numpy().ravel()
    for place, axis in enumerate(chosen):
        begin[int(axis) % rank], end[int(axis) % rank] = numbers[place], numbers[place + len(chosen)]
    if any(begin[:2]) or any(end[:2]):
        return _CHANGES_LANES

    def make(rewriter: Rewriter) -> list[Value | None]:
        inputs = [layout[data], _ints(rewriter, [*begin, *end], node, "pads"), node.input(2)]
        made = rewriter.op("Pad", inputs[: len(node.inputs)], node.attributes, types=[layout.type_of(node.output)])
        return [made.output]

    return make


def slice_(node: Node, layout: Layout) -> Plan | Miss:
    """Slice of spatial axes, and of whole blocks of channels."""
    data = node.inputs[0]
    if data is None or data not in layout:
        return NOTHING
    if any(value is not None and value.constant is None for value in node.inputs[1:]):
        return _COMPUTED
    if not is_image(node.output):
        return UNKNOWN
    rank = data.rank
    assert rank is not None
    starts, ends, axes, steps = ([int(n) for n in _numbers(node, index)] for index in range(1, 5))
    axes = [axis % rank for axis in axes or range(len(starts))]
    steps = steps or [1] * len(starts)
    if 0 in axes:
        return _CHANGES_LANES
    if 1 in axes:
        place = axes.index(1)
        first, last, _ = slice(starts[place], ends[place]).indices(channels_of(data))
        if steps[place] != 1 or first % layout.block or (last % layout.block and last != channels_of(data)):
            return _PARTIAL
        starts[place], ends[place] = first // layout.block, -(-last // layout.block)

    def make(rewriter: Rewriter) -> list[Value | None]:
        lists = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
        inputs = [layout[data], *(_ints(rewriter, numbers, node, name) for name, numbers in lists.items())]
        return [rewriter.op("Slice", inputs, types=[layout.type_of(node.output)]).output]

    return make


def _numbers(node: Node, index: int) -> Any:
    value = node.input(index)
    return [] if value is None or value.constant is None else value.constant.numpy().ravel()


def _ints(rewriter: Rewriter, numbers: Sequence[int], node: Node, name: str) -> Value:
    return rewriter.constant(np.array(numbers, np.int64), f"{node.name}_{name}")
