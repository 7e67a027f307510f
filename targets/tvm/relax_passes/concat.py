"""In-place concatenation: each operand is computed directly in its part of the result, and nothing is copied.

After FuseTIR, a kernel that computes an operand gets a variant whose result is a part of the whole tensor. The first
one allocates the whole, the others receive it (`call_tir_inplace`). Other consumers of the operand read that part of
the whole. An operand may be a concatenation itself, as in DenseNet: all then share one tensor. An operand that cannot
be computed in place (an input, a result that leaves the block) is copied by a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, relax, s_tir, te, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from graphopt.targets.tvm.kernels.depthwise import compute as depthwise
from graphopt.targets.tvm.kernels.direct import compute as direct
from graphopt.targets.tvm.kernels.lrn import compute as lrn
from graphopt.targets.tvm.kernels.pooling import compute as pooling
from graphopt.targets.tvm.kernels.winograd import compute as winograd

PLACEABLE = frozenset({direct.KERNEL, depthwise.KERNEL, pooling.KERNEL, lrn.KERNEL, winograd.KERNEL})
"""The families whose loop nests use the extents of what they compute, not those of the buffers."""

CONCAT = "graphopt.concat"
"""The attribute with the axis of a kernel that only concatenates its operands."""


@tvm.transform.module_pass(opt_level=0)
def place_pieces(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Apply the pass; to be run after FuseTIR, before scheduling and memory planning."""
    main = mod["main"]
    uses = _uses(main)
    places: dict[Any, _Place] = {}
    # From last to first, so that a concatenation of concatenations finds the outermost one.
    for binding in reversed(_bindings(main)):
        if _is_concat(binding, mod) and binding.var not in places and isinstance(binding.var, relax.DataflowVar):
            whole = _Whole(tuple(int(size) for size in binding.var.ty.shape), str(binding.var.ty.dtype))
            _place(binding.var, whole, 0, {b.var: b for b in _bindings(main)}, uses, mod, places)
    if not places:
        return mod
    rewriter = _InPlace(mod, places)
    rewriter.builder_.update_func(mod.get_global_var("main"), rewriter.visit_expr(main))
    return rewriter.builder_.finalize()


@dataclass(eq=False)
class _Whole:
    """A tensor that is written in parts; `var` is its name after the last write so far."""

    shape: tuple[int, ...]
    dtype: str
    var: Any = None


@dataclass(frozen=True)
class _Place:
    """The location of a value: `offset` elements from the beginning of an axis of a whole."""

    whole: _Whole
    axis: int
    offset: int
    is_joined: bool
    """Whether the value itself consists of parts, so that no kernel computes it."""


def _bindings(main: relax.Function) -> list[relax.VarBinding]:
    blocks = [block for block in main.body.blocks if isinstance(block, relax.DataflowBlock)]
    return [b for block in blocks for b in block.bindings if isinstance(b, relax.VarBinding)]


def _uses(main: relax.Function) -> dict[Any, list[relax.VarBinding | None]]:
    """Map variables to the bindings that read them, None for a use in anything but a binding's arguments."""
    found: dict[Any, list[relax.VarBinding | None]] = {}
    known = {binding.var: binding for binding in _bindings(main)}
    for block in main.body.blocks:
        for binding in block.bindings:
            reader = known.get(binding.var)
            value = getattr(binding, "value", None)
            arguments = list(_arguments(value)) if reader is not None else []
            for var in arguments:
                found.setdefault(var, []).append(reader)
            for var in relax.analysis.free_vars(value) if value is not None else ():
                if not any(var.same_as(argument) for argument in arguments):
                    found.setdefault(var, []).append(None)
    for var in relax.analysis.free_vars(main.body.body):
        found.setdefault(var, []).append(None)
    return found


def _arguments(value: Any) -> Iterator[Any]:
    """Yield the variables that a kernel call receives."""
    if _callee(value) is not None:
        yield from (argument for argument in value.args[1].fields if isinstance(argument, relax.Var))


def _callee(value: Any) -> ir.GlobalVar | None:
    """Return the kernel with one result that a value calls."""
    is_call = isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.call_tir"
    single = is_call and len(value.ty_args) == 1 and isinstance(value.ty_args[0], relax.TensorType)
    return value.args[0] if single and isinstance(value.args[1], relax.Tuple) else None


def _is_concat(binding: relax.VarBinding, mod: tvm.IRModule) -> bool:
    callee = _callee(binding.value)
    if callee is None or not mod[callee].attrs or CONCAT not in mod[callee].attrs:
        return False
    arguments = binding.value.args[1].fields
    shapes = [argument.ty.shape for argument in (binding.var, *arguments)]
    whole = all(isinstance(size, tirx.IntImm) for shape in shapes for size in shape)
    return whole and all(isinstance(argument, relax.Var) for argument in arguments)


def _place(
    var: Any,
    whole: _Whole,
    offset: int,
    bindings: dict[Any, relax.VarBinding],
    uses: dict[Any, list[relax.VarBinding | None]],
    mod: tvm.IRModule,
    places: dict[Any, _Place],
) -> None:
    """Assign a concatenation and its operands their places in a whole."""
    pending = [(var, offset)]
    while pending:
        joined, start = pending.pop()
        binding = bindings[joined]
        axis = int(mod[_callee(binding.value)].attrs[CONCAT])
        places[joined] = _Place(whole, axis, start, is_joined=True)
        for piece in binding.value.args[1].fields:
            size = int(piece.ty.shape[axis])
            made_by = bindings.get(piece)
            seen = sum(argument.same_as(piece) for argument in binding.value.args[1].fields)
            if made_by is not None and seen == 1 and piece not in places and isinstance(piece, relax.DataflowVar):
                readers = [use for use in uses[piece] if use is None or use.var not in places]
                if all(use is not None and _may_read(use, start, mod) for use in readers):
                    if _is_concat(made_by, mod) and int(mod[_callee(made_by.value)].attrs[CONCAT]) == axis:
                        pending.append((piece, start))
                    elif (callee := _callee(made_by.value)) is not None and _may_write(mod[callee]):
                        places[piece] = _Place(whole, axis, start, is_joined=False)
            start += size


def _may_read(reader: relax.VarBinding, offset: int, mod: tvm.IRModule) -> bool:
    """Return whether a kernel can read an operand that is a part of something larger.

    The loop nests of kernel families compute the addresses of their operands themselves, so the part must be at the
    beginning.
    """
    callee = _callee(reader.value)
    if callee is None or not isinstance(mod[callee], tirx.PrimFunc):
        return False
    kernels = _kernels(mod[callee])
    return not kernels or (offset == 0 and kernels <= PLACEABLE)


def _may_write(func: Any) -> bool:
    """Return whether a kernel has one static result that is written by blocks."""
    if not isinstance(func, tirx.PrimFunc) or not isinstance(func.body, s_tir.SBlockRealize):
        return False
    buffers = [param for param in func.params if tirx.is_buffer_var(param)]
    static = len(buffers) == len(func.params) and all(
        isinstance(size, tirx.IntImm) for buffer in buffers for size in buffer.shape
    )
    return static and _kernels(func) <= PLACEABLE


def _kernels(func: tirx.PrimFunc) -> set[str]:
    """Return the kernel families that the blocks of a function belong to."""
    found: list[Any] = []
    tvm_ffi.structural_walk(func.body, [(s_tir.SBlock, found.append)])
    return {str(block.annotations["kernel"]) for block in found if "kernel" in block.annotations}


def part_of(func: tirx.PrimFunc, index: int, shape: Sequence[int], axis: int, offset: int) -> tirx.PrimFunc:
    """Return `func` with parameter `index` as a part of a larger tensor of `shape`, from `offset` of `axis` on."""
    old = func.params[index]
    new = tirx.decl_buffer([tirx.IntImm("int64", size) for size in shape], old.dtype, old.name)

    def moved(indices: Sequence[Any]) -> list[Any]:
        return [place + offset if i == axis and offset else place for i, place in enumerate(indices)]

    def load(node: ir.TensorLoad) -> Any:
        return tirx.BufferLoad(new, moved(node.indices)) if node.source.same_as(old) else node

    def store(node: tirx.BufferStore) -> Any:
        return tirx.BufferStore(new, node.value, moved(node.indices)) if node.buffer.same_as(old) else node

    def region(node: ir.TensorRegion) -> Any:
        if not node.source.same_as(old):
            return node
        ranges = [
            ir.Range.from_min_extent(place, span.extent)
            for place, span in zip(moved([span.min for span in node.region]), node.region, strict=True)
        ]
        return tirx.BufferRegion(new, ranges)

    kinds = [(ir.TensorLoad, load), (tirx.BufferStore, store), (ir.TensorRegion, region)]
    params = [new if i == index else param for i, param in enumerate(func.params)]
    changed = tirx.PrimFunc(params, tvm_ffi.structural_map(func.body, kinds, order="post"), func.ret_type, func.attrs)
    return s_tir.renew_defs(changed)


@mutator
class _InPlace(PyExprMutator):
    """Rewrites the calls that compute, concatenate or read placed values."""

    def __init__(self, mod: tvm.IRModule, places: dict[Any, _Place]) -> None:
        super().__init__(mod)
        self.mod = mod
        self.places = places
        self.variants: dict[Any, ir.GlobalVar] = {}

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        place = self.places.get(binding.var)
        callee = _callee(binding.value)
        if place is not None and place.is_joined:
            self._join(binding, place)
            return
        placed = callee is not None and any(argument in self.places for argument in binding.value.args[1].fields)
        if place is None and not placed:
            super().visit_var_binding_(binding)
            return
        func = self._reading(callee, binding.value.args[1].fields)
        arguments = [self.visit_expr(argument) for argument in binding.value.args[1].fields]
        if place is None:
            call = relax.call_tir(self._added(callee, *func), arguments, binding.value.ty_args[0])
            self._bind(binding, call)
        else:
            key, made = func
            index = len(made.params) - 1
            made = part_of(made, index, place.whole.shape, place.axis, place.offset)
            name = self._added(callee, (*key, (index, place.whole.shape, place.axis, place.offset)), made)
            self.set_var_remap(binding.var, self._write(name, arguments, place.whole, binding.var.name))

    def _bind(self, binding: relax.VarBinding, call: relax.Call) -> None:
        emit = self.builder_.emit if isinstance(binding.var, relax.DataflowVar) else self.builder_.emit_output
        self.set_var_remap(binding.var, emit(call, binding.var.name))

    def _reading(self, callee: Any, arguments: Sequence[Any]) -> tuple[tuple[Any, ...], tirx.PrimFunc]:
        """Return the kernel that reads its placed operands in place, and what distinguishes it."""
        func: tirx.PrimFunc = self.mod[callee]
        key: tuple[Any, ...] = ()
        for index, argument in enumerate(arguments):
            place = self.places.get(argument)
            if place is not None:
                func = part_of(func, index, place.whole.shape, place.axis, place.offset)
                key = (*key, (index, place.whole.shape, place.axis, place.offset))
        return key, func

    def _added(self, callee: ir.GlobalVar, key: tuple[Any, ...], func: tirx.PrimFunc) -> ir.GlobalVar:
        if (callee, key) not in self.variants:
            self.variants[callee, key] = self.builder_.add_func(func, callee.name_hint)
        return self.variants[callee, key]

    def _write(self, name: ir.GlobalVar, arguments: list[Any], whole: _Whole, label: str) -> Any:
        """Call a kernel that writes a part of a whole; the first call allocates it."""
        kind = relax.TensorType(list(whole.shape), whole.dtype)
        if whole.var is None:
            call = relax.call_tir(name, arguments, kind)
        else:
            call = relax.op.call_tir_inplace(name, relax.Tuple([*arguments, whole.var]), [len(arguments)], kind)
        whole.var = self.builder_.emit(call, label)
        return whole.var

    def _join(self, binding: relax.VarBinding, place: _Place) -> None:
        """Copy missing parts; from here on, the concatenation is the whole, or a part of it."""
        offset = place.offset
        for piece in binding.value.args[1].fields:
            there = self.places.get(piece)
            if there is None or there.whole is not place.whole or there.offset != offset:
                copy = _copy([int(size) for size in piece.ty.shape], place.whole.dtype)
                if there is not None:
                    copy = part_of(copy, 0, there.whole.shape, there.axis, there.offset)
                copy = part_of(copy, 1, place.whole.shape, place.axis, offset)
                name = self.builder_.add_func(copy, "copy")
                self._write(name, [self.visit_expr(piece)], place.whole, binding.var.name)
            offset += int(piece.ty.shape[place.axis])
        self.set_var_remap(binding.var, place.whole.var)


def _copy(shape: Sequence[int], dtype: str) -> tirx.PrimFunc:
    """Return a kernel that copies a tensor."""
    data = te.placeholder([tirx.IntImm("int64", size) for size in shape], dtype, name="x")
    result = te.compute(data.shape, lambda *index: data(*index), name="copy")
    return te.create_prim_func([data, result], "int64").without_attr("global_symbol")
