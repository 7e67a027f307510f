"""The layers of a model that multiply by weights: their arithmetic, their bytes, and the types they compute with."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.analysis.flops import count_flops
from graphopt.ir import Model, Node, Value

from .latency import LayerSizes

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_INTEGER = frozenset({"ConvInteger", "MatMulInteger"})


@dataclass(frozen=True)
class Layer:
    """A convolution or matmul. `flops` is 0 where sizes are open; `bytes` are those of its weights as stored.

    `data` and `weights` are the types that a runtime can compute with: those before a DequantizeLinear. `result` is the
    name of its result. `sizes` are what its time depends on, where these are known.
    """

    name: str
    op: str
    flops: int
    bytes: int
    data: str
    weights: str
    result: str = ""
    sizes: LayerSizes | None = None

    @property
    def label(self) -> str:
        return f"{self.op} '{self.name}'"

    @property
    def precision(self) -> str:
        """`int8` where data and weights are integers, `int4 weights` where only these are; or the floats' type."""
        if self.data == self.weights or "int" not in self.weights:
            return self.weights
        return self.weights if "int" in self.data else f"{self.weights} weights"


def layers_of(model: Model) -> list[Layer]:
    """Return the layers of the main graph in order. Sizes should have been inferred."""
    return [_layer(node) for node in model.graph.nodes if node.op in PRODUCTS | _INTEGER]


def layer_name(node: Node) -> str:
    """Return the name of a layer in reports: its own, or else that of the user's node."""
    return node.name or (node.origin[0] if node.origin else node.file_name)


def _layer(node: Node) -> Layer:
    data, weights = _stored(node.input(0)), _stored(node.input(1))
    constant = weights.constant if weights is not None else None
    return Layer(
        layer_name(node),
        node.op,
        count_flops(node) or 0,
        constant.nbytes if constant is not None else 0,
        _type(data),
        _type(weights),
        node.output.name,
        LayerSizes.of(node),
    )


def _stored(value: Value | None) -> Value | None:
    """Return the value before a DequantizeLinear, and before what moves it after one."""
    while value is not None and value.producer is not None:
        node = value.producer
        if node.op == "DequantizeLinear":
            return node.input(0)
        if node.op not in ("Reshape", "Transpose", "Cast"):
            return value
        value = node.input(0)
    return value


def _type(value: Value | None) -> str:
    return "unknown" if value is None or value.dtype is None else value.dtype.text
