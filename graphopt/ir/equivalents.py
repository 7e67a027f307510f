"""Equivalent forms of nodes whose results ONNX's inference misjudges: the sizes are those of ONNX Runtime."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

_ANY_AXES = 11
"""The first opset whose inference accepts the axes of a Squeeze in any order, and negative ones."""
_DROPS_LATE_WINDOWS = 22
"""The first opset by whose rules no window of any pooling operator begins in the padding at the end."""
_POOLS = ("AveragePool", "LpPool", "MaxPool")


def newer_rules(node: onnx.NodeProto, version: int) -> int:
    """Return the opset by whose rules the types of a node are to be inferred: `version` or a newer one."""
    if node.op_type in ("Squeeze", "Unsqueeze"):
        axes = _attributes(node).get("axes", [])
        return max(version, _ANY_AXES) if axes != sorted(axes) or any(axis < 0 for axis in axes) else version
    if node.op_type in _POOLS and _attributes(node).get("ceil_mode"):
        return max(version, _DROPS_LATE_WINDOWS)
    return version


def simplify_pool(node: onnx.NodeProto) -> None:
    """Replace the attributes of a pooling node with automatic padding by plain ones that lead to the same sizes.

    ONNX Runtime pads for the window without its dilation, so that fewer windows fit than ONNX's inference assumes.
    """
    given = _attributes(node)
    if node.op_type not in _POOLS or given.get("auto_pad") not in (b"SAME_UPPER", b"SAME_LOWER"):
        return
    kernel = given.get("kernel_shape", [])
    strides = given.get("strides") or [1] * len(kernel)
    dilations = given.get("dilations") or [1] * len(kernel)
    if not len(kernel) == len(strides) == len(dilations) or 0 in strides:
        return  # an invalid node
    sizes = []
    for taps, stride, dilation in zip(kernel, strides, dilations, strict=True):
        beyond = (taps - 1) * (dilation - 1)
        lost = beyond // stride if given.get("ceil_mode") else -(-beyond // stride)
        sizes.append(lost * stride + 1)  # as many windows as ceil(size / stride) - lost
    plain: dict[str, Any] = {"kernel_shape": sizes, "strides": strides}
    kept = [a for a in node.attribute if a.name not in (*plain, "auto_pad", "pads", "dilations", "ceil_mode")]
    made = [helper.make_attribute(name, numbers) for name, numbers in plain.items()]
    del node.attribute[:]
    node.attribute.extend([*kept, *made])


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}


__all__ = ["newer_rules", "simplify_pool"]
