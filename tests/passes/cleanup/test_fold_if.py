import numpy as np
import onnx
import pytest

from graphopt import io
from graphopt.passes.cleanup.fold_if import FoldIf
from tests.helpers import check_declines, check_pass, parse_proto

BRANCHES = """<then_branch = t () => (float[N] a) { s = Exp(Z) a = Add(s, Z) },
               else_branch = e () => (float[N] b) { b = Neg(X) }>"""


@pytest.mark.parametrize(("condition", "body"), [("1", "Z = Abs(X) s = Exp(Z) Y = Add(s, Z)"), ("0", "Y = Neg(X)")])
def test_takes_the_branch_with_its_captures(condition, body):
    check_pass(
        FoldIf(),
        f"g (float[N] X) => (float[N] Y) <bool c = {{{condition}}}> {{ Z = Abs(X) Y = If(c) {BRANCHES} }}",
        f"g (float[N] X) => (float[N] Y) {{ {body} }}",
        counts={"rewritten": 1},
    )


def test_a_condition_of_one_element_in_a_list_and_a_constant_node():
    check_pass(
        FoldIf(),
        f"""g (float[N] X) => (float[N] Y) {{
            c = Constant<value = bool[1] {{1}}>() Z = Abs(X) Y = If(c) {BRANCHES}
        }}""",
        "g (float[N] X) => (float[N] Y) { Z = Abs(X) s = Exp(Z) Y = Add(s, Z) }",
    )


def test_names_of_the_branch_that_are_taken_outside():
    check_pass(
        FoldIf(),
        """g (float[N] X) => (float[N] Y, float[N] s) <bool c = {1}> {
            Y = If(c) <then_branch = t () => (float[N] a) { r = Exp(X) a = Neg(r) },
                       else_branch = e () => (float[N] b) { b = Neg(X) }>
            r = Abs(Y)
            s = Sqrt(r)
        }""",
        "g (float[N] X) => (float[N] Y, float[N] s) { q = Exp(X) Y = Neg(q) r = Abs(Y) s = Sqrt(r) }",
    )


def test_several_outputs_and_a_branch_that_gives_out_a_weight():
    check_pass(
        FoldIf(),
        """g (float[2] X) => (float[2] Y, float[2] Z) <bool c = {0}> {
            p, q = If(c) <then_branch = t () => (float[2] a, float[2] b) { a = Exp(X) b = Neg(X) },
                          else_branch = e () => (float[2] d, float[2] f)
                              <float[2] w = {1.5, -2}> { d = Abs(X) f = Identity(w) }>
            Y = Relu(p)
            Z = Add(q, X)
        }""",
        "g (float[2] X) => (float[2] Y, float[2] Z) { d = Abs(X) f = Identity(w) Y = Relu(d) Z = Add(f, X) }",
    )


def test_an_if_in_the_branch_of_an_if():
    check_pass(
        FoldIf(),
        """g (bool d, float[N] X) => (float[N] Y) <bool c = {1}> {
            Y = If(d) <
                then_branch = t () => (float[N] a) {
                    a = If(c) <then_branch = tt () => (float[N] p) { p = Exp(X) },
                               else_branch = te () => (float[N] q) { q = Abs(X) }> },
                else_branch = e () => (float[N] b) { b = Neg(X) }>
        }""",
        """g (bool d, float[N] X) => (float[N] Y) {
            Y = If(d) <then_branch = t () => (float[N] a) { a = Exp(X) },
                       else_branch = e () => (float[N] b) { b = Neg(X) }>
        }""",
    )


def test_a_condition_computed_at_run_time_stays():
    check_declines(
        FoldIf(),
        f"g (bool c, float[N] X) => (float[N] Y) {{ Z = Abs(X) Y = If(c) {BRANCHES} }}",
        "the condition is not constant",
    )


def test_a_condition_that_the_caller_may_override_stays():
    check_declines(
        FoldIf(),
        f"g (float[N] X, bool c = {{1}}) => (float[N] Y) {{ Z = Abs(X) Y = If(c) {BRANCHES} }}",
        "the condition is not constant",
    )


def test_a_branch_with_sparse_weights_is_taken_too():
    proto = parse_proto(
        """g (float[3] X) => (float[3] Y) <bool c = {1}> {
            Y = If(c) <then_branch = t () => (float[3] a) { a = Mul(X, w) },
                       else_branch = e () => (float[3] b) { b = Neg(X) }>
        }"""
    )
    sparse = proto.graph.node[0].attribute[0].g.sparse_initializer.add(dims=[3])
    sparse.values.CopyFrom(onnx.numpy_helper.from_array(np.array([2], np.float32), "w"))
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.array([1], np.int64), "i"))
    check_pass(FoldIf(), io.load(proto), ops={"Mul": 1})
