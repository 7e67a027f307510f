"""A model: the main graph and everything else in a model file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from .attribute import Attribute
from .copying import copy_model
from .frozen import Frozen, write
from .graph import Graph

FunctionKey = tuple[str, str, str]
"""Domain, name and overload of a function."""


@dataclass(frozen=True)
class Function:
    """A function of the model: an operator defined by a graph (onnx.FunctionProto)."""

    domain: str
    name: str
    graph: Graph
    overload: str = ""
    attributes: tuple[str, ...] = ()
    defaults: Mapping[str, Attribute] = field(default_factory=dict)
    opsets: Mapping[str, int] = field(default_factory=dict)
    doc_string: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("defaults", "opsets", "metadata"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def key(self) -> FunctionKey:
        return self.domain, self.name, self.overload


class Model(Frozen):
    """A model in memory. `graphopt.load` reads one, `graphopt.save` writes one, and only a `Rewriter` changes one."""

    __slots__ = (
        "__weakref__",
        "_functions",
        "_inferred_version",
        "_names",
        "_opsets",
        "_version",
        "doc_string",
        "domain",
        "graph",
        "ir_version",
        "metadata",
        "model_version",
        "path",
        "producer_name",
        "producer_version",
        "training_info",
    )

    ir_version: int
    producer_name: str
    producer_version: str
    domain: str
    model_version: int
    doc_string: str
    metadata: Mapping[str, str]
    path: Path | None
    training_info: tuple[bytes, ...]
    graph: Graph
    _opsets: dict[str, int]
    _functions: dict[FunctionKey, Function]
    _names: dict[str, int]
    _version: int
    _inferred_version: int

    def __init__(self) -> None:
        for name in ("producer_name", "producer_version", "domain", "doc_string"):
            write(self, name, "")
        write(self, "ir_version", 0)
        write(self, "model_version", 0)
        write(self, "metadata", MappingProxyType({}))
        write(self, "path", None)
        write(self, "training_info", ())  # carried, not interpreted: serialized onnx.TrainingInfoProto
        write(self, "_opsets", {})
        write(self, "_functions", {})
        write(self, "_names", {})
        write(self, "_version", 0)
        write(
            self, "_inferred_version", -1
        )  # the version at which shape inference last ran: it has nothing to add since
        write(self, "graph", Graph(self))

    @property
    def opsets(self) -> Mapping[str, int]:
        """The imported version of each operator domain; the default domain is ""."""
        return MappingProxyType(self._opsets)

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators; 1 if the model imports none."""
        return self._opsets.get("", 1)

    @property
    def functions(self) -> Mapping[FunctionKey, Function]:
        return MappingProxyType(self._functions)

    @property
    def version(self) -> int:
        """A number that every mutation increments: equal numbers mean that nothing has changed."""
        return self._version

    @property
    def name(self) -> str:
        """The name of the model in messages: its file, or else its graph."""
        return str(self.path) if self.path else self.graph.name or "model"

    def copy(self) -> Model:
        """An independent copy that shares the (immutable) tensors."""
        return copy_model(self)

    def unique_name(self, hint: str) -> str:
        """Return a name similar to `hint` that no value or node of the model has yet, and reserve it."""
        hint = hint or "value"
        if hint not in self._names:
            self._names[hint] = 1
            return hint
        stem = re.sub(r"_\d+$", "", hint) or hint
        count = self._names.get(stem, 1)
        while f"{stem}_{count}" in self._names:
            count += 1
        self._names[stem] = count + 1
        name = f"{stem}_{count}"
        self._names[name] = 1
        return name

    def _touch(self) -> None:
        write(self, "_version", self._version + 1)

    def __repr__(self) -> str:
        return f"<Model {self.name!r}: {len(self.graph.nodes)} nodes, opset {self.opset}>"
