"""Adapters of operators that sample images: Upsample, Resize, GridSample, RoiAlign."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir import Node, Tensor, Value
from graphopt.passes.normalize.adapting import Answer, Decline, adapts, become
from graphopt.rewriting.passes import Rewriter


@adapts("Upsample")
def _upsample(node: Node, version: int, to: int) -> Answer:
    if to < 10:
        return Decline("raising it without turning it into Resize is not worth it")
    if to < 11:
        return Decline("Resize took its present form in opset 11")
    return lambda rewriter: _upsample_as_resize(node, rewriter)


def _upsample_as_resize(node: Node, rewriter: Rewriter) -> None:
    scales = node.input(1)
    if scales is None:
        scales = rewriter.constant(np.array(node.attr("scales"), np.float32), f"{node.name or 'Upsample'}/scales")
    become(node, rewriter, "Resize", [node.inputs[0], None, scales], _resize_attributes(node, "floor"))


def _resize_attributes(node: Node, nearest: str) -> dict[str, Any]:
    """Return the attributes for the alignment of corners that was implicit until opset 10."""
    mode = node.attr("mode", "nearest")
    attributes = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    return attributes | ({"nearest_mode": nearest} if mode == "nearest" else {})


def _nearest_mode(node: Node) -> str | None:
    """Return the implicit rounding of a Resize of opset 10: ONNX Runtime rounds up along axes that shrink.

    None if it is not known, or if some axes shrink and others grow: today's Resize rounds all axes alike.
    """
    given = node.input(1)
    scales = None if given is None else given.constant
    values = np.ones(1) if scales is None else scales.numpy()
    if scales is None or ((values < 1).any() and (values > 1).any()):
        return "floor" if node.attr("mode", "nearest") != "nearest" else None
    return "ceil" if (values < 1).any() else "floor"


@adapts("Resize")
def _resize(node: Node, version: int, to: int) -> Answer:
    if version == 10 and to >= 11:
        data, scales = node.inputs
        nearest = _nearest_mode(node)
        if nearest is None:
            return Decline("nearest of opset 10 rounds up where it shrinks, and down where it does not")
        attributes = _resize_attributes(node, nearest)
        return lambda rewriter: become(node, rewriter, "Resize", [data, None, scales], attributes)
    if version >= 13 or to < 13:
        return None
    if node.attr("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        return Decline("tf_half_pixel_for_nn was taken away in opset 13")
    # In opset 11, an unused roi or scales had to be present, as an empty tensor.
    empty = [i for i in (1, 2) if _is_empty(node.input(i))]

    def adapt(rewriter: Rewriter) -> None:
        for index in empty:
            rewriter.set_input(node, index, None)

    return adapt if empty else None


def _is_empty(value: Value | None) -> bool:
    tensor: Tensor | None = value.constant if value is not None else None
    return tensor is not None and tensor.size == 0


@adapts("GridSample")
def _grid_sample(node: Node, version: int, to: int) -> Answer:
    if version >= 20 or to < 20:
        return None
    renamed = {"bilinear": "linear", "bicubic": "cubic"}
    mode = node.attr("mode", "bilinear")
    return lambda rewriter: rewriter.set_attribute(node, "mode", renamed.get(mode, mode))


@adapts("RoiAlign")
def _roi_align(node: Node, version: int, to: int) -> Answer:
    if version >= 16 or to < 16:
        return None
    return lambda rewriter: rewriter.set_attribute(node, "coordinate_transformation_mode", "output_half_pixel")
