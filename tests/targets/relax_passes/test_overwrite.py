"""Results that overwrite operands in place: only without later reads, and with the same numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from tvm import relax, te, topi

from graphopt import optimize
from graphopt.driver import compiling as compiler
from graphopt.ir import Model
from graphopt.runtime.session import load
from graphopt.targets.tvm.cpu.pipeline import Cpu
from graphopt.targets.tvm.cpu.schedule import schedule
from graphopt.targets.tvm.device import fuse_and_schedule
from graphopt.targets.tvm.lowering.lower import lower
from graphopt.targets.tvm.machine import machine_of
from graphopt.targets.tvm.relax_passes.overwrite import OVERWRITABLE, note_overwritable, overwrite
from tests.helpers import model_of
from tests.targets.lowering.support import expected, noise

OVERWRITTEN = {
    "a residual": """g (float[1,16,6,6] X) => (float[1,16,6,6] Y) {
        a = Conv (X, u)  t = Conv (a, u)  b = Conv (t, u)  c = Add (b, a)  Y = Conv (c, u) }""",
    "a residual through an activation": """g (float[2,16,5,7] X) => (float[2,16,5,7] Y) {
        a = Conv (X, u)  t = Conv <pads = [1,1,1,1]> (X, m)  b = Relu (a)  s = Add (t, b)  c = Relu (s)
        Y = Conv (c, u) }""",
    "after a Winograd convolution": """g (float[1,16,27,29] X) => (float[1,16,27,29] Y) {
        a = Conv (X, u)  t = Conv (a, u)  b = Conv <pads = [1,1,1,1]> (t, m)  c = Add (a, b)  Y = Conv (c, u) }""",
    "after a product": """g (float[7,16] X) => (float[7,16] Y) {
        a = MatMul (X, q)  b = Softmax (a)  c = MatMul (b, q)  d = Add (c, a)  Y = MatMul (d, q) }""",
    "a size that is open": """g (float[N,16] X) => (float[N,16] Y) {
        a = MatMul (X, q)  b = Softmax (a)  c = MatMul (b, q)  d = Add (c, a)  Y = MatMul (d, q) }""",
    "through a view": """g (float[4,16] X) => (float[8,8] Y) {
        a = MatMul (X, q)  v = Reshape (a, to)  b = Softmax (v)  c = Softmax <axis = 0> (v)  d = Add (b, c)
        e = Sub (d, v)     Y = Softmax (e) }""",
}
KEPT = {
    "read again": """g (float[1,16,6,6] X) => (float[1,16,6,6] Y, float[1,16,6,6] Z) {
        a = Conv (X, u)  t = Conv (a, u)  b = Conv (t, u)  c = Add (b, a)  Y = Conv (c, u)
        Z = Conv <pads = [1,1,1,1]> (a, m) }""",
    "read by the convolution itself": """g (float[1,16,6,6] X) => (float[1,16,6,6] Y) {
        a = Conv (X, u)  b = Conv (a, u)  c = Add (b, a)  Y = Conv (c, u) }""",
    "an input": """g (float[4,16] X) => (float[4,16] Y) {
        a = MatMul (X, q)  b = Softmax (a)  c = MatMul (b, q)  d = Add (c, X)  Y = MatMul (d, q) }""",
    "a weight": """g (float[16,16] X) => (float[16,16] Y) {
        a = MatMul (X, q)  b = Softmax (a)  c = MatMul (b, q)  d = Add (c, q)  Y = MatMul (d, q) }""",
    "a result": """g (float[4,16] X) => (float[4,16] Y, float[4,16] Z) {
        Z = MatMul (X, q)  b = Softmax (Z)  c = MatMul (b, q)  d = Add (c, Z)  Y = MatMul (d, q) }""",
    "a result alone": "g (float[4,16] X) => (float[4,16] Y) { a = MatMul (X, q)  b = MatMul (a, q)  Y = Add (a, b) }",
    "read elsewhere too": """g (float[4,4] X) => (float[4,4] Y) {
        a = Softmax (X)  b = Transpose <perm = [1,0]> (a)  c = Add (a, b)  Y = Softmax (c) }""",
    "read by the product itself": """g (float[16,16] X) => (float[16,16] Y) {
        a = Softmax (X)  b = MatMul (a, q)  c = Add (b, a)  Y = Softmax (c) }""",
    "its view is read again": """g (float[4,16] X) => (float[4,16] Y, float[8,8] Z) {
        a = MatMul (X, q)  v = Reshape (a, to)  b = Softmax (a)  c = MatMul (b, q)  d = Add (c, a)
        Y = MatMul (d, q)  Z = Softmax (v) }""",
    "another shape": """g (float[4,16] X) => (float[4,16] Y) {
        a = MatMul (X, q)  m = ReduceMax <keepdims = 1> (a, axes)  t = MatMul (X, q)  b = Softmax (t)
        c = MatMul (b, q)  d = Add (c, m)  Y = MatMul (d, q) }""",
}
WEIGHTS = {
    "u": noise(16, 16, 1, 1) / 4,
    "m": noise(16, 16, 3, 3) / 12,
    "q": noise(16, 16) / 4,
    "axes": np.array([1]),
    "to": np.array([8, 8]),
}


def _model(text: str) -> Model:
    return model_of(text, {name: array for name, array in WEIGHTS.items() if re.search(rf"\b{name}\b", text)})


def _in_place(model: Model) -> int:
    """Return how many calls of the scheduled module overwrite an operand."""
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"})
    optimized, _ = optimize(model, "default,infer-shapes,layout,assign-layout{block=8}")
    main = fuse_and_schedule(lower(optimized).mod, target, Cpu(machine_of(target)))["main"]
    values = [getattr(binding, "value", None) for block in main.body.blocks for binding in block.bindings]
    return sum(getattr(getattr(value, "op", None), "name", "") == "relax.call_tir_inplace" for value in values)


def _check(model: Model) -> None:
    """Compile with all passes, run twice, compare with ONNX Runtime."""
    sizes = {value.name: [dim if isinstance(dim, int) else 5 for dim in value.shape] for value in model.graph.inputs}
    given = {value.name: noise(*sizes[value.name], seed=7) for value in model.graph.inputs if value.tensor is None}
    artifact = compiler.compile(model, inputs={})
    session = load(artifact.folder, threads=2)
    for _ in range(2):  # what the first run left in memory must not matter
        found = session.run(given)
        for output, want in zip(model.graph.outputs, expected(model, given), strict=True):
            np.testing.assert_allclose(found[output.name], want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("text", OVERWRITTEN.values(), ids=OVERWRITTEN.keys())
def test_overwrites(text: str) -> None:
    assert _in_place(_model(text)) >= 1
    _check(_model(text))


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT.keys())
def test_keeps(text: str) -> None:
    assert _in_place(_model(text)) == 0
    _check(_model(text))


def _written_over(mod: tvm.IRModule) -> list[str]:
    """The kernels of a module that write over an operand, in order."""
    values = [getattr(binding, "value", None) for block in mod["main"].body.blocks for binding in block.bindings]
    calls = [value for value in values if getattr(getattr(value, "op", None), "name", "") == "relax.call_tir_inplace"]
    return [call.args[0].name_hint.rstrip("0123456789") for call in calls]


def test_keeps_an_operand_that_is_given_twice() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([8], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            a = builder.emit_te(topi.negative, x)
            twice = builder.emit_te(topi.add, a, builder.emit(relax.op.reshape(a, [8])))
            once = builder.emit_te(topi.negative, twice)
            result = builder.emit_output(builder.emit_te(topi.sum, once))
        builder.emit_func_output(result)
    assert _written_over(overwrite(note_overwritable(builder.get()))) == ["negative"]


@pytest.mark.parametrize(("rows", "columns"), [(13, 11), (16, 8)])
def test_keeps_what_overlapping_tiles_would_read_again(rows: int, columns: int) -> None:
    def turned_sum(a: te.Tensor, b: te.Tensor) -> te.Tensor:
        return te.compute(a.shape, lambda i, j: a[i, j] + b[j, i], name="turned_sum")

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([rows, columns], "float32"))
    y = relax.Var("y", relax.TensorType([columns, rows], "float32"))
    with builder.function("main", [x, y]):
        with builder.dataflow():
            a = builder.emit_te(topi.negative, x)
            b = builder.emit_te(turned_sum, a, y)
            result = builder.emit_output(builder.emit_te(topi.sum, builder.emit_te(topi.negative, b)))
        builder.emit_func_output(result)
    mod = note_overwritable(builder.get())
    assert list(mod["turned_sum"].attrs[OVERWRITABLE]) == [0]
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"})
    assert _written_over(overwrite(schedule(mod, machine_of(target)))) == ["negative"]
