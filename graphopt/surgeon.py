"""Functions on onnx-graphsurgeon graphs as passes, so that existing scripts can join a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from . import io
from .errors import PassError
from .ir import Graph, Model, Node, OpaqueType, edit, infer_shapes
from .rewriting.passes import Fidelity, Pass, PassContext

SurgeonFunction = Callable[[Any], Any]
"""Takes an `onnx_graphsurgeon.Graph`, and changes it in place or returns another one."""


def surgeon_pass(
    function: SurgeonFunction | None = None, *, name: str | None = None, fidelity: Fidelity = Fidelity.FLOAT
) -> Any:
    """Return a `Pass` class that runs `function` on the model as a graphsurgeon graph; also usable as a decorator.

        @surgeon_pass(name="drop-dropout", fidelity=Fidelity.EXACT)
        def drop_dropout(graph: gs.Graph) -> None:
            '''Remove every Dropout.'''

    Nodes keep their origin if their name, or that of one of their outputs, is still the same afterwards. In a module
    given to `--load`, the pass is found like any other. Running it raises PassError if the function returns anything
    but a graph or None, or if the resulting model is invalid.

    Arguments:
        function: takes an `onnx_graphsurgeon.Graph`, and changes it or returns another one.
        name: of the pass; by default the function's name with dashes. The summary of the pass is the first line of the
            function's docstring.
        fidelity: of the pass.
    """
    if function is None:
        return lambda wrapped: surgeon_pass(wrapped, name=name, fidelity=fidelity)
    pass_name = name or function.__name__.strip("_").replace("_", "-")
    namespace = {
        "__doc__": inspect.getdoc(function) or f"The function {function.__name__} on a graphsurgeon graph.",
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "name": pass_name,
        "fidelity": fidelity,
        "_function": staticmethod(function),
    }
    return dataclass(frozen=True)(type(function.__name__.strip("_") or "surgeon", (_SurgeonPass,), namespace))


@dataclass(frozen=True)
class _SurgeonPass(Pass):
    """The common part of all passes made by `surgeon_pass`."""

    _function: ClassVar[SurgeonFunction]

    def run(self, graph: Graph, context: PassContext) -> None:
        model = context.model
        _check_types(self.name, model)
        first = next(iter(graph.nodes), None)
        if first is not None and not context.allow(first):
            return
        surgeon = io.to_surgeon(model)
        untouched = _content(io.from_surgeon(surgeon))
        result = type(self)._function(surgeon)
        changed = _read(self.name, surgeon if result is None else result)
        if _content(changed) == untouched:
            return
        _restore_provenance(model, changed)
        infer_shapes(changed)
        context.rewriter(graph).replace_model(changed)
        context.count("rewritten")


def _content(model: Model) -> bytes:
    return io.to_proto(model).SerializeToString(deterministic=True)


def _read(name: str, graph: Any) -> Model:
    try:
        return io.from_surgeon(graph)
    except Exception as error:  # graphsurgeon lets any exception of its own escape
        what = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        raise PassError(
            f"the graph that it left cannot be exported: {what}",
            where=name,
            remedy="call graph.cleanup().toposort() at the end, and return the graph or nothing",
        ) from error


def _check_types(name: str, model: Model) -> None:
    for graph in model.graph.all_graphs():
        for value in (*graph.inputs, *graph.outputs):
            if isinstance(value.type, OpaqueType):
                raise PassError(
                    f"'{value.name}' is not a tensor, and onnx-graphsurgeon drops the types of sequences and optionals",
                    where=f"{model.name}: {name}",
                    remedy="do not run this pass on this model",
                )


def _restore_provenance(before: Model, after: Model) -> None:
    """Restore what graphsurgeon drops: the origin and notes of a node with the same name or output."""
    by_name: dict[str, Node] = {}
    by_output: dict[str, Node] = {}
    for node in before.graph.all_nodes():
        by_name.setdefault(node.name, node)
        by_output.update((value.name, node) for value in node.outputs)
    for node in after.graph.all_nodes():
        known = by_name.get(node.name) if node.name else None
        known = known or next((by_output[v.name] for v in node.outputs if v.name in by_output), None)
        edit.describe(node, origin=known.origin if known is not None else ())
        if known is not None:
            edit.describe(node, doc_string=known.doc_string, metadata=known.metadata)
