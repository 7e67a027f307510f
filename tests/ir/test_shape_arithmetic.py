"""Shape arithmetic: on numbers bit-identical to ONNX Runtime, on symbols as defined by an algebra."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.ir import DType
from graphopt.ir.algebra import Algebra, Element, NotRepresentable
from graphopt.ir.shape_arithmetic import LARGEST, Known, evaluate, listed, shape_of, size_of
from graphopt.proof.oracle import run_reference
from tests.helpers import model_of

pytestmark = pytest.mark.filterwarnings("ignore:g. 'y' is declared")  # one type for the results of all operators

INTS = np.array([3, -4, 0, 7, 2**40], np.int64)
FLOATS = np.array([0.1, -2.5, 3.0, 1e30, -0.0], np.float32)
VALUES: dict[str, np.ndarray] = {
    "i": INTS,
    "j": np.array([2, -3, 5, 1, 9], np.int64),
    "s": np.array(3, np.int64),
    "unit": np.array(1, np.int64),
    "n": np.array([5, 6, 7], np.int32),
    "f": FLOATS,
    "g": np.array([0.3, 0.0, -7.0, 1e30, 2.0], np.float32),
    "b": np.array([True, False, True, False, True]),
    "c": np.array([True, True, False, False, True]),
    "m": np.arange(6).reshape(2, 3),
    "e": np.array([], np.int64),
    "zero": np.array([0], np.int64),
    "one": np.array([1], np.int64),
    "two": np.array([2], np.int64),
    "minus": np.array([-1], np.int64),
    "least": np.array([-(2**63)], np.int64),
    "target": np.array([3, -1], np.int64),
    "pair": np.array([0, 2], np.int64),
    "outside": np.array([7, 8], np.int64),
    "huge": np.array([2**63 - 1], np.int64),
    "inf": np.array([np.inf], np.float32),
    "limit": np.array(12, np.int64),
    "step": np.array(4, np.int64),
}
BODIES = [
    *(f"{op}(i, j)" for op in ("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Equal", "Less", "Greater")),
    *(f"{op}(f, g)" for op in ("Add", "Sub", "Mul", "Div", "Min", "Max", "Equal", "LessOrEqual", "GreaterOrEqual")),
    *("And(b, c)", "Or(b, c)", "Not(b)", "Neg(i)", "Neg(f)", "Floor(f)", "Ceil(f)", "Add(i, s)", "Sub(n, n)"),
    *("Min(i)", "Max(i, j, s)", "Cast<to=1>(i)", "Cast<to=7>(n)", "Cast<to=9>(f)", "Cast<to=6>(j)", "Cast<to=1>(b)"),
    *("Where(b, i, j)", "Where(c, g, f)", "Identity(m)", "Transpose(m)", "Flatten(m)", "Tile(j, two)"),
    *(
        "Concat<axis=0>(i, e, j)",
        "Concat<axis=-1>(m, m)",
        "Gather(i, minus)",
        "Gather<axis=1>(m, pair)",
        "Gather(m, unit)",
    ),
    *("Squeeze(one)", "Squeeze(one, zero)", "Unsqueeze(i, zero)", "Unsqueeze(s, zero)", "Reshape(m, target)"),
    *("Reshape(e, zero)", "Expand(one, two)", "Slice(i, one, two)", "Slice(i, minus, least, zero, minus)"),
    *("Slice(m, one, two, one)", "Slice(m, minus, one, minus, minus)", "Slice(i, least, least, zero, minus)"),
    *("Slice(e, least, least, zero, minus)", "ConstantOfShape<value=int64[1]{7}>(two)"),
    *("ReduceProd(j, zero)", "ReduceSum<keepdims=0>(i)", "ReduceMin(i)", "ReduceMax<keepdims=0>(n, minus)"),
    *("ReduceProd(e, zero)", "ReduceSum<noop_with_empty_axes=1>(j, e)", "Range(s, limit, step)"),
]


def known(array: np.ndarray) -> Known:
    elements = np.empty(array.shape, object)
    elements[...] = array.astype(object)
    return Known(elements, DType.of(array))


def type_text(array: np.ndarray) -> str:
    """The type in ONNX's syntax."""
    shape = f"[{','.join(map(str, array.shape))}]" if array.ndim else ""
    return DType.of(array).text.replace("float32", "float") + shape


class Names(Algebra):
    """Symbols are texts."""

    def symbolic(self, op: str, dtype: DType, *operands: Element) -> Element:
        return f"{op}({','.join(map(str, operands))})"


def node_and_inputs(body: str) -> tuple[Any, list[Known | None]]:
    model = model_of(f"g () => (float[A,B] y) {{ y = {body} }}", VALUES)
    node = next(node for node in model.graph.nodes if node.op != "Constant")
    return node, [None if v is None else known(VALUES[v.name]) for v in node.inputs]


@pytest.mark.parametrize("body", BODIES)
def test_numbers(body: str) -> None:
    node, inputs = node_and_inputs(body)
    found = evaluate(node, inputs, Names())
    assert found is not None
    given = {f"x{i}": np.asarray(k.elements, k.dtype.numpy) for i, k in enumerate(inputs) if k is not None}
    text = ", ".join(f"{type_text(array)} {name}" for name, array in given.items())
    call = body.partition("(")[0] + f"({', '.join(given)})"
    result = np.asarray(found[0].elements, found[0].dtype.numpy)
    expected = run_reference(model_of(f"g ({text}) => ({type_text(result)} y) {{ y = {call} }}"), given)["y"]
    assert isinstance(expected, np.ndarray)
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    assert result.tobytes() == expected.tobytes()


def test_split_with_and_without_sizes() -> None:
    model = model_of("g (int64[5] x) => (int64[3] p, int64[2] q) { p, q = Split<num_outputs=2>(x) }")
    found = evaluate(next(iter(model.graph.nodes)), [known(INTS)], Names())
    assert found is not None
    assert [list(part.elements) for part in found] == [[3, -4, 0], [7, 2**40]]


@pytest.mark.parametrize(
    "body", ["Div(i, zero)", "Mod(i, zero)", "Mul(i, i)", "Add(huge, one)", "Cast<to=6>(i)", "Cast<to=7>(inf)"]
)
def test_what_no_number_is(body: str) -> None:
    node, inputs = node_and_inputs(body)
    assert evaluate(node, inputs, Names()) is None


@pytest.mark.parametrize(
    "body", ["Gather(j, outside)", "Reshape(m, two)", "Concat<axis=3>(i, j)", "Squeeze(outside, zero)"]
)
def test_what_is_wrong_raises(body: str) -> None:
    node, inputs = node_and_inputs(body)
    with pytest.raises((ValueError, IndexError)):
        evaluate(node, inputs, Names())


def test_symbols_are_moved_and_combined() -> None:
    node, _ = node_and_inputs("Mul(i, two)")
    found = evaluate(node, [Known(listed(["a", 4]), DType.INT64), known(VALUES["two"])], Names())
    assert found is not None
    assert list(found[0].elements) == ["Mul(a,2)", 8]
    node, _ = node_and_inputs("Where(b, i, j)")
    condition = Known(listed([True, False, "c"]), DType.BOOL)
    branches = [Known(listed(["a", 1, 2]), DType.INT64), Known(listed([0, "b", 3]), DType.INT64)]
    found = evaluate(node, [condition, *branches], Names())
    assert found is not None
    assert list(found[0].elements) == ["a", "b", "Where(c,2,3)"]
    node, _ = node_and_inputs("Reshape(m, target)")
    assert evaluate(node, [known(VALUES["m"]), Known(listed(["a", 2]), DType.INT64)], Names()) is None


def test_conditions_with_one_number() -> None:
    algebra = Names()
    assert algebra.apply("And", DType.BOOL, "a", False) is False
    assert algebra.apply("And", DType.BOOL, True, "a") == "a"
    assert algebra.apply("Or", DType.BOOL, "a", True) is True
    assert algebra.apply("Or", DType.BOOL, False, "a") == "a"


def test_shapes_and_sizes() -> None:
    model = model_of("g (float[N,3,M] x) => (int64[2] y) { y = Shape<start=-2>(x) }")
    node = next(iter(model.graph.nodes))
    assert list(shape_of(node, ["N", 3, "M"]).elements) == [3, "M"]
    assert size_of([2, 3], Names()).elements.item() == 6
    assert size_of(["N", 3], Names()).elements.item() == "Mul(Mul(1,N),3)"
    with pytest.raises(NotRepresentable):
        size_of([2**40, 2**40], Names())


def test_large_tensors_are_left_to_kernels() -> None:
    node, _ = node_and_inputs("Neg(i)")
    assert evaluate(node, [known(np.zeros(LARGEST + 1, np.int64))], Names()) is None
    node, _ = node_and_inputs("Expand(one, two)")
    assert evaluate(node, [known(VALUES["one"]), known(np.array([LARGEST + 1]))], Names()) is None
