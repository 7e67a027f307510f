import numpy as np
import pytest

from graphopt.ir.text import parse
from graphopt.passes.cleanup.remove_no_ops import RemoveNoOps
from graphopt.passes.matching.no_op_rules import RULES
from graphopt.rewriting.pipeline import PassManager, Pipeline
from tests.helpers import check_declines, check_pass

SPECIAL = np.array([[0.0, -0.0, np.nan], [np.inf, -np.inf, 1.5]], np.float32)

NO_OPS = {
    "Identity": "a = Identity(X)",
    "Dropout": "a = Dropout(X)",
    "Dropout with a ratio": "r = Constant<value_float=0.5>() a = Dropout(X, r)",
    "Dropout told not to train": "r = Constant<value_float=0.5>() f = Constant<value=bool{0}>() a = Dropout(X, r, f)",
    "Dropout whose mask is not used": "a, mask = Dropout(X)",
    "Cast": "a = Cast<to=1>(X)",
    "CastLike": "l = Exp(X) a = CastLike(X, l)",
    "Transpose": "a = Transpose<perm=[0,1]>(X)",
    "Reshape": "s = Constant<value_ints=[2,3]>() a = Reshape(X, s)",
    "Reshape by copying": "s = Constant<value_ints=[0,-1]>() a = Reshape(X, s)",
    "Squeeze": "a = Squeeze(X)",
    "Unsqueeze": "e = Constant<value=int64[0] {}>() a = Unsqueeze(X, e)",
    "Flatten": "a = Flatten<axis=1>(X)",
    "Flatten from the end": "a = Flatten<axis=-1>(X)",
    "Expand": "s = Constant<value_ints=[2,3]>() a = Expand(X, s)",
    "Expand by one": "s = Constant<value_ints=[1]>() a = Expand(X, s)",
    "Tile": "s = Constant<value_ints=[1,1]>() a = Tile(X, s)",
    "Pad": "s = Constant<value_ints=[0,0,0,0]>() a = Pad(X, s)",
    "Slice": "s = Constant<value_ints=[0]>() e = Constant<value_ints=[3]>() x = Constant<value_ints=[1]>() "
    "a = Slice(X, s, e, x)",
    "Slice to the end": "s = Constant<value_ints=[-9,0]>() e = Constant<value_ints=[2147483647,9]>() "
    "a = Slice(X, s, e)",
    "Split": "a = Split<num_outputs=1>(X)",
    "Resize": 'n = Constant<value_floats=[1.0,1.0]>() a = Resize<mode="linear">(X, , n)',
    "Where": "c = Constant<value=bool[2,1] {1,1}>() n = Neg(X) a = Where(c, X, n)",
    "Where not": "c = Constant<value=bool {0}>() n = Neg(X) a = Where(c, n, X)",
    "Add": "z = Constant<value_float=-0.0>() a = Add(X, z)",
    "Add from the left": "z = Constant<value_float=-0.0>() a = Add(z, X)",
    "Sub": "z = Constant<value=float[1,3] {0,0,0}>() a = Sub(X, z)",
    "Mul": "z = Constant<value_floats=[1.0]>() a = Mul(X, z)",
    "Div": "z = Constant<value_float=1.0>() a = Div(X, z)",
    "Pow": "z = Constant<value_float=1.0>() a = Pow(X, z)",
    "Concat": "a = Concat<axis=1>(X)",
    "Sum": "a = Sum(X)",
    "Max": "a = Max(X)",
    "Min": "a = Min(X)",
    "Mean": "a = Mean(X)",
    "ReduceSum": "a = ReduceSum<noop_with_empty_axes=1>(X)",
    "ReduceMax": "e = Constant<value=int64[0] {}>() a = ReduceMax<noop_with_empty_axes=1>(X, e)",
    "Neg": "n = Neg(X) a = Neg(n)",
}


@pytest.mark.parametrize("body", NO_OPS.values(), ids=NO_OPS)
def test_gives_back_its_input_bit_for_bit(body):
    check_pass(
        RemoveNoOps(),
        f"g (float[2,3] X) => (float[2,3] Y) {{ {body} Y = Mul(a, a) }}",
        "g (float[2,3] X) => (float[2,3] Y) { Y = Mul(X, X) }",
        inputs={"X": SPECIAL},
        counts={"rewritten": 1},
    )


@pytest.mark.parametrize("op", ["Relu", "Abs", "Floor", "Ceil", "Round", "Sign"])
def test_doing_it_twice_is_doing_it_once(op):
    check_pass(
        RemoveNoOps(),
        f"g (float[2,3] X) => (float[2,3] Y) {{ a = {op}(X) b = {op}(a) Y = Exp(b) }}",
        f"g (float[2,3] X) => (float[2,3] Y) {{ a = {op}(X) Y = Exp(a) }}",
        inputs={"X": SPECIAL},
    )


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ("-1, 2", "-1, 2"),
        ("-1, 2", "-3, 2"),
        ("0, 6", "0, 7"),
        ("0, 6", ", 6"),
        ("-1, ", "-2, "),
        (", 1", ", 1"),
        (", ", ", "),
    ],
)
def test_a_clip_behind_a_narrower_one(inner, outer):
    check_pass(RemoveNoOps(), *clips(inner, outer), inputs={"X": SPECIAL})


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ("-1, 2", "-0.5, 2"),
        ("-1, 2", "-1, 1"),
        (", 1", "-1, 1"),
        ("0, 6", "-0.0, 6"),
        ("nan, 1", "nan, 1"),
        ("-inf, 1", ", 1"),
    ],
)
def test_a_clip_behind_one_that_lets_more_through(inner, outer):
    check_declines(RemoveNoOps(), clips(inner, outer)[0])


def clips(inner, outer):
    """Test one Clip after another, and the first of them alone; a bound may be omitted."""
    weights, operands = [], []
    for kind, bounds in (("i", inner), ("o", outer)):
        pair = [bound.strip() for bound in bounds.split(",")]
        weights += [f"float {kind}{n} = {{{bound}}}" for n, bound in enumerate(pair) if bound]
        operands.append(", ".join(f"{kind}{n}" if bound else "" for n, bound in enumerate(pair)))
    header = "g (float[2,3] X) => (float[2,3] Y)" + (f" <{', '.join(weights)}>" if weights else "")
    both = f"{header} {{ a = Clip(X, {operands[0]}) b = Clip(a, {operands[1]}) Y = Exp(b) }}"
    return both, f"{header} {{ a = Clip(X, {operands[0]}) Y = Exp(a) }}"


@pytest.mark.parametrize(
    ("body", "constant"), [("And", 1), ("Or", 0), ("Xor", 0)], ids=["and true", "or false", "xor false"]
)
def test_logic(body, constant):
    check_pass(
        RemoveNoOps(),
        f"g (bool[4] X) => (bool[4] Y) <bool c = {{{constant}}}> {{ a = {body}(X, c) Y = Not(a) }}",
        "g (bool[4] X) => (bool[4] Y) { Y = Not(X) }",
        inputs={"X": np.array([True, False, True, True])},
    )


def test_not_not():
    check_pass(
        RemoveNoOps(),
        "g (bool[4] X, bool[4] Z) => (bool[4] Y) { a = Not(X) b = Not(a) Y = And(b, Z) }",
        "g (bool[4] X, bool[4] Z) => (bool[4] Y) { Y = And(X, Z) }",
    )


def test_adding_nothing_to_integers():
    check_pass(
        RemoveNoOps(),
        "g (int32[4] X) => (int32[4] Y) <int32 z = {0}> { a = Add(z, X) b = Sub(a, z) Y = Abs(b) }",
        "g (int32[4] X) => (int32[4] Y) { Y = Abs(X) }",
    )


def test_symbolic_sizes_that_are_the_same():
    check_pass(
        RemoveNoOps(),
        """g (float[N,S,4] X) => (float[N,S,4] Y) {
            s = Shape(X) a = Expand(X, s)
            t = Constant<value_ints=[0,0,4]>() b = Reshape(a, t)
            c = Transpose<perm=[0,1,2]>(b)
            Y = Exp(c)
        }""",
        "g (float[N,S,4] X) => (float[N,S,4] Y) { Y = Exp(X) }",
        shapes={"X": (2, 3, 4)},
    )


NEAR_MISSES = {
    "Add +0": ("z = Constant<value_float=0.0>() a = Add(X, z)", "adding a zero of the wrong sign changes -0.0"),
    "Sub -0": ("z = Constant<value_float=-0.0>() a = Sub(X, z)", "adding a zero of the wrong sign changes -0.0"),
    "Mul that broadcasts": (
        "z = Constant<value=float[1,1,1] {1}>() b = Mul(X, z) q = Constant<value_ints=[0]>() a = Squeeze(b, q)",
        "the neutral constant may broadcast the other operand",
    ),
    "Where that broadcasts": (
        "c = Constant<value=bool[2,1] {1,1}>() r = ReduceMax<keepdims=0>(X) a = Where(c, r, X)",
        "the chosen branch of Where may be broadcast",
    ),
    "Resize that crops": (
        "n = Constant<value_floats=[1.0,1.0]>() r = Constant<value_floats=[0.0,0.0,0.5,0.5]>() "
        'a = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize">(X, r, n)',
        "the resize crops",
    ),
    "Dropout with its mask": (
        "d, m = Dropout(X) k = Cast<to=1>(m) a = Mul(d, k)",
        "the mask of the dropout is used",
    ),
}


@pytest.mark.parametrize(("body", "reason"), NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_near_misses(body, reason):
    check_declines(RemoveNoOps(), f"g (float[2,3] X) => (float[2,3] Y) {{ {body} Y = Exp(a) }}", reason, times=1)


OTHERS = {
    "Sub from": "z = Constant<value_float=0.0>() a = Sub(z, X)",
    "Div of": "z = Constant<value_float=1.0>() a = Div(z, X)",
    "Pow of": "z = Constant<value_float=1.0>() a = Pow(z, X)",
    "Mul by nearly one": "z = Constant<value_float=1.0000001>() a = Mul(X, z)",
    "Transpose": "b = Transpose(X) a = Reshape(b, s)",
    "Reshape": "t = Constant<value_ints=[3,2]>() b = Reshape(X, t) a = Reshape(b, s)",
    "Slice": "z = Constant<value_ints=[0]>() e = Constant<value_ints=[1]>() b = Slice(X, z, e) a = Expand(b, s)",
    "Slice backwards": "z = Constant<value_ints=[-1]>() e = Constant<value_ints=[-9]>() "
    "k = Constant<value_ints=[0]>() m = Constant<value_ints=[-1]>() a = Slice(X, z, e, k, m)",
    "Pad": "p = Constant<value_ints=[0,1,0,-1]>() a = Pad(X, p)",
    "Cast": "b = Cast<to=10>(X) a = Cast<to=1>(b)",
    "Concat": "b = Concat<axis=0>(X, X) a = ReduceMax(b)",
    "ReduceSum": "a = ReduceSum(X)",
    "Neg once": "a = Neg(X)",
    "Where mixed": "c = Constant<value=bool[2,1] {1,0}>() n = Neg(X) a = Where(c, X, n)",
    "Tile": "r = Constant<value_ints=[1,2]>() a = Tile(X, r)",
    "Flatten": "a = Flatten<axis=0>(X)",
}


@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS)
def test_does_something(body):
    check_declines(
        RemoveNoOps(), f"g (float[2,3] X) => (float Y) <int64[2] s = {{2,3}}> {{ {body} Y = ReduceMax<keepdims=0>(a) }}"
    )


def test_symbols_that_may_differ_stay():
    check_declines(
        RemoveNoOps(),
        "g (float[N,S] X, int64[2] t) => (float[A,B] Y) { a = Reshape(X, t) b = Expand(a, t) Y = Exp(b) }",
    )


def test_a_one_in_the_place_of_a_symbol_may_broadcast():
    check_declines(
        RemoveNoOps(),
        "g (float[N] X) => (float[3] Y) <float[3] one = {1,1,1}> { a = Mul(X, one) Y = Exp(a) }",
        "the neutral constant may broadcast the other operand",
    )


def test_squeezing_a_symbol_that_may_be_one_stays():
    check_declines(RemoveNoOps(), "g (float[2,N] X) => (float Y) { a = Squeeze(X) Y = ReduceMax<keepdims=0>(a) }")


def test_training_dropout_stays():
    check_declines(
        RemoveNoOps(),
        "g (float[2,3] X) => (float[2,3] Y) <float r = {0.5}, bool t = {1}> { a = Dropout(X, r, t) Y = Exp(a) }",
        "the dropout is in training mode",
    )


def test_an_identity_that_gives_an_input_a_second_name_is_needed():
    check_declines(
        RemoveNoOps(),
        """g (float[2] X) => (float[2] Y, float[2] Z, float[2] A, float[2] B, float[2] C) <float[2] w = {1,2}> {
            Y = Identity(X) Z = Identity(w) A = Exp(X) B = Identity(A) C = Identity(A)
        }""",
    )


def test_other_no_ops_at_an_output_become_the_needed_identity():
    check_pass(
        RemoveNoOps(),
        "g (float[2] X) => (float[2] Y) { Y = Dropout(X) }",
        "g (float[2] X) => (float[2] Y) { Y = Identity(X) }",
    )


def test_an_output_keeps_its_name_and_the_shape_it_declares():
    model = check_pass(
        RemoveNoOps(),
        "g (float[N,3] X) => (float[2,3] Y) { a = Exp(X) Y = Identity(a) }",
        "g (float[N,3] X) => (float[2,3] Y) { Y = Exp(X) }",
        shapes={"X": (2, 3)},
    )
    assert model.graph.outputs[0].shape == (2, 3)


def test_in_a_loop_the_carried_value_needs_its_identity():
    check_declines(
        RemoveNoOps(),
        """g (int64 n, bool c, float[2] X) => (float[2] Y, float[2] Z) {
            Y, Z = Loop(n, c, X, X) <body = b (int64 i, bool k, float[2] p, float[2] q)
                => (bool k2, float[2] p2, float[2] q2) { k2 = Identity(k) p2 = Exp(q) q2 = Identity(X) }>
        }""",
    )


def test_an_old_opset_is_left_alone():
    check_declines(
        RemoveNoOps(),
        '<ir_version: 7, opset_import: ["" : 11]> g (float[2,1] X) => (float[2] Y) { a = Identity(X) Y = Squeeze(a) }',
        "opset below 18",
    )


def test_bits_inverted_twice():
    check_pass(
        RemoveNoOps(),
        "g (int32[4] X, int32[4] Z) => (int32[4] Y) { a = BitwiseNot(X) b = BitwiseNot(a) Y = BitwiseAnd(b, Z) }",
        "g (int32[4] X, int32[4] Z) => (int32[4] Y) { Y = BitwiseAnd(X, Z) }",
    )


def test_a_chain_goes_in_one_run_without_recursion():
    count = 5_000
    chain = " ".join(f"v{i + 1} = Identity(v{i})" for i in range(count))
    header = '<ir_version: 10, opset_import: ["" : 21]>'
    model = parse(f"{header} g (float[2] v0) => (float[2] Y) {{ {chain} Y = Abs(v{count}) }}")
    report = PassManager(Pipeline.of(RemoveNoOps())).run(model)
    assert report.steps[0].counts["rewritten"] == count
    assert len(model.graph.nodes) == 1


def test_every_rule_is_tried_here():
    tried = {name.split()[0] for name in NO_OPS} | {"Relu", "Abs", "Floor", "Ceil", "Round", "Sign", "And", "Or", "Xor"}
    others = {"Not", "BitwiseNot", "Clip"}  # have their own tests
    assert set(RULES) - tried == {*others, "ReduceProd", "ReduceMin", "ReduceMean"}
