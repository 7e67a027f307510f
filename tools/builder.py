"""A small writer of ONNX graphs for the tools: names nodes after their outputs and keeps the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Shape = Sequence[int | str]


class Builder:
    """Collects nodes and weights; methods return the name of the value made, which must be new."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}

    def weight(self, name: str, array: np.ndarray) -> str:
        """An initializer; one name may be given twice, and then keeps its newest content."""
        self.weights[name] = array
        return name

    def op(self, op_type: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=f"/{name}", **attributes))
        return name

    def constant(self, value: Any, dtype: type[np.generic], name: str) -> str:
        """A Constant node, as exporters write the numbers that stand in a program's text."""
        return self.op("Constant", [], name, value=numpy_helper.from_array(np.array(value, dtype)))

    def model(
        self,
        name: str,
        inputs: Mapping[str, tuple[type[np.generic], Shape]],
        outputs: Mapping[str, tuple[type[np.generic], Shape]],
        *,
        opset: int = 18,
    ) -> onnx.ModelProto:
        """The model of all that was collected, not checked."""

        def infos(values: Mapping[str, tuple[type[np.generic], Shape]]) -> list[onnx.ValueInfoProto]:
            number = helper.np_dtype_to_tensor_dtype
            return [
                helper.make_tensor_value_info(key, number(np.dtype(dtype)), shape)
                for key, (dtype, shape) in values.items()
            ]

        weights = [numpy_helper.from_array(array, key) for key, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, name, infos(inputs), infos(outputs), weights)
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="graphopt-tools")
