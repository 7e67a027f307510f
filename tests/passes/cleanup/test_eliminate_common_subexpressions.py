import numpy as np
import pytest

from graphopt.ir.text import parse
from graphopt.passes.cleanup.eliminate_common_subexpressions import EliminateCommonSubexpressions
from graphopt.rewriting.pipeline import PassManager, Pipeline
from tests.helpers import check_declines, check_pass

CSE = EliminateCommonSubexpressions()


def test_equal_expressions_and_those_that_become_equal():
    check_pass(
        CSE,
        """g (float[N] X) => (float[N] Y) {
            a = Exp(X) b = Exp(X) c = Neg(a) d = Neg(b) e = Mul(a, c) f = Mul(b, d) Y = Sub(e, f)
        }""",
        "g (float[N] X) => (float[N] Y) { a = Exp(X) c = Neg(a) e = Mul(a, c) Y = Sub(e, e) }",
        counts={"merged": 3},
    )


def test_small_constants_count_by_their_contents():
    check_pass(
        CSE,
        """g (float[4] X) => (float[4] Y) <float[2] u = {1, nan}, float[2] v = {1, nan}, int64[1] s = {2}> {
            a = Concat<axis=0>(u, X) b = Concat<axis=0>(v, X)
            t = Constant<value_ints=[2]>() e = Constant<value_ints=[6]>() f = Constant<value=int64[1] {6}>()
            c = Slice(a, s, e) d = Slice(b, t, f) Y = Sub(c, d)
        }""",
        """g (float[4] X) => (float[4] Y) <int64[1] s = {2}, int64[1] e = {6}> {
            a = Concat<axis=0>(u, X) c = Slice(a, s, e) Y = Sub(c, c)
        }""",
        counts={"merged": 2},
        weights={"u": np.array([1, np.nan], np.float32)},
    )


def test_the_order_of_a_sum_does_not_matter_that_of_a_difference_does():
    check_pass(
        CSE,
        """g (float[N] X, float[N] Z) => (float[N] Y) {
            a = Add(X, Z) b = Add(Z, X) c = Sub(X, Z) d = Sub(Z, X) e = Mul(a, b) f = Mul(c, d) Y = Add(e, f)
        }""",
        ops={"Add": 2, "Sub": 2, "Mul": 2},
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Softmax<axis=0>(X)", "Softmax<axis=1>(X)"),
        ("Exp(X)", "Neg(X)"),
        ("LeakyRelu<alpha=0.0>(X)", "LeakyRelu<alpha=-0.0>(X)"),
        ("Add(X, zero)", "Add(X, minus_zero)"),
        ("Cast<to=11>(X)", "Cast<to=10>(X)"),
        ("Max(X, X)", "Max(X)"),
        ("Clip(X, , one)", "Clip(X, one, )"),
        ("Mul(X, one)", "Mul(X, half_one)"),
    ],
)
def test_what_differs_a_little_stays(one, other):
    check_declines(
        CSE,
        f"""g (float[2,2] X) => (float[2,2] Y)
            <float zero = {{0}}, float minus_zero = {{-0.0}}, float one = {{1}}, float[1] half_one = {{1}}> {{
            a = {one} b = {other} c = Cast<to=1>(a) d = Cast<to=1>(b) Y = Sub(c, d)
        }}""".replace("c = Cast<to=1>(a)", "c = Cast<to=1, saturate=0>(a)"),
    )


@pytest.mark.parametrize(
    "draw",
    ["RandomNormalLike<seed=1.0>(X)", "RandomUniformLike(X)", "Bernoulli(X)", "Dropout(X, half, yes)"],
)
def test_random_numbers_are_drawn_again(draw):
    check_declines(
        CSE,
        f"""g (float[4] X) => (float[4] Y) <float half = {{0.5}}, bool yes = {{1}}> {{
            a = {draw} b = {draw} Y = Sub(a, b)
        }}""",
    )


def test_dropout_at_inference_is_like_any_other():
    check_pass(
        CSE,
        "g (float[4] X) => (float[4] Y) { a = Dropout(X) b = Dropout(X) Y = Sub(a, b) }",
        "g (float[4] X) => (float[4] Y) { a = Dropout(X) Y = Sub(a, a) }",
    )


def test_other_domains_and_functions_may_keep_a_state():
    check_declines(
        CSE,
        """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1, "own" : 1]>
        g (float[4] X) => (float[4] Y, float[4] Z) {
            a = com.microsoft.Gelu(X) b = com.microsoft.Gelu(X) Y = Sub(a, b)
            c = own.noise(X) d = own.noise(X) Z = Sub(c, d)
        }
        <opset_import: ["" : 21], domain: "own"> noise (x) => (y) { y = RandomNormalLike(x) }""",
    )


def test_a_nested_graph_uses_what_was_computed_outside():
    check_pass(
        CSE,
        """g (bool c, float[N] X) => (float[N] Y) {
            a = Exp(X)
            p = If(c) <then_branch = t () => (float[N] r) { q = Exp(X) r = Neg(q) },
                       else_branch = e () => (float[N] s) { s = Exp(X) }>
            Y = Mul(a, p)
        }""",
        """g (bool c, float[N] X) => (float[N] Y) {
            a = Exp(X)
            p = If(c) <then_branch = t () => (float[N] r) { r = Neg(a) },
                       else_branch = e () => (float[N] s) { s = Identity(a) }>
            Y = Mul(a, p)
        }""",
        counts={"merged": 2},
    )


def test_never_the_other_way_round():
    check_declines(
        CSE,
        """g (bool c, float[N] X) => (float[N] Y) {
            p = If(c) <then_branch = t () => (float[N] r) { q = Exp(X) r = Neg(q) },
                       else_branch = e () => (float[N] s) { u = Exp(X) s = Abs(u) }>
            a = Exp(X)
            Y = Mul(a, p)
        }""",
    )


def test_both_are_outputs():
    check_pass(
        CSE,
        "g (float[N] X) => (float[N] Y, float[N] Z) { Y = Exp(X) Z = Exp(X) }",
        "g (float[N] X) => (float[N] Y, float[N] Z) { Y = Exp(X) Z = Identity(Y) }",
    )


def test_the_second_is_an_output():
    check_pass(
        CSE,
        "g (float[N] X) => (float[N] Z, float[N] Y) { a = Exp(X) Z = Exp(X) Y = Neg(a) }",
        "g (float[N] X) => (float[N] Z, float[N] Y) { Z = Exp(X) Y = Neg(Z) }",
    )


def test_identities_at_outputs_stay():
    check_declines(CSE, "g (float[N] X) => (float[N] Y, float[N] Z) { Y = Identity(X) Z = Identity(X) }")


def test_another_number_of_outputs_is_another_expression():
    check_declines(
        CSE,
        """g (float[2,3] X) => (float[2,3] Y, float[2,1] M) <float[3] s = {1,2,3}> {
            a = LayerNormalization(X, s) b, M = LayerNormalization(X, s) Y = Sub(a, b)
        }""",
    )


def test_all_outputs_are_merged():
    check_pass(
        CSE,
        """g (float[4,2] X) => (float[2,2] Y) {
            a, b = Split<num_outputs=2>(X) c, d = Split<num_outputs=2>(X) Y = Sum(a, b, c, d)
        }""",
        "g (float[4,2] X) => (float[2,2] Y) { a, b = Split<num_outputs=2>(X) Y = Sum(a, b, a, b) }",
    )


def test_many_equal_chains_collapse_in_one_run():
    width, depth = 40, 100
    lines = [f"v{w}_{d + 1} = Neg(v{w}_{d})" for d in range(depth) for w in range(width)]
    starts = [f"v{w}_0 = Exp(X)" for w in range(width)]
    sum_ = ", ".join(f"v{w}_{depth}" for w in range(width))
    header = '<ir_version: 10, opset_import: ["" : 21]>'
    body = " ".join([*starts, *lines])
    model = parse(f"{header} g (float[2] X) => (float[2] Y) {{ {body} Y = Sum({sum_}) }}")
    PassManager(Pipeline.of(CSE)).run(model)
    assert len(model.graph.nodes) == depth + 2
