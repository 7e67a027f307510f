import numpy as np
import pytest

from graphopt.passes.cleanup.simplify_transpose import SimplifyTranspose
from graphopt.passes.matching.transposing import moved_ones
from tests.helpers import check_declines, check_pass

IN = "Transpose<perm=[0,2,3,1]>"  # channels to the end
OUT = "Transpose<perm=[0,3,1,2]>"  # and back
PASS = SimplifyTranspose()
X = "float[N,2,3,4] X"
Y = "float[N,2,3,4] Y"
SHAPES = {"X": (2, 2, 3, 4)}


def test_there_and_back_is_nothing():
    check_pass(
        PASS,
        f"g ({X}) => ({Y}) {{ a = {IN}(X) b = {OUT}(a) Y = Exp(b) }}",
        f"g ({X}) => ({Y}) {{ Y = Exp(X) }}",
        shapes=SHAPES,
        counts={"rewritten": 1},
    )


def test_two_become_one():
    check_pass(
        PASS,
        f"g ({X}) => (float[N,4,2,3] Y) {{ a = {IN}(X) Y = {IN}(a) }}",
        f"g ({X}) => (float[N,4,2,3] Y) {{ Y = {OUT}(X) }}",
        shapes=SHAPES,
    )


def test_the_default_reverses_the_axes():
    check_pass(
        PASS,
        "g (float[2,3,4] X) => (float[2,4,3] Y) { a = Transpose(X) Y = Transpose<perm=[2,0,1]>(a) }",
        "g (float[2,3,4] X) => (float[2,4,3] Y) { Y = Transpose<perm=[0,2,1]>(X) }",
    )


def test_a_middle_that_is_given_out_stays():
    check_pass(
        PASS,
        f"g ({X}) => (float[N,3,4,2] M, {Y}) {{ M = {IN}(X) a = {OUT}(M) Y = Exp(a) }}",
        f"g ({X}) => (float[N,3,4,2] M, {Y}) {{ M = {IN}(X) Y = Exp(X) }}",
        shapes=SHAPES,
    )


@pytest.mark.parametrize(
    ("body", "moved"),
    [
        ("Relu(a)", "Relu(X)"),
        ("Tanh(a)", "Tanh(X)"),
        ("Clip(a, low, )", "Clip(X, low, )"),
        ("Cast<to=10>(a) c = Cast<to=1>(b)", "Cast<to=10>(X) c = Cast<to=1>(b)"),
        ("Mul(a, one)", "Mul(X, one)"),
        ("Sub(channel, a)", "Sub(moved, X)"),
        ("PRelu(a, channel)", "PRelu(X, moved)"),
        ("Softmax<axis=-1>(a)", "Softmax<axis=1>(X)"),
        ("Softmax<axis=1>(a)", "Softmax<axis=2>(X)"),
        ("Add(a, plane)", "Add(X, moved)"),
        ("Where(mask, a, one)", "Where(moved, X, one)"),
    ],
)
def test_moves_through_one_operator_to_cancel(body, moved):
    last = "c" if " c = " in body else "b"
    check_pass(
        PASS,
        f"g ({X}) => ({Y}) {{ a = {IN}(X) b = {body} d = {OUT}({last}) Y = Exp(d) }}",
        f"g ({X}) => ({Y}) {{ b = {moved} Y = Exp({last}) }}",
        shapes=SHAPES,
        weights={
            "low": np.float32(-0.5),
            "one": np.array([[1.5]], np.float32),
            "channel": np.array([1, -2], np.float32),
            "plane": np.random.default_rng(0).normal(size=(3, 4, 1)).astype(np.float32),
            "mask": np.array([True, False]),
        },
    )


def test_a_long_way():
    check_pass(
        PASS,
        f"g ({X}) => ({Y}) {{ a = {IN}(X) b = Relu(a) c = Neg(b) d = Mul(c, s) e = Sqrt(d) Y = {OUT}(e) }}",
        f"g ({X}) => ({Y}) {{ b = Relu(X) c = Neg(b) d = Mul(c, m) Y = Sqrt(d) }}",
        shapes=SHAPES,
        weights={"s": np.array([2, 3], np.float32)},
        counts={"rewritten": 1},
    )


def test_merges_with_what_does_not_cancel():
    check_pass(
        PASS,
        f"g ({X}) => (float[N,4,2,3] Y) {{ a = {IN}(X) b = Relu(a) Y = {IN}(b) }}",
        f"g ({X}) => (float[N,4,2,3] Y) {{ b = Relu(X) Y = {OUT}(b) }}",
        shapes=SHAPES,
    )


def test_equal_ones_at_both_operands_become_one_behind():
    check_pass(
        PASS,
        f"g ({X}, float[N,2,3,4] Z) => (float[N,3,4,2] Y) {{ a = {IN}(X) r = Relu(a) b = {IN}(Z) Y = Add(r, b) }}",
        f"g ({X}, float[N,2,3,4] Z) => (float[N,3,4,2] Y) {{ r = Relu(X) s = Add(r, Z) Y = {IN}(s) }}",
        shapes={"X": (2, 2, 3, 4), "Z": (2, 2, 3, 4)},
    )


def test_a_residual_block_between_two_layouts():
    check_pass(
        PASS,
        f"""g ({X}, float[N,2,3,4] Z) => ({Y}) {{
            a = {IN}(X) b = {IN}(Z) s = Add(a, b) r = Relu(s) Y = {OUT}(r)
        }}""",
        f"g ({X}, float[N,2,3,4] Z) => ({Y}) {{ s = Add(X, Z) Y = Relu(s) }}",
        shapes={"X": (2, 2, 3, 4), "Z": (2, 2, 3, 4)},
    )


def test_all_parts_of_a_concat():
    check_pass(
        PASS,
        f"g ({X}, {X.replace('X', 'Z')}) => (float[N,3,4,4] Y) {{ a = {IN}(X) b = {IN}(Z) Y = Concat<axis=-1>(a, b) }}",
        f"g ({X}, {X.replace('X', 'Z')}) => (float[N,3,4,4] Y) {{ c = Concat<axis=1>(X, Z) Y = {IN}(c) }}",
        shapes={"X": (2, 2, 3, 4), "Z": (2, 2, 3, 4)},
    )


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd"])
def test_a_reduction_of_integers_over_the_moved_axes(op):
    check_pass(
        PASS,
        f"g (int32[N,2,3,4] X) => (int32[N,2] Y) {{ a = {IN}(X) m = {op}<keepdims=0>(a, axes) Y = Neg(m) }}",
        f"g (int32[N,2,3,4] X) => (int32[N,2] Y) {{ m = {op}<keepdims=0>(X, moved) Y = Neg(m) }}",
        shapes=SHAPES,
        weights={"axes": np.array([1, -2], np.int64)},
    )


def test_a_reduction_that_keeps_its_axes():
    check_pass(
        PASS,
        f"g (int32[N,2,3,4] X) => (int32[N,2,1,1] Y) {{ a = {IN}(X) m = ReduceMax(a, axes) Y = {OUT}(m) }}",
        "g (int32[N,2,3,4] X) => (int32[N,2,1,1] Y) { Y = ReduceMax(X, moved) }",
        shapes=SHAPES,
        weights={"axes": np.array([1, 2], np.int64)},
    )


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMax"])
def test_a_reduction_of_floats_depends_on_the_order(op):
    check_declines(
        PASS,
        f"g ({X}) => (float[N,2] Y) {{ a = {IN}(X) Y = {op}<keepdims=0>(a, axes) }}",
        weights={"axes": np.array([1, 2], np.int64)},
    )


def test_the_larger_of_two_integers_but_not_of_two_floats():
    text = f"g (T[N,2,3,4] X) => (T[N,2,3,4] Y) {{ a = {IN}(X) b = Max(a, c) Y = {OUT}(b) }}"
    integers = text.replace("T[", "int32[")
    check_pass(PASS, integers, ops={"Max": 1}, shapes=SHAPES, weights={"c": np.array([1, -2], np.int32)})
    check_declines(PASS, text.replace("T[", "float["), weights={"c": np.array([1, -2], np.float32)})


SPECIAL = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1.0, -1.0, 0.3], np.float32)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Sum", "PRelu"])
@pytest.mark.parametrize("channels", [1, 2, 17])
def test_special_numbers_meet_a_weight_of_each_channel(op, channels):
    rng = np.random.default_rng(0)
    shape = (2, channels, 3, 5)
    check_pass(
        PASS,
        f"""g (float[N,{channels},3,5] X) => (float[N,{channels},3,5] Y) {{
            a = {IN}(X) b = {op}(a, c) d = {OUT}(b) Y = Identity(d)
        }}""",
        ops={op: 1, "Identity": 1},
        weights={"c": rng.choice(SPECIAL, channels)},
        inputs={"X": rng.choice(SPECIAL, shape)},
        shapes={"X": shape},
    )


def test_moving_only_ones_is_a_reshape():
    check_pass(
        PASS,
        f"g (float[1,8,1,1] X) => (float[1,1,1,8] Y) {{ a = Exp(X) Y = {IN}(a) }}",
        "g (float[1,8,1,1] X) => (float[1,1,1,8] Y) { a = Exp(X) Y = Reshape(a, t) }",
    )


@pytest.mark.parametrize(
    "body",
    [
        # nothing after it to meet
        f"a = {IN}(X) Y = Relu(a)",
        # rounds some elements of a tensor otherwise than others
        f"a = {IN}(X) b = Softplus(a) Y = {OUT}(b)",
        # its other operand is not there before the transposition
        f"a = {IN}(X) r = ReduceMax<keepdims=0>(X, w) b = Add(a, r) Y = {OUT}(b)",
        f"a = {IN}(X) p = Transpose<perm=[0,2,1,3]>(X) q = Reshape(p, s) b = Add(a, q) Y = {OUT}(b)",
        f"a = {IN}(X) b = Mul(a, a) Y = {OUT}(b)",
        f"a = {IN}(X) Y = Concat<axis=0>(a, a)",
    ],
)
def test_stays_where_that_would_not_save_any(body):
    check_declines(
        PASS,
        f"g (float[2,2,3,4] X) => (float[A,B,C,D] Y) {{ {body} }}",
        weights={"w": np.array([0, 2, 3], np.int64), "s": np.array([2, 3, 4, 2], np.int64)},
    )


def test_an_intermediate_result_that_is_used_twice():
    check_declines(
        PASS,
        f"g ({X}) => ({Y}, float[N,3,4,2] Z) {{ a = {IN}(X) b = Relu(a) Y = {OUT}(b) Z = Exp(b) }}",
        "several nodes use the result on the way to another Transpose",
    )


def test_an_intermediate_result_that_is_given_out():
    check_declines(PASS, f"g ({X}) => ({Y}, float[N,3,4,2] b) {{ a = {IN}(X) b = Relu(a) Y = {OUT}(b) }}")


def test_a_large_weight_that_others_use_is_not_copied():
    big = np.random.default_rng(0).normal(size=(3, 4, 400)).astype(np.float32)
    text = f"""g (float[1,400,3,4] X) => (float[1,400,3,4] Y, float[3,4,400] Z) {{
        a = {IN}(X) b = Add(a, big) Y = {OUT}(b) Z = Exp(big)
    }}"""
    check_declines(PASS, text, weights={"big": big})
    alone = text.replace(", float[3,4,400] Z", "").replace("Z = Exp(big)", "")
    check_pass(PASS, alone, ops={"Add": 1}, weights={"big": big})


def test_does_not_move_into_a_nested_graph():
    check_declines(
        PASS,
        f"""g (bool c, {X}) => ({Y}) {{
            a = {IN}(X)
            Y = If(c) <then_branch = t () => (float[N,2,3,4] p) {{ r = Relu(a) p = {OUT}(r) }},
                       else_branch = e () => (float[N,2,3,4] q) {{ q = Neg(X) }}>
        }}""",
    )


def test_composes_across_a_capture():
    check_pass(
        PASS,
        f"""g (bool c, {X}) => ({Y}) {{
            a = {IN}(X)
            Y = If(c) <then_branch = t () => (float[N,2,3,4] p) {{ r = {OUT}(a) p = Relu(r) }},
                       else_branch = e () => (float[N,2,3,4] q) {{ q = Neg(X) }}>
        }}""",
        f"""g (bool c, {X}) => ({Y}) {{
            Y = If(c) <then_branch = t () => (float[N,2,3,4] p) {{ p = Relu(X) }},
                       else_branch = e () => (float[N,2,3,4] q) {{ q = Neg(X) }}>
        }}""",
        shapes={"c": (), **SHAPES},
    )


def test_a_reshape_behind_that_only_moves_ones():
    check_pass(
        PASS,
        f"g (float[N,2,1,4] X) => (float[N,4,2,1] Y) {{ a = {IN}(X) b = Reshape(a, s) Y = Exp(b) }}",
        f"g (float[N,2,1,4] X) => (float[N,4,2,1] Y) {{ b = {OUT}(X) Y = Exp(b) }}",
        weights={"s": np.array([0, 4, 2, 1], np.int64)},
        shapes={"X": (3, 2, 1, 4)},
    )


def test_a_reshape_in_front_that_only_moves_ones():
    check_pass(
        PASS,
        "g (float[4,1,2] X) => (float[2,4,1] Y) { a = Reshape(X, s) b = Transpose<perm=[2,1,0]>(a) Y = Exp(b) }",
        "g (float[4,1,2] X) => (float[2,4,1] Y) { b = Transpose<perm=[2,0,1]>(X) Y = Exp(b) }",
        weights={"s": np.array([1, 4, 2], np.int64)},
    )


@pytest.mark.parametrize(
    ("source", "result", "perm"),
    [
        ((2, 1, 3), (1, 2, 3), (1, 0, 2)),
        (("N", 1, "M", 1), (1, "N", 1, "M"), (1, 0, 3, 2)),
        ((2, 1, 3), (1, 3, 2), None),
        (("N", 1), (1, "M"), None),
        ((None, 1), (1, None), None),
        ((2, 3), (1, 6), None),
        ((2, 3), (1, 2, 3), None),
    ],
)
def test_reshapes_that_are_transpositions(source, result, perm):
    assert moved_ones(source, result) == perm


@pytest.mark.parametrize(
    ("merge", "perm", "split", "result", "full"),
    [
        (
            "p = Shape<start=2>(X) m = Concat<axis=0>(minus, p)",
            "0,2,1",
            "q = Shape<end=2>(X) r = Shape<start=3>(X) t = Shape<start=2,end=3>(X) s = Concat<axis=0>(q, r, t)",
            "N,3,5,S",
            "0,1,3,2",
        ),
        (
            "p = Shape<end=1>(X) o = Shape<start=3>(X) m = Concat<axis=0>(p, minus, o)",
            "1,2,0",
            "q = Shape<start=1>(X) s = Concat<axis=0>(q, p)",
            "3,S,5,N",
            "1,2,3,0",
        ),
    ],
)
def test_axes_that_are_merged_for_it_and_split_again(merge, perm, split, result, full):
    check_pass(
        PASS,
        f"""g (float[N,3,S,5] X) => (float[{result}] Y) {{
            {merge} {split} a = Reshape(X, m) b = Transpose<perm=[{perm}]>(a) c = Reshape(b, s) Y = Exp(c)
        }}""",
        f"g (float[N,3,S,5] X) => (float[{result}] Y) {{ c = Transpose<perm=[{full}]>(X) Y = Exp(c) }}",
        weights={"minus": np.array([-1], np.int64)},
        shapes={"X": (2, 3, 7, 5)},
    )


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("a = Reshape(X, m) b = Transpose<perm=[0,2,1]>(a) Y = Reshape(b, s)", "2,5,3,4"),  # split elsewhere
        ("a = Reshape(X, o) b = Transpose<perm=[0,2,1]>(a) Y = Reshape(b, s)", "2,5,3,4"),  # not merged but cut anew
    ],
)
def test_other_reshapes_around_it_stay(body, result):
    check_declines(
        PASS,
        f"g (float[2,3,4,5] X) => (float[{result}] Y) {{ {body} }}",
        weights={
            "m": np.array([6, 4, 5], np.int64),
            "o": np.array([4, 6, 5], np.int64),
            "s": np.array([2, 5, 3, 4], np.int64),
        },
    )


def test_a_reshape_around_it_that_another_node_uses():
    check_declines(
        PASS,
        """g (float[2,3,4,5] X) => (float[2,3,5,4] Y, float[6,5,4] Z) {
            a = Reshape(X, m) b = Transpose<perm=[0,2,1]>(a) Y = Reshape(b, s) Z = Exp(b)
        }""",
        weights={"m": np.array([6, 4, 5], np.int64), "s": np.array([2, 3, 5, 4], np.int64)},
    )
