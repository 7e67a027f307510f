import numpy as np
import pytest

from graphopt.passes.cleanup.simplify_cast import SimplifyCast
from tests.helpers import check_declines, check_pass

DTYPES = {"bool": 9, "uint8": 2, "int8": 3, "int16": 5, "uint16": 4, "int32": 6, "int64": 7, "uint32": 12}
DTYPES |= {"float16": 10, "float": 1, "double": 11, "bfloat16": 16}


def chain(source: str, middle: str, target: str) -> str:
    return (
        f"g ({source}[N] X) => ({target}[N] Y) {{ a = Cast<to={DTYPES[middle]}>(X) Y = Cast<to={DTYPES[target]}>(a) }}"
    )


@pytest.mark.parametrize(
    ("source", "middle", "target"),
    [
        ("int32", "int64", "int8"),
        ("int32", "int64", "float"),
        ("uint8", "float", "int64"),
        ("int8", "float16", "float"),
        ("bool", "int32", "float"),
        ("int16", "int32", "uint8"),
        ("float16", "float", "bfloat16"),
        ("float", "double", "float16"),
        ("float", "double", "bool"),
        ("int32", "double", "float16"),
        ("uint16", "float", "uint32"),
    ],
)
def test_composes_where_the_first_cast_keeps_every_value(source, middle, target):
    ends = {
        "int32": [-(2**31), 2**31 - 1, 0, -1, 16777217],
        "uint8": [0, 255, 128],
        "int8": [-128, 127, 0],
        "bool": [0, 1],
        "int16": [-32768, 32767, 255, -1],
        "uint16": [0, 65535],
        "float16": [0.0, -0.0, 65504, -6e-8, np.inf, np.nan],
        "float": [0.0, -0.0, 3e38, 1e-45, 65519, 1.0009766, np.inf, -np.inf, np.nan],
    }[source]
    dtype = {"float": "float32"}.get(source, source)
    check_pass(
        SimplifyCast(),
        chain(source, middle, target),
        f"g ({source}[N] X) => ({target}[N] Y) {{ Y = Cast<to={DTYPES[target]}>(X) }}",
        inputs={"X": np.array(ends, dtype)},
        counts={"rewritten": 1},
    )


@pytest.mark.parametrize(
    ("source", "middle"),
    [("float", "double"), ("int32", "int64"), ("int8", "float"), ("bool", "uint8"), ("float16", "float")],
)
def test_there_and_back_is_nothing(source, middle):
    before = chain(source, middle, source).replace("[N] Y)", "[N] Z)").replace("Y = ", "Y = ")
    before = before.replace("}", " Z = Identity(Y) }")
    check_pass(SimplifyCast(), before, f"g ({source}[N] X) => ({source}[N] Z) {{ Z = Identity(X) }}")


@pytest.mark.parametrize(
    ("source", "middle", "target", "reason"),
    [
        ("float", "float16", "float", "float32 -> float16 does not keep every value"),
        ("int64", "int32", "int64", "int64 -> int32 does not keep every value"),
        ("int32", "float", "int32", "int32 -> float32 does not keep every value"),
        ("double", "float", "double", "float64 -> float32 does not keep every value"),
        ("float", "bool", "float", "float32 -> bool does not keep every value"),
        ("float16", "bfloat16", "float16", "float16 -> bfloat16 does not keep every value"),
        ("float", "double", "int32", "float to integer is not defined out of range"),
        ("int8", "float", "uint8", "float to integer is not defined out of range"),
    ],
)
def test_what_a_cast_loses_is_part_of_the_result(source, middle, target, reason):
    check_declines(SimplifyCast(), chain(source, middle, target), reason, times=1)


def test_strings_do_not_compose():
    check_declines(
        SimplifyCast(),
        "g (int64[N] X) => (float[N] Y) { a = Cast<to=8>(X) Y = Cast<to=1>(a) }",
        "a cast of strings, complex numbers or very small floats does not compose",
    )


def test_a_lone_cast_is_no_near_miss():
    check_declines(SimplifyCast(), "g (float[N] X) => (double[N] Y) { Y = Cast<to=11>(X) }")


def test_a_chain_of_many_becomes_one():
    check_pass(
        SimplifyCast(),
        "g (int8[N] X) => (double[N] Y) { a = Cast<to=5>(X) b = Cast<to=6>(a) c = Cast<to=7>(b) Y = Cast<to=11>(c) }",
        "g (int8[N] X) => (double[N] Y) { Y = Cast<to=11>(X) }",
        counts={"rewritten": 3},
    )


def test_the_middle_stays_where_it_is_an_output():
    check_pass(
        SimplifyCast(),
        "g (int32[N] X) => (int64[N] M, float[N] Y) { M = Cast<to=7>(X) Y = Cast<to=1>(M) }",
        "g (int32[N] X) => (int64[N] M, float[N] Y) { M = Cast<to=7>(X) Y = Cast<to=1>(X) }",
    )


def test_cast_like_frees_the_value_that_it_took_its_type_from():
    check_pass(
        SimplifyCast(),
        "g (int32[N] X, double[M] T) => (double[N] Y) { U = Exp(T) Y = CastLike(X, U) }",
        "g (int32[N] X, double[M] T) => (double[N] Y) { Y = Cast<to=11>(X) }",
    )


def test_an_old_cast_like_is_left_alone():
    header = '<ir_version: 8, opset_import: ["" : 17]>'
    check_declines(
        SimplifyCast(), header + "g (int32[N] X, double[M] T) => (double[N] Y) { Y = CastLike(X, T) }", "opset below 18"
    )


def test_in_a_nested_graph_that_captures():
    check_pass(
        SimplifyCast(),
        """g (bool c, float[N] X) => (float[N] Y) {
            d = Cast<to=11>(X)
            Y = If(c) <then_branch = t () => (float[N] a) { a = Cast<to=1>(d) },
                       else_branch = e () => (float[N] b) { b = Neg(X) }>
        }""",
        """g (bool c, float[N] X) => (float[N] Y) {
            Y = If(c) <then_branch = t () => (float[N] a) { a = Identity(X) },
                       else_branch = e () => (float[N] b) { b = Neg(X) }>
        }""",
        inputs=[{"c": np.array(c), "X": np.array([1, -0.0, np.nan], np.float32)} for c in (True, False)],
    )
