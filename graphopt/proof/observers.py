"""Observers of the pass manager: timing, printing of changes, checks of the structure, and a limit on rewrites.

`CheckNumbers` (graphopt.proof.numerical), `CheckBudget` (graphopt.proof.budget) and `CrashReproducer`
(graphopt.proof.reproducer) are observers too, and can be imported from here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from graphopt.errors import VerificationError
from graphopt.ir import Graph, Model, Node, Tensor, Value, verify
from graphopt.rewriting.pipeline import Observer, Pipeline, Step
from graphopt.rewriting.report import Report, StepResult
from graphopt.util.tables import format_seconds

from .bisect import guilty_rewrite
from .budget import CheckBudget as CheckBudget
from .checks import Interface, type_conflict
from .numerical import CheckNumbers as CheckNumbers
from .reproducer import CrashReproducer as CrashReproducer

Write = Callable[[str], None]


class Timing(Observer):
    """Writes a line after each pass: its time, and the number of nodes before and after."""

    def __init__(self, write: Write = print) -> None:
        self.write = write

    def after(self, step: Step, model: Model, result: StepResult) -> None:
        nodes = f"{result.nodes_before:,} -> {result.nodes_after:,} nodes" if result.changed else "unchanged"
        self.write(f"{step.label}: {format_seconds(result.seconds)}, {nodes}")

    def end(self, model: Model, report: Report) -> None:
        self.write(f"{len(report.steps)} steps: {format_seconds(report.seconds)}")


class PrintChanged(Observer):
    """Writes what each pass changed, and nothing for passes that changed nothing.

    With `whole`, it writes the whole graph, one line per node; otherwise only removed (`-`) and added (`+`) lines.
    """

    def __init__(self, write: Write = print, *, whole: bool = False) -> None:
        self.write = write
        self.whole = whole
        self.lines: list[str] = []

    def begin(self, model: Model, pipeline: Pipeline) -> None:
        self.lines = graph_lines(model)
        if self.whole:
            self.write("\n".join(["the model", *self.lines]))

    def after(self, step: Step, model: Model, result: StepResult) -> None:
        if not result.changed:
            return
        before, self.lines = self.lines, graph_lines(model)
        changed = self.lines if self.whole else _changes(before, self.lines)
        self.write("\n".join([f"after {step.label} ({step.path})", *(changed or ["  (types only)"])]))


class CheckStructure(Observer):
    """Verifies the structure after each pass that changed anything.

    It runs `graphopt.ir.verify`, checks that inputs and outputs are unchanged, and that ONNX's own inference does not
    contradict the types (unless it contradicts those of the original model). Raises VerificationError that names the
    pass, the step and the user's node.
    """

    needs_before = True

    def __init__(self) -> None:
        self._interface = Interface()
        self._typed = True

    def begin(self, model: Model, pipeline: Pipeline) -> None:
        verify(model)
        self._interface = Interface.of(model)
        self._typed = not type_conflict(model)

    def after(self, step: Step, model: Model, result: StepResult) -> None:
        complaint = self._complaint(model) if result.changed else ""
        if complaint:
            rewrite, _ = guilty_rewrite(step, self._complaint)
            guilty = f"; the faulty one is {rewrite}" if rewrite is not None else ""
            raise VerificationError(
                f"{step.pass_.name} left an invalid graph: {complaint}{guilty}",
                where=f"{model.name}: {step.label}",
                remedy="this is a bug in the pass; remove it from the pipeline, or report it",
            )

    def _complaint(self, model: Model) -> str:
        try:
            verify(model)
        except VerificationError as error:
            return error.message
        return (type_conflict(model) if self._typed else "") or self._interface.conflict(model)


class PassLimit(Observer):
    """Allows only the first `limit` rewrites of a pipeline, to find a faulty one by hand.

    `done` is the number of rewrites made, `last` the node of the last one. Passes that rewrite without asking
    (`PassContext.allow`) are not limited.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"a limit of {limit} rewrites: it must not be negative")
        self.limit = limit
        self.done = 0
        self.last = ""

    def allow(self, step: Step, node: Node) -> bool:
        if self.done >= self.limit:
            return False
        self.done += 1
        self.last = f"{step.label}, at {node.label}"
        return True


def graph_lines(model: Model) -> list[str]:
    """Return a model as one line per node for comparison, nested graphs indented, small constants written out."""
    lines = []
    for root in (model.graph, *(function.graph for function in model.functions.values())):
        stack = [(root, 1)]
        while stack:
            graph, depth = stack.pop()
            indent = "  " * depth
            lines.append(f"{indent}{_header(graph)}")
            lines.extend(f"{indent}  {node_line(node)}" for node in graph.nodes)
            nested = [inner for node in graph.nodes for inner in node.subgraphs]
            stack.extend((inner, depth + 1) for inner in reversed(nested))
    return lines


def _header(graph: Graph) -> str:
    inputs = ", ".join(f"{value.name}: {value.type}" for value in graph.inputs)
    return f"{graph.name or 'graph'} ({inputs}) => ({', '.join(value.name for value in graph.outputs)})"


def node_line(node: Node) -> str:
    """Return a node as text: `y: float32[1,8] = Conv(x, w: float32[8,3,3,3]) {strides=(1, 1)}`."""
    outputs = ", ".join(f"{value.name}: {value.type}" if value.name else "_" for value in node.outputs)
    inputs = ", ".join(_operand(value) for value in node.inputs)
    shown = [f"{name}={_attribute(a.value, a.ref)}" for name, a in node.attributes.items()]
    attributes = f" {{{', '.join(shown)}}}" if shown else ""
    return f"{outputs} = {node.op}({inputs}){attributes}"


_SHOWN_ELEMENTS = 8


def _operand(value: Value | None) -> str:
    if value is None:
        return "_"
    return f"{value.name}: {_tensor(value.tensor)}" if value.tensor is not None else value.name


def _attribute(value: object, ref: str) -> str:
    if ref:
        return f"@{ref}"
    if isinstance(value, Graph):
        return f"<{value.name or 'graph'}>"
    return _tensor(value) if isinstance(value, Tensor) else repr(value)


def _tensor(tensor: Tensor) -> str:
    """Describe a tensor by its contents if it is small, else by its type and the start of its digest."""
    if tensor.size <= _SHOWN_ELEMENTS:
        text = np.array2string(tensor.numpy(), separator=",", max_line_width=10_000).replace("\n", "")
        return f"{tensor.dtype.text} {text}"
    return f"{tensor.dtype.text}{list(tensor.shape)} #{tensor.digest[:8]}"


def _changes(before: list[str], after: list[str]) -> list[str]:
    """Return the removed and added lines in order; linear in the number of lines."""
    gone, come = Counter(before), Counter(after)
    gone, come = gone - come, come - gone
    return [f"- {line}" for line in _taken(before, gone)] + [f"+ {line}" for line in _taken(after, come)]


def _taken(lines: list[str], counts: Counter[str]) -> list[str]:
    taken = []
    for line in lines:
        if counts[line] > 0:
            counts[line] -= 1
            taken.append(line.strip())
    return taken
