"""The state of one lowering: emits kernels, stores weights and symbolic sizes, and records what it cannot lower."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tvm
from tvm import relax, s_tir, te, tirx

from graphopt.ir import Value
from graphopt.targets.tvm import compat
from graphopt.targets.tvm.kernels.plans import Plans
from graphopt.targets.tvm.lowering.define import define, flat_with_offset
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.provenance import Layer
from graphopt.targets.tvm.lowering.registry import Declined
from graphopt.targets.tvm.lowering.sizes import Sizes, call_packed, extent
from graphopt.targets.tvm.lowering.symbols import unique
from graphopt.targets.tvm.machine import Machine

EMBED_BYTES = 1024
"""The size up to which constants become part of the code; larger ones are parameters in one mapped file."""

_FLOATS = ["float16", "bfloat16", "float32", "float64"]
_INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
TENSOR_TYPES = frozenset([*_FLOATS, *_INTEGERS, "bool"])
"""The element types that kernels support."""

OFFSET = 1 << 40
"""An offset for numbers read at run time when they are TVM shapes, which are assumed to be non-negative."""

LowerNodes = Callable[..., "list[Operand | None]"]
"""Lowers the nodes of a graph (`Graph`), with a mapping of its inputs to operands if it has any."""

Compute = Callable[..., "te.Tensor | Sequence[te.Tensor]"]
OPAQUE = 8  # TOpPattern: nothing is fused with it
Build = Callable[[list[tirx.Buffer], tirx.Buffer], tirx.Stmt]
Tensors = list[te.Tensor]  # inside Context, `te` is a method


class Context(Sizes):
    """The state that converters work with; see `Call` for the view of one node."""

    def __init__(
        self,
        builder: relax.BlockBuilder,
        parameters: list[relax.Var],
        machine: Machine | None = None,
        plans: Plans | None = None,
    ) -> None:
        """Create the state of a lowering.

        `parameters` is the growing parameter list of the function that `builder` builds. With a `machine`, operators
        are lowered to the kernels for it, as chosen by `plans`; without one, to plain definitions.
        """
        super().__init__(builder)
        self.machine = machine
        self.plans = plans or Plans(machine)
        self.weights: list[tuple[str, Operand]] = []
        self.label = ""
        self.layers: list[Layer] = []
        self.sources: dict[str, int] = {}
        self.parameters = parameters
        self.lower_nodes: LowerNodes
        self.operand_of: Callable[[Value], Operand | None]
        self.define: Callable[[Value, Operand], None]
        self._weight_names: set[str] = set()
        self._weight_vars: dict[tuple[Hashable, ...], relax.Var] = {}
        self.wide: dict[Operand, Operand] = {}
        """Bytes that were converted to 16-bit integers, by the value that they were."""
        self.widens = False
        """Whether products of integers read 16-bit integers."""
        self._local: list[Operand] = []
        self._inside_layer = False

    # --- layers

    def begin(self, layer: Layer) -> None:
        """Attribute everything that is emitted from here on to `layer`."""
        self.label = clean_name(layer.names[0])
        if not self._inside_layer:
            self.layers.append(layer)

    @contextmanager
    def inside_layer(self) -> Iterator[None]:
        """Attribute everything that begins within the context to the current layer: the nodes of a function body."""
        outer, self._inside_layer = self._inside_layer, True
        try:
            yield
        finally:
            self._inside_layer = outer

    @contextmanager
    def branch(self) -> Iterator[list[relax.BindingBlock]]:
        """Collect what is emitted within the context in blocks (listed at the end) that are visible only there."""
        blocks: list[relax.BindingBlock] = []
        saved, local, wide = self.symbols.scope(), self._local, dict(self.wide)
        self._local = []
        self._depth += 1
        self.builder.begin_scope(None)
        compat.begin_block(self.builder)
        try:
            yield blocks
        finally:
            blocks.append(compat.end_block(self.builder))
            self.builder.end_scope()
            self.symbols.leave(saved)
            for operand in self._local:
                operand.expr = None
            self._local, self.wide = local, wide
            self._depth -= 1

    # --- values

    def constant(self, value: Any, dtype: str | None = None) -> Operand:
        return Operand.constant(np.asarray(value, None if dtype is None else np.dtype(dtype)))

    def scalars(self, operand: Operand) -> np.ndarray:
        """Return the elements of an integer operand as numbers and expressions, read at run time if necessary.

        Raises Declined if their number is not known, or they are not integers.
        """
        if operand.is_host:
            return operand.scalars()
        if operand.size is None:
            raise Declined("the number of elements of a shape-like input is not known at compile time")
        if operand.is_float:
            raise Declined("needs the value of a floating-point input at compile time")
        flat = self.te(flat_with_offset([int(d) for d in operand.shape], OFFSET), operand, name="sizes")
        names = [self.symbols.fresh("v", largest=2 * OFFSET, late=True) for _ in range(operand.size)]
        result = np.empty(operand.size, object)
        result[:] = [name - tirx.IntImm("int64", OFFSET) for name in names]
        if names:
            kind = relax.ShapeType(ndim=len(names))
            read = call_packed("vm.builtin.tensor_to_shape", self.tensor(flat), ty_args=kind)
            self.match_late(read, relax.ShapeType(names))
        if operand.dtype == "bool":
            result[:] = [tirx.NE(item, tirx.IntImm("int64", 0)) for item in result]
        return result.reshape([int(d) for d in operand.shape])

    def tensor(self, operand: Operand) -> relax.Expr:
        """Return the operand as an expression that a kernel can read."""
        if operand.expr is None:
            self.check_dtype(operand.dtype)
            if operand.elements is not None:
                operand.expr = self.te(_host_scalars(operand)).expr
                self._local.append(operand)
            elif operand.size == 0:
                operand.expr = self._nothing(operand.shape, operand.dtype).expr
                self._local.append(operand)
            elif operand.size is not None and operand.size * np.dtype(operand.dtype).itemsize > EMBED_BYTES:
                operand.expr = self._weight(operand)
            else:
                operand.expr = relax.const(tvm.runtime.tensor(np.asarray(operand.array, order="C")))
        return operand.expr

    def _nothing(self, shape: tuple[Dim, ...], dtype: str) -> Operand:
        """Return a tensor without elements: memory, and no constant, which TVM cannot read back."""
        memory = relax.op.builtin.alloc_tensor(relax.ShapeExpr(list(shape)), dtype, 0)
        return Operand(dtype, shape, expr=self.emit(memory))

    def check_dtype(self, dtype: str) -> None:
        if dtype not in TENSOR_TYPES:
            raise Declined(f"no kernels for element type {dtype}")

    def _weight(self, operand: Operand) -> relax.Var:
        """Return the parameter for a large constant: one for all constants with the same key."""
        if operand.key in self._weight_vars:
            return self._weight_vars[operand.key]
        name = unique(clean_name(operand.name or "weight"), self._weight_names)
        var = relax.Var(name, relax.TensorType([int(d) for d in operand.shape], operand.dtype))
        self.parameters.append(var)
        self.weights.append((name, operand))
        self._weight_vars[operand.key] = var
        return var

    # --- kernels

    def te(
        self, function: Compute, *operands: Operand, name: str = "", attributes: dict[str, Any] | None = None
    ) -> Operand:
        """Emit one kernel with one output; see `te_many`."""
        return self.te_many(function, *operands, name=name, attributes=attributes)[0]

    def te_many(
        self, function: Compute, *operands: Operand, name: str = "", attributes: dict[str, Any] | None = None
    ) -> list[Operand]:
        """Emit the kernel that `function` computes from one tensor per operand; return its outputs.

        `attributes` are those of the kernel. `function` may use any symbolic size of the model: those that its tensors
        do not have become parameters of the kernel.
        """
        arguments = [self.tensor(operand) for operand in operands]
        inputs = [
            te.placeholder([extent(d) for d in operand.shape], operand.dtype, name=f"x{i}")
            for i, operand in enumerate(operands)
        ]
        result = function(*inputs)
        outputs = [result] if isinstance(result, te.Tensor) else list(result)
        for output in outputs:
            self.check_dtype(str(output.dtype))
            assert all(isinstance(d, tirx.IntImm | tirx.Var) for d in output.shape), f"{self.label}: {output.shape}"
        shapes = [self.shape([plain(d) for d in output.shape]) for output in outputs]
        if all(is_empty(shape) for shape in shapes):  # TVM fails to fuse kernels that compute nothing
            return [self._nothing(shape, str(output.dtype)) for shape, output in zip(shapes, outputs)]
        extra = self._extra_symbols(inputs, outputs)
        kernel = s_tir.renew_defs(te.create_prim_func([*inputs, *extra, *outputs], "int64"))
        if extra and not operands:
            # TVM's fusion fails where the first argument of a function is a number and others are sizes alone.
            attributes = {"op_pattern": OPAQUE, **(attributes or {})}
        kernel = kernel.with_attrs(attributes) if attributes else kernel
        variable = self.builder.add_func(
            kernel.without_attr("global_symbol"), name or getattr(function, "__name__", "kernel")
        )
        types = [relax.TensorType(list(shape), str(output.dtype)) for shape, output in zip(shapes, outputs)]
        call = relax.call_tir(variable, [*arguments, *extra], types if len(types) > 1 else types[0])
        emitted = self.emit(call)
        if len(outputs) == 1:
            return [Operand(str(outputs[0].dtype), shapes[0], expr=emitted)]
        return [
            Operand(str(output.dtype), shape, expr=self.emit(relax.TupleGetItem(emitted, i)))
            for i, (shape, output) in enumerate(zip(shapes, outputs))
        ]

    def statement(
        self, build: Build, operands: Sequence[Operand], shape: Sequence[Dim], dtype: str, name: str
    ) -> Operand:
        """Emit a kernel given as a statement: `build` creates it from the buffers of the operands and the result.

        Nothing is fused with it. It may use any symbolic size of the model, like those of `te_many`.
        """
        arguments = [self.tensor(operand) for operand in operands]
        buffers = [
            tirx.decl_buffer([extent(d) for d in operand.shape], operand.dtype, f"x{i}", layout=None)
            for i, operand in enumerate(operands)
        ]
        sizes = self.shape(shape)
        if is_empty(sizes):
            return self._nothing(sizes, dtype)
        result = tirx.decl_buffer([extent(d) for d in sizes], dtype, "y", layout=None)
        body = build(buffers, result)
        carried = {dim for one in [*buffers, result] for dim in one.shape if isinstance(dim, tirx.Var)}
        used = tirx.analysis.undefined_vars(body, [*buffers, result])
        extra = [var for var in dict.fromkeys(used) if var in self.symbols and var not in carried]
        kernel = tirx.PrimFunc([*buffers, *extra, result], body)
        kernel = s_tir.renew_defs(kernel.with_attrs({"s_tir": True, "tirx.noalias": True, "op_pattern": OPAQUE}))
        variable = self.builder.add_func(kernel, name)
        call = relax.call_tir(variable, [*arguments, *extra], relax.TensorType(list(sizes), dtype))
        return Operand(dtype, sizes, expr=self.emit(call))

    def emit(self, expr: relax.Expr) -> relax.Var:
        """Bind an expression to a variable that carries the label of the node being lowered."""
        var = self.builder.emit(expr, name_hint=self.label)
        self.sources[var.name] = len(self.layers) - 1
        return var

    def _extra_symbols(self, inputs: Tensors, outputs: Tensors) -> list[tirx.Var]:
        """Return symbolic sizes that are used but not part of a shape, in an order that depends only on the kernel."""
        carried = {dim for tensor in [*inputs, *outputs] for dim in tensor.shape if isinstance(dim, tirx.Var)}
        body = te.create_prim_func([*inputs, *outputs], "int64").body
        used = list(tirx.analysis.undefined_vars(body))
        for tensor in [*inputs, *outputs]:
            for dim in tensor.shape:
                if not isinstance(dim, tirx.IntImm):
                    used += tirx.analysis.undefined_vars(dim)
        return [var for var in dict.fromkeys(used) if var in self.symbols and var not in carried]


def is_empty(shape: Sequence[Dim]) -> bool:
    """Return whether tensors of a shape certainly have no elements."""
    return any(isinstance(dim, int) and dim == 0 for dim in shape)


def plain(dim: Any) -> Dim:
    """Return a dimension with constants as Python ints."""
    return int(dim) if isinstance(dim, int | tirx.IntImm) else dim


def clean_name(name: str) -> str:
    """Replace everything in `name` that is not a letter, a digit or an underscore."""
    text = "".join(c if c.isascii() and c.isalnum() else "_" for c in name) or "value"
    return f"_{text}" if text[0].isdigit() else text


def scalar(value: Any, dtype: str) -> tirx.Expr:
    """Return a Python number or an integer expression as an expression of `dtype`."""
    if isinstance(value, bool | int | float | np.generic):
        return tirx.const(bool(value) if dtype == "bool" else value, dtype)
    return value.astype(dtype) if str(value.ty.dtype if hasattr(value, "ty") else value.dtype) != dtype else value


def _host_scalars(operand: Operand) -> Compute:
    assert operand.elements is not None
    elements = [scalar(item, operand.dtype) for item in operand.elements.ravel()]
    shape = operand.elements.shape

    def sizes() -> te.Tensor:
        def pick(*index: tirx.Expr) -> tirx.Expr:
            flat: Any = 0
            for i, size in zip(index, shape):
                flat = flat * size + i
            result = elements[-1]
            for place in range(len(elements) - 2, -1, -1):
                result = tirx.Select(flat == place, elements[place], result)
            return result

        return define(shape, pick, name="sizes")

    return sizes
