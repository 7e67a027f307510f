"""The intermediate representation: ONNX operators between values with identity, in graphs that only a Rewriter
changes.
"""

from .attribute import Attribute, AttributeKind
from .graph import Graph
from .infer import infer_shapes
from .model import Function, Model
from .node import Node, Use, Value
from .tensor import Tensor
from .types import Dim, DType, OpaqueType, Shape, TensorType, ValueType
from .verify import verify

__all__ = [
    "Attribute",
    "AttributeKind",
    "DType",
    "Dim",
    "Function",
    "Graph",
    "Model",
    "Node",
    "OpaqueType",
    "Shape",
    "Tensor",
    "TensorType",
    "Use",
    "Value",
    "ValueType",
    "infer_shapes",
    "verify",
]
