"""Lowering from graphopt's IR to Relax: one walk over the graph that emits a kernel or two for each node.

`lower` is the main entry; `unsupported` does the same walk to find out what cannot be lowered, without raising.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import tvm
from tvm import relax

from graphopt.analysis.flops import count_flops
from graphopt.errors import UnsupportedError
from graphopt.ir import DType, Graph, Model, Node, TensorType, Value
from graphopt.targets.tvm import converters
from graphopt.targets.tvm.converters.widened import widens
from graphopt.targets.tvm.kernels.plans import Plans
from graphopt.targets.tvm.lowering.emitter import Context, clean_name, plain
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.provenance import Layer, with_sources
from graphopt.targets.tvm.lowering.symbols import unique
from graphopt.targets.tvm.machine import Machine


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of the compiled function; an open size is a string over the names of the inputs' sizes."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class UnsupportedNode:
    """A node that cannot be lowered: the user's label for it, its operator, and the reason."""

    label: str
    op: str
    reason: str


@dataclass
class Lowered:
    """A Relax module whose `main` takes the graph's inputs and then `params`, in this order.

    Parameters are read, and packed, when their elements are requested. `defaults` are the inputs that may be omitted,
    with their values. `layers` are the nodes that its kernels belong to; an attribute of `main` says which (see
    `provenance.py`).
    """

    mod: tvm.IRModule
    params: list[tuple[str, Operand]]
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    layers: list[Layer]
    defaults: list[tuple[str, Operand]]


def lower(model: Model, machine: Machine | None = None, plans: Plans | None = None) -> Lowered:
    """Lower a model to Relax.

    With a `machine`, convolutions and matmuls become the kernels for it, with their constant weights packed. `plans`,
    for the same machine, chooses the kernels (by closed-form estimates if not given), and lists the workloads
    afterwards. Constants above 1 KiB become trailing parameters of `main`; the attribute `num_input` says where they
    begin. Open sizes stay open, and sizes with the same name in the model are the same variable; properties that the
    model promises but that cannot be proven are checked at run time.

    Raises:
        UnsupportedError: lists every node that cannot be lowered, each with the reason.
    """
    lowering = _Lowering(model, machine, plans)
    lowered = lowering.run()
    if lowering.problems:
        raise UnsupportedError(
            describe(lowering.problems), where=str(model.path or ""), remedy="Replace or remove these nodes."
        )
    return lowered


def unsupported(model: Model) -> list[UnsupportedNode]:
    """Return every node of the model that `lower` would decline, with the reason; empty if it can be lowered."""
    lowering = _Lowering(model)
    lowering.run()
    return lowering.problems


def describe(problems: list[UnsupportedNode]) -> str:
    """Format the problems as one message, grouping nodes with the same operator and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        groups.setdefault((problem.op, problem.reason), []).append(problem.label)
    lines = [
        f"  {op}: {reason} ({len(labels)}x: {', '.join(labels[:3])}{', ...' if len(labels) > 3 else ''})"
        for (op, reason), labels in groups.items()
    ]
    return "\n".join([f"{len(problems)} nodes cannot be compiled:", *lines])


@dataclass
class _Lowering:
    """One walk over one model."""

    model: Model
    machine: Machine | None = None
    plans: Plans | None = None
    problems: list[UnsupportedNode] = field(default_factory=list)

    def run(self) -> Lowered:
        graph = self.model.graph
        builder = relax.BlockBuilder()
        parameters: list[relax.Var] = []
        self.ctx = Context(builder, parameters, self.machine, self.plans)
        self.ctx.widens = widens(graph, self.machine)
        self.ctx.lower_nodes = self._nodes
        self.ctx.operand_of = self._operand
        self.values: dict[Value, Operand | None] = {}
        self.ctx.define = self.values.__setitem__
        inputs = self._inputs(graph, parameters)
        number = len(parameters)
        with builder.function("main", params=parameters, pure=False):
            result, outputs = self._body(graph)
            builder.emit_func_output(result)
        mod = relax.transform.ConvertToDataflow(min_size=1)(builder.finalize())
        mod["main"] = self._finished(mod["main"], builder).with_attr("num_input", number)
        params = [] if self.problems else self.ctx.weights
        defaults = [(v.name, _constant(v)) for v in graph.inputs if v.tensor is not None]
        return Lowered(with_sources(mod, self.ctx.sources), params, inputs, outputs, self.ctx.layers, defaults)

    def _finished(self, main: relax.Function, builder: relax.BlockBuilder) -> relax.Function:
        """Return the function with the definitions of sizes that follow from its inputs before everything else."""
        body = relax.SeqExpr([relax.BindingBlock(self.ctx.prologue), *main.body.blocks], main.body.body)
        builder.begin_scope(main.params)
        body = builder.normalize(body)
        builder.end_scope()
        return relax.Function(main.params, body, is_pure=self.ctx.is_pure, attrs=main.attrs)

    def _inputs(self, graph: Graph, parameters: list[relax.Var]) -> list[TensorInfo]:
        infos, names = [], set[str]()
        for value in graph.inputs:
            problem = _input_problem(value)
            if problem:
                self.problems.append(UnsupportedNode(f"input '{value.name}'", "input", problem))
                self.values[value] = None
                continue
            assert value.dtype is not None
            assert value.shape is not None
            shape = [d if isinstance(d, int) else self.ctx.symbols.size(d) for d in value.shape]
            var = relax.Var(unique(clean_name(value.name), names), relax.TensorType(shape, value.dtype.text))
            parameters.append(var)
            self.values[value] = Operand(value.dtype.text, shape, expr=var, name=value.name)
            infos.append(TensorInfo(value.name, value.dtype.text, _shape_text(shape)))
        return infos

    def _body(self, graph: Graph) -> tuple[relax.Expr, list[TensorInfo]]:
        results = self.lower_graph(graph)
        infos, exprs = [], []
        for value, operand in zip(graph.outputs, results):
            if operand is None:
                continue
            infos.append(TensorInfo(value.name, operand.dtype, _shape_text(operand.shape, self.ctx)))
            exprs.append(operand.expr)
        return exprs[0] if len(exprs) == 1 else relax.Tuple(exprs), infos

    def lower_graph(self, graph: Graph) -> list[Operand | None]:
        """Lower every node of a graph; return its outputs as tensors, None for those that could not be computed."""
        self._nodes(graph)
        taken: set[relax.Expr] = set()
        results = []
        for value in graph.outputs:
            self.ctx.begin(Layer((value.name,), "output", 0))
            operand = self._operand(value)
            results.append(None if operand is None else self._output(value, operand, taken))
        return results

    def _nodes(self, graph: Graph, given: Mapping[Value, Operand | None] | None = None) -> list[Operand | None]:
        """Lower the nodes of a graph: the main one, a branch, or a function's body with its inputs `given`."""
        self.values.update(given or {})
        for node in graph.nodes:
            self._node(node)
        return [self._operand(value) for value in graph.outputs]

    def _output(self, value: Value, operand: Operand, taken: set[relax.Expr]) -> Operand | None:
        """Return an output in separate memory: not an input, not a weight, not another output."""
        try:
            expr = self.ctx.tensor(operand)
            if expr in taken or not isinstance(expr, relax.Var) or expr in self.ctx.parameters:
                operand = converters.copy(self.ctx, operand)
        except converters.Declined as reason:
            self.problems.append(UnsupportedNode(f"output '{value.name}'", "output", str(reason)))
            return None
        assert operand.expr is not None
        taken.add(operand.expr)
        return operand

    def _operand(self, value: Value) -> Operand | None:
        if value not in self.values:
            self.values[value] = _constant(value)
        return self.values[value]

    def _node(self, node: Node) -> None:
        if node.outputs and all(value in self.values for value in node.outputs):
            return  # a previous node has already computed its results
        self.ctx.begin(_layer(node))
        operands: list[Operand | None] = []
        broken = False
        for value in node.inputs:
            operand = None if value is None else self._operand(value)
            broken = broken or (value is not None and operand is None)
            operands.append(operand)
        try:
            results = converters.convert(self.ctx, node, operands, broken=broken)
        except converters.Declined as reason:
            self.problems.append(UnsupportedNode(node.label, node.op, str(reason)))
            results = []
        for index, value in enumerate(node.outputs):
            self.values[value] = results[index] if index < len(results) else None


def _layer(node: Node) -> Layer:
    return Layer(tuple(node.origin) or (node.name or node.op_type,), node.op, count_flops(node))


def _input_problem(value: Value) -> str:
    """Return why a graph input cannot be an input of the compiled function; empty if it can."""
    if not isinstance(value.type, TensorType):
        return "only tensors can be inputs"
    if value.shape is None:
        return "its rank is not known; specify its shape with --input"
    if value.dtype in (DType.STRING, DType.UNDEFINED):
        return f"no kernels for element type {value.dtype.text if value.dtype else 'unknown'}"
    return ""


def _shape_text(shape: list[Dim] | tuple[Dim, ...], ctx: Context | None = None) -> tuple[int | str, ...]:
    sizes = [plain(d if ctx is None else ctx.symbols.expand(d)) for d in shape]
    return tuple(d if isinstance(d, int) else str(d).replace("T.int64(", "(") for d in sizes)


def _constant(value: Value) -> Operand:
    """Return the contents of an initializer, or of an omitted input."""
    tensor = value.tensor
    assert tensor is not None, f"{value.name} is used before it is produced"
    return Operand(tensor.dtype.text, tensor.shape, read=tensor.numpy, name=value.name, key=(tensor,))
