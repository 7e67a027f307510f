"""A small writer of ONNX graphs for the tools: names nodes after their outputs and keeps the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Shape = Sequence[int | str]


class Builder:
    """Collects nodes and weights; methods return the name of the new value, which must be unique."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}

    def weight(self, name: str, array: np.ndarray) -> str:
        """Add an initializer; a name may be used again, and then has the newest contents."""
        self.weights[name] = array
        return name

    def op(self, op_type: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=f"/{name}", **attributes))
        return name

    def constant(self, value: Any, dtype: type[np.generic], name: str) -> str:
        """Add a Constant node, as exporters write literal numbers."""
        return self.op("Constant", [], name, value=numpy_helper.from_array(np.array(value, dtype)))

    def model(
        self,
        name: str,
        inputs: Mapping[str, tuple[type[np.generic], Shape]],
        outputs: Mapping[str, tuple[type[np.generic], Shape]],
        *,
        opset: int = 18,
    ) -> onnx.ModelProto:
        """Return the model of everything that was collected, unchecked."""

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
