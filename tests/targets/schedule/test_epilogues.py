"""Chains of operators after a kernel: code that grows with the number of operators, and right results."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tvm
from tvm import te, tirx

import graphopt
from graphopt.driver.optimizing import run_passes
from graphopt.hardware.target import load
from graphopt.ir.facts import FACTS, Kind, Trait
from graphopt.proof.oracle import Reference
from graphopt.targets.tvm.codegen.build import tvm_target
from graphopt.targets.tvm.cpu import split
from graphopt.targets.tvm.cpu.pipeline import Cpu
from graphopt.targets.tvm.device import fuse_and_schedule
from graphopt.targets.tvm.lowering.lower import lower
from graphopt.targets.tvm.lowering.provenance import SCHEDULE
from graphopt.targets.tvm.machine import machine_of
from graphopt.targets.tvm.tir_passes.code_size import code_size
from graphopt.targets.tvm.tir_passes.pipeline import PIPELINE
from tests.helpers import model_of
from tests.targets.lowering.support import expected, noise, run_for_machine
from tests.targets.schedule.support import placeholder

CONV = "Conv<pads = [1, 1, 1, 1]>(x, w)"
FAMILIES = {
    "matmul": ("float[{n},64] x", "MatMul(x, w)", (64, 50), ""),
    "conv": ("float[{n},20,9,9] x", CONV, (24, 20, 3, 3), ""),
    "direct": ("float[{n},32,9,9] x", "Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w)", (48, 32, 3, 3), "layout"),
    "winograd": ("float[{n},64,28,28] x", CONV, (64, 64, 3, 3), "layout"),
    "depthwise": (
        "float[{n},32,9,9] x",
        "Conv<pads = [1, 1, 1, 1], group = 32>(x, w)",
        (32, 1, 3, 3),
        "layout",
    ),
    "pooling": (
        "float[{n},32,9,9] x",
        "MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(c)",
        (32, 32, 1, 1),
        "layout",
    ),
    "rows": ("float[{n},64] x", "Softmax(x)", (), ""),
    "generic": ("float[{n},50] x", "Neg(x)", (), ""),
}
"""For each: the input, the kernel, the shape of the weight `w`, and the passes that lead to the family."""

UNARY = sorted(
    op
    for op, facts in FACTS.items()
    if facts.kind == Kind.UNARY and Trait.PREDICATE not in facts.traits and op not in ("BitwiseNot", "Swish")
)
BINARY = ("Add", "Div", "Max", "Min", "Mul", "Pow", "PRelu", "Sub")
OPERATORS = [*UNARY, *BINARY]
MACHINES = ("x86:v2", "x86:znver3", "x86:v4", "arm")


def chains() -> Iterator[list[str]]:
    """Every elementwise operator, in chains of six."""
    for first in range(0, len(OPERATORS), 6):
        yield (OPERATORS[first:] + OPERATORS)[:6]


def text_of(family: str, operators: list[str], size: str) -> str:
    """A model: the family's kernel, and the operators after it with a quantization after each."""
    given, kernel, _, _ = FAMILIES[family]
    lines = [f"v0 = {kernel}"]
    if "(c)" in kernel:
        lines.insert(0, "c = Conv(x, w)")  # its result is in the layout with blocks of channels
    for number, op in enumerate(operators):
        call = f"{op}(v{number}, b)" if op in BINARY else f"{op}(v{number})"
        lines += [f"a{number} = {call}", f"q{number} = QuantizeLinear(a{number}, s, z)"]
        lines.append(f"v{number + 1} = DequantizeLinear(q{number}, s, z)")
    rank = given.count(",")
    y = f"float[{','.join('?' * (rank + 1))}] y"
    lines.append(f"y = Identity(v{len(operators)})")
    constants = "<float s = {0.02}, uint8 z = {128}, float b = {0.7}>"
    return (
        f'<ir_version: 10, opset_import: ["": 22]> g ({given.format(n=size)}) => ({y}) {constants}\n{{ '
        + "  ".join(lines)
        + " }"
    )


def weights_of(family: str) -> dict[str, np.ndarray]:
    shape = FAMILIES[family][2]
    return {"w": 0.1 * noise(*shape)} if shape else {}


def kernel_of(family: str, operators: list[str], size: str, target: str) -> tuple[tirx.PrimFunc, tvm.target.Target]:
    """The scheduled function of the family's kernel with all that follows it."""
    made_for = tvm_target(load(target))
    machine = machine_of(made_for)
    model = model_of(text_of(family, operators, size), weights_of(family))
    run_passes(model, ",".join(filter(None, ("infer-shapes", FAMILIES[family][3]))), target=target)
    with made_for:
        module = fuse_and_schedule(lower(model, machine).mod, made_for, Cpu(machine))
    found = [func for _, func in module.functions_items() if isinstance(func, tirx.PrimFunc)]
    (func,) = (func for func in found if str(func.attrs[SCHEDULE]).lower().startswith(family))
    return func, made_for


@pytest.mark.parametrize("family", FAMILIES)
def test_code_grows_with_the_number_of_operators(family: str) -> None:
    """Each of these reads its operand several times: copied into each other, six make hundreds of one."""
    often = ["Gelu", "Mish", "HardSwish", "Elu", "Selu", "Softsign"]
    size = "5" if family == "winograd" else "n"
    one, two = (code_size(kernel_of(family, often * times, size, "x86:znver3")[0]) for times in (1, 2))
    assert two < 2.2 * one


@pytest.mark.parametrize("family", FAMILIES)
def test_every_operator_after_every_family(family: str) -> None:
    """Code for each chain, on one kind of machine after the other, with the size of the batch known and not."""
    for number, operators in enumerate(chains()):
        target = MACHINES[number % len(MACHINES)]
        size = "5" if family == "winograd" or number // len(MACHINES) % 2 else "n"  # an open batch is not for Winograd
        func, made_for = kernel_of(family, operators, size, target)
        assert code_size(func) < split.MOST_OPERATIONS, (operators, target)
        with made_for:
            library = tvm.tirx.build(
                tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), made_for, pipeline=PIPELINE
            )
        assert len(library.inspect_source("asm").splitlines()) < 40_000, (operators, target)


@pytest.mark.parametrize("family", FAMILIES)
def test_long_epilogues_are_right(family: str) -> None:
    text = text_of(family, ["Gelu", "Tanh", "HardSwish", "Add", "Mish", "Erf"], "n")
    model = model_of(text, weights_of(family))
    inputs = {"x": 3 * noise(*(int(size) if size.isdigit() else 2 for size in FAMILIES[family][0][6:-3].split(",")))}
    if FAMILIES[family][3]:
        have = graphopt.compile(model, "host").run(inputs)["y"]
    else:
        ((have,),) = run_for_machine(text, inputs, weights=weights_of(family))
    with Reference(model) as reference:
        want = reference.run(inputs)["y"]
    assert len(np.unique(want)) > 3, "the operators leave something to compare"
    difference = np.abs(have - want)
    # A value on the border between two steps of the quantization may fall to either side.
    assert np.mean(difference > 1e-5) < 0.01
    assert difference.max() < 0.1


def test_a_function_of_too_much_code_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "MOST_OPERATIONS", 1000)
    operators = ["Gelu", "Tanh", "Mish", "Erf", "Sin", "Exp"]
    func, _ = kernel_of("matmul", operators, "n", "x86:znver3")
    assert "matmul, epilogue apart: together" in str(func.attrs[SCHEDULE])
    func, _ = kernel_of("matmul", ["Relu"], "n", "x86:znver3")
    assert "apart" not in str(func.attrs[SCHEDULE])
    text = text_of("matmul", operators, "n")
    for given in ({"x": noise(5, 64)}, {"x": noise(1, 64)}):
        ((have,),) = run_for_machine(text, given, weights=weights_of("matmul"))
        (want,) = expected(model_of(text, weights_of("matmul")), given)
        assert np.mean(np.abs(have - want) > 1e-5) < 0.01


def test_what_has_no_kernel_stays_whole() -> None:
    x = placeholder((8, 16))
    y = te.compute(x.shape, lambda i, j: x(i, j) + x(i, j), name="y")
    z = te.compute(x.shape, lambda i, j: y(i, j) * y(i, j), name="z")
    assert split.split(te.create_prim_func([x, z])) is None
