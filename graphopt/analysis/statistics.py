"""Statistics of a model: operators, parameters, bytes and FLOPs, by operator and by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from graphopt.ir import Graph, Model, Node, OpaqueType, Tensor, Value
from graphopt.util.tables import Table, format_bytes, format_count

from .flops import count_flops


@dataclass(frozen=True)
class Layer:
    """A node as a layer. `parameters` and `bytes` are those of the constants that no earlier node uses.

    `flops` is None if a shape or the operator is unknown.
    """

    name: str
    op: str
    origin: tuple[str, ...]
    output: str
    parameters: int
    bytes: int
    flops: int | None


@dataclass(frozen=True)
class Statistics:
    """The statistics of a model; nodes of nested graphs and of functions are counted once each.

    `parameters` and `bytes` are those of all its constants, used or not.
    """

    name: str
    ir_version: int
    opsets: dict[str, int]
    inputs: dict[str, str]
    outputs: dict[str, str]
    parameters: int
    bytes: int
    layers: tuple[Layer, ...]

    @property
    def flops(self) -> int:
        """The FLOPs of one run, of the layers where they are known."""
        return sum(layer.flops or 0 for layer in self.layers)

    @property
    def flops_text(self) -> str:
        """Format the FLOPs: `at least` if some are unknown, `?` if all are."""
        if self.unknown and not self.flops:
            return "?"
        return f"at least {format_count(self.flops)}" if self.unknown else format_count(self.flops)

    @property
    def unknown(self) -> Counter[str]:
        """The number of nodes of each operator whose FLOPs are unknown."""
        return Counter(layer.op for layer in self.layers if layer.flops is None)

    def operators(self) -> Table:
        """Return a table with one row per operator, the most FLOPs first."""
        table = Table(
            "operators",
            ("operator", "nodes", "parameters", "weights", "FLOPs"),
            right=frozenset({"nodes", "parameters", "weights", "FLOPs"}),
        )
        groups: dict[str, list[Layer]] = {}
        for layer in self.layers:
            groups.setdefault(layer.op, []).append(layer)
        for op, layers in sorted(groups.items(), key=lambda item: (-_flops(item[1]), -len(item[1]), item[0])):
            table.add(op, len(layers), *_sums(layers))
        return table

    def largest_layers(self, limit: int | None = None) -> Table:
        """Return a table of the layers in the order of the model, or of the `limit` layers with the most FLOPs."""
        table = Table(
            "layers" if limit is None else f"the {limit} layers with the most FLOPs",
            ("layer", "operator", "output", "parameters", "weights", "FLOPs"),
            right=frozenset({"parameters", "weights", "FLOPs"}),
        )
        layers: Iterable[Layer] = self.layers
        if limit is not None:
            layers = sorted(self.layers, key=lambda layer: (-(layer.flops or 0), -layer.bytes))[:limit]
        for layer in layers:
            table.add(layer.name, layer.op, layer.output, *_sums([layer]))
        return table

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types; unknown FLOPs are null."""
        return {
            "model": self.name,
            "ir_version": self.ir_version,
            "opsets": self.opsets,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "nodes": len(self.layers),
            "operators": dict(Counter(layer.op for layer in self.layers).most_common()),
            "parameters": self.parameters,
            "bytes": self.bytes,
            "flops": self.flops,
            "flops_unknown": dict(self.unknown),
            "layers": [
                {
                    "name": layer.name,
                    "operator": layer.op,
                    "origin": list(layer.origin),
                    "output": layer.output,
                    "parameters": layer.parameters,
                    "bytes": layer.bytes,
                    "flops": layer.flops,
                }
                for layer in self.layers
            ],
        }


def measure(model: Model) -> Statistics:
    """Compute the statistics of `model`. Missing types are inferred on a copy."""
    from graphopt.ir import infer_shapes

    model = model.copy()
    infer_shapes(model)
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    constants = [tensor for graph in graphs for nested in graph.all_graphs() for tensor in _constants(nested)]
    seen: set[Value] = set()
    layers = [_layer(node, seen) for graph in graphs for node in graph.all_nodes() if node.op != "Constant"]
    return Statistics(
        name=model.name,
        ir_version=model.ir_version,
        opsets={domain or "ai.onnx": version for domain, version in model.opsets.items()},
        inputs={value.name: type_text(value) for value in model.graph.inputs if not value.is_initializer},
        outputs={value.name: type_text(value) for value in model.graph.outputs},
        parameters=sum(tensor.size for tensor in constants),
        bytes=sum(tensor.nbytes for tensor in constants),
        layers=tuple(layers),
    )


def type_text(value: Value) -> str:
    """Format a value's type: `float32[1,3,?,224]`."""
    if value.type is None:
        return "unknown"
    return "sequence, optional or map" if isinstance(value.type, OpaqueType) else str(value.type)


def _constants(graph: Graph) -> Iterator[Tensor]:
    """Yield the tensors stored in one graph: initializers and the contents of `Constant` nodes."""
    for value in graph.values():
        tensor = value.tensor or value.constant
        if tensor is not None:
            yield tensor


def _layer(node: Node, seen: set[Value]) -> Layer:
    parameters = size = 0
    for value in node.inputs:
        tensor = None if value is None else value.tensor or value.constant
        if value is None or tensor is None or value in seen:
            continue
        seen.add(value)
        parameters += tensor.size
        size += tensor.nbytes
    outputs = ", ".join(type_text(value) for value in node.outputs if value.name)
    return Layer(node.label, node.op, node.origin, outputs, parameters, size, count_flops(node))


def _flops(layers: list[Layer]) -> int:
    return sum(layer.flops or 0 for layer in layers)


def _sums(layers: list[Layer]) -> tuple[str, str, str]:
    flops = _flops(layers)
    known = any(layer.flops is not None for layer in layers)
    return (
        f"{sum(layer.parameters for layer in layers):,}",
        format_bytes(sum(layer.bytes for layer in layers)),
        format_count(flops) if known else "?",
    )
