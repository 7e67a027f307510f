"""The graph of a model without its weights, which describes a compiled model in a small file.

The file is ONNX. For a large tensor it stores dtype, shape and a digest, so that two graphs can be compared; reading
the tensor's elements raises an error that says that they were left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from graphopt.ir import Model, Tensor
from graphopt.ir.tensor_proto import LEFT_OUT, read_tensor, write_left_out, write_tensor
from graphopt.ir.write_proto import write_model

KEPT_BYTES = 1024
"""The size of tensors up to which they are kept: shapes, axes and other parameters of the computation."""


def save_graph(model: Model, path: Path) -> None:
    """Write a model without its large tensors; `io.load` reads it. Raises OSError if the file cannot be written."""
    proto = write_model(model, _write)
    for tensor in _nested_tensors(proto):
        if tensor.ByteSize() > KEPT_BYTES and not tensor.string_data and not tensor.external_data:
            tensor.CopyFrom(write_left_out(read_tensor(tensor, None, path.name), tensor.name))
    path.write_bytes(proto.SerializeToString(deterministic=True))


def lacks_nested(proto: onnx.ModelProto) -> bool:
    """Return whether tensors of attributes and nested graphs were left out; onnx.checker would look for their files."""
    entries = (entry for tensor in _nested_tensors(proto) for entry in tensor.external_data)
    return any((entry.key, entry.value) == ("location", LEFT_OUT) for entry in entries)


def _write(tensor: Tensor, name: str) -> onnx.TensorProto:
    small = tensor.nbytes <= KEPT_BYTES or not tensor.dtype.bits
    return write_tensor(tensor, name) if small else write_left_out(tensor, name)


def _nested_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors of attributes and the initializers of nested graphs."""
    nodes: list[Iterable[onnx.NodeProto]] = [proto.graph.node, *(function.node for function in proto.functions)]
    while nodes:
        for node in nodes.pop():
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                    yield from graph.initializer
                    nodes.append(graph.node)
