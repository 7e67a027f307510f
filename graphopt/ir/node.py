"""Values and nodes: the wiring of a graph. Nothing here changes them publicly; a `Rewriter` does."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from .attribute import Attribute, AttributeKind
from .frozen import Frozen, write
from .tensor import Tensor
from .types import DType, Shape, TensorType, ValueType

if TYPE_CHECKING:
    from .graph import Graph


ORIGIN = "graphopt.origin"
"""The metadata key under which a file stores the origin of a node whose name differs from the user's node."""

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Use(NamedTuple):
    """One use of a value: input `index` of `node`."""

    node: Node
    index: int  # type: ignore[assignment]  # it hides tuple.index, which nobody needs here


class Value(Frozen):
    """A tensor that flows through a graph: a graph input, an initializer or the output of a node.

    Values are compared and hashed by identity. An optional output that a node does not produce is a value with an empty
    name and no uses.
    """

    __slots__ = (
        "__weakref__",
        "_graph",
        "_is_input",
        "_output_of",
        "_uses",
        "doc_string",
        "index",
        "metadata",
        "name",
        "producer",
        "tensor",
        "type",
    )

    name: str
    type: ValueType
    tensor: Tensor | None
    producer: Node | None
    index: int
    doc_string: str
    metadata: Mapping[str, str]
    _graph: Graph
    _is_input: bool
    _uses: dict[Use, None]
    _output_of: list[Graph]

    def __init__(self, graph: Graph, name: str, type_: ValueType = None) -> None:
        write(self, "name", name)
        write(self, "type", type_)
        write(self, "tensor", None)
        write(self, "producer", None)
        write(self, "index", 0)
        write(self, "doc_string", "")
        write(self, "metadata", _NOTHING)
        write(self, "_graph", graph)
        write(self, "_is_input", False)
        write(self, "_uses", {})
        write(self, "_output_of", [])

    @property
    def graph(self) -> Graph:
        """The graph that this value belongs to."""
        return self._graph

    @property
    def dtype(self) -> DType | None:
        return self.type.dtype if isinstance(self.type, TensorType) else None

    @property
    def shape(self) -> Shape | None:
        return self.type.shape if isinstance(self.type, TensorType) else None

    @property
    def rank(self) -> int | None:
        shape = self.shape
        return None if shape is None else len(shape)

    @property
    def constant(self) -> Tensor | None:
        """The contents if they can never change: of an initializer that no caller can override, or of a `Constant`."""
        if self.tensor is not None:
            return None if self._is_input else self.tensor
        node = self.producer
        if node is not None and node.op_type == "Constant" and node.domain == "":
            return node.constant_value
        return None

    @property
    def uses(self) -> tuple[Use, ...]:
        """All uses by nodes, oldest first, including nodes of nested graphs that capture the value."""
        return tuple(self._uses)

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that use it, each once, oldest first."""
        return tuple(dict.fromkeys(use.node for use in self._uses))

    @property
    def has_uses(self) -> bool:
        """Return whether any node, or any graph as its output, uses it."""
        return bool(self._uses or self._output_of)

    @property
    def is_graph_input(self) -> bool:
        return self._is_input

    @property
    def is_graph_output(self) -> bool:
        """Whether its own graph, or directly a nested graph, has it as an output."""
        return bool(self._output_of)

    @property
    def output_of(self) -> tuple[Graph, ...]:
        """The graphs that have it as an output, with one entry per output position."""
        return tuple(self._output_of)

    @property
    def is_initializer(self) -> bool:
        return self.tensor is not None

    @property
    def sole_user(self) -> Node | None:
        """The node that uses it, if it has exactly one use, in its own graph, and is not a graph output."""
        if len(self._uses) != 1 or self._output_of:
            return None
        node = next(iter(self._uses)).node
        return node if node.graph is self._graph else None

    def __repr__(self) -> str:
        return f"<Value {self.name!r} {self.type}>"


class Node(Frozen):
    """One application of an operator. Compared and hashed by identity.

    `origin` names the nodes of the user's model that it came from, so that messages and profiles can refer to the
    user's own layers.
    """

    __slots__ = (
        "__weakref__",
        "_attributes",
        "_graph",
        "_inputs",
        "_next",
        "_outputs",
        "_previous",
        "_subgraphs",
        "doc_string",
        "domain",
        "metadata",
        "name",
        "op_type",
        "origin",
        "overload",
    )

    op_type: str
    domain: str
    name: str
    overload: str
    origin: tuple[str, ...]
    doc_string: str
    metadata: Mapping[str, str]
    _graph: Graph | None
    _inputs: tuple[Value | None, ...]
    _outputs: tuple[Value, ...]
    _attributes: dict[str, Attribute]
    _subgraphs: tuple[Graph, ...]
    _previous: Node | None
    _next: Node | None

    def __init__(
        self,
        op_type: str,
        domain: str = "",
        name: str = "",
        *,
        overload: str = "",
        origin: tuple[str, ...] = (),
        doc_string: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        write(self, "op_type", op_type)
        write(self, "domain", "" if domain == "ai.onnx" else domain)
        write(self, "name", name)
        write(self, "overload", overload)
        write(self, "origin", origin)
        write(self, "doc_string", doc_string)
        write(self, "metadata", MappingProxyType(dict(metadata)) if metadata else _NOTHING)
        write(self, "_graph", None)
        write(self, "_inputs", ())
        write(self, "_outputs", ())
        write(self, "_attributes", {})
        write(self, "_subgraphs", ())
        write(self, "_previous", None)
        write(self, "_next", None)

    @property
    def graph(self) -> Graph:
        """The graph that it belongs to. Raises RuntimeError after it was removed."""
        if self._graph is None:
            raise RuntimeError(f"{self.label} was removed from its graph")
        return self._graph

    @property
    def removed(self) -> bool:
        return self._graph is None

    @property
    def inputs(self) -> tuple[Value | None, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[Value, ...]:
        return self._outputs

    @property
    def output(self) -> Value:
        """The first output, for operators that have one."""
        return self._outputs[0]

    def input(self, index: int) -> Value | None:
        """Input `index`, or None if it is omitted or past the end."""
        return self._inputs[index] if index < len(self._inputs) else None

    @property
    def attributes(self) -> Mapping[str, Attribute]:
        return MappingProxyType(self._attributes)

    def attr(self, name: str, default: Any = None) -> Any:
        """Return the plain value of an attribute, or `default` if it is absent or refers to a function's attribute."""
        attribute = self._attributes.get(name)
        return default if attribute is None or attribute.ref else attribute.value

    @property
    def subgraphs(self) -> tuple[Graph, ...]:
        """The graphs in its attributes (`If`, `Loop`, `Scan`), in attribute order."""
        return self._subgraphs

    @property
    def op(self) -> str:
        """The operator with its domain: `Conv`, `com.microsoft::Gelu`."""
        return f"{self.domain}::{self.op_type}" if self.domain else self.op_type

    @property
    def file_name(self) -> str:
        """The name that identifies it in a file: its name, or else that of its first output."""
        return self.name or next((value.name for value in self._outputs if value.name), self.op_type)

    @property
    def label(self) -> str:
        """Its name in messages: its operator and the user's name for it."""
        name = self.name or (self.origin[0] if self.origin else "") or (self._outputs[0].name if self._outputs else "")
        return f"{self.op} '{name}'"

    @property
    def constant_value(self) -> Tensor | None:
        """The contents of a `Constant` node; None for sparse constants and for references to a function's attribute."""
        import numpy as np

        for name, attribute in self._attributes.items():
            if attribute.ref:
                return None
            if name == "value" and attribute.kind is AttributeKind.TENSOR:
                return attribute.value
            dtype = _CONSTANT_DTYPES.get(name)
            if dtype is not None:
                return Tensor.of(np.array(attribute.value, dtype.numpy))
        return None

    def __repr__(self) -> str:
        return f"<Node {self.label}>"


_CONSTANT_DTYPES = {
    "value_float": DType.FLOAT,
    "value_floats": DType.FLOAT,
    "value_int": DType.INT64,
    "value_ints": DType.INT64,
    "value_string": DType.STRING,
    "value_strings": DType.STRING,
}
