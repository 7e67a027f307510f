import numpy as np
import pytest

from graphopt.passes.cleanup.fold_shapes import FoldShapes
from graphopt.proof.oracle import run_reference
from tests.helpers import check_declines, check_pass

FOLD = FoldShapes()
LISTS = {
    "i0": np.int64(0),
    "i1": np.int64(1),
    "i2": np.int64(2),
    "zero": np.array([0], np.int64),
    "one": np.array([1], np.int64),
    "two": np.array([2], np.int64),
    "heads": np.array([12], np.int64),
    "width": np.array([64], np.int64),
    "minus": np.array([-1], np.int64),
}
NOT_CONSTANT = "the target of a Reshape is not the same constant for every size"


def target_of(model):
    (node,) = [node for node in model.graph.all_nodes() if node.op in ("Reshape", "Expand")]
    return node.inputs[1].constant.numpy().tolist()


def test_a_known_shape_is_a_constant():
    check_pass(
        FOLD,
        "g (float[2,3] X) => (int64[2] Y) { a = Exp(X) s = Shape(a) Y = Neg(s) }",
        "g (float[2,3] X) => (int64[2] Y) { Y = Neg(k) }",
        counts={"folded": 1},
    )


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("s = Shape(X) k = Gather(s, i1)", 3),
        ("s = Shape<start=1>(X) k = Gather(s, i0)", 3),
        ("s = Shape<start=-1, end=9>(X) k = ReduceProd<keepdims=0>(s)", 4),
        ("s = Shape(X) t = Slice(s, one, minus) k = Squeeze(t, zero)", 3),
        ("s = Shape(X) p = Gather(s, i1) q = Gather(s, i2) k = Mul(p, q)", 12),
        ("s = Shape(X) p = Gather(s, i1) t = Cast<to=6>(p) k = Cast<to=7>(t)", 3),
        ("s = Shape(X) p = Gather(s, i2) q = Add(p, i2) r = Div(q, i2) k = Sub(r, i1)", 2),
        ("s = Shape(X) p = Gather(s, i0) q = Sub(p, p) k = Add(q, i2)", 2),
        ("s = Shape(X) p = Gather(s, i0) k = Mul(p, i0)", 0),
        ("s = Shape<start=1>(X) t = Concat<axis=0>(s, two) k = ReduceProd<keepdims=0>(t)", 24),
        ("s = Shape<start=1>(X) m = Neg(s) f = ReduceMin<keepdims=0>(m) k = Max(f, i1)", 1),
        ("s = Shape<start=1>(X) a, b = Split<num_outputs=2>(s) m = Mod(b, a) k = Squeeze(m)", 1),
        ("s = Shape(X) p = Gather(s, i0) n = Less(p, i0) k = Where(n, i2, i1)", 1),
        ("s = Shape<start=1>(X) m = Unsqueeze(s, zero) t = Transpose(m) g = Gather(t, i1) k = Squeeze(g)", 4),
        ("s = Shape<start=1>(X) e = Equal(s, four) w = Where(e, seven, s) k = ReduceProd<keepdims=0>(w)", 21),
    ],
)
def test_known_parts_of_a_shape_that_is_not(body, value):
    model = check_pass(
        FOLD,
        f"g (float[N,3,4] X) => (int64 Y) {{ {body} Y = Neg(k) }}",
        "g (float[N,3,4] X) => (int64 Y) { Y = Neg(k) }",
        shapes={"X": (2, 3, 4)},
        weights={**LISTS, "four": np.array([4], np.int64), "seven": np.array([7], np.int64)},
    )
    (node,) = model.graph.nodes
    assert node.inputs[0].constant.numpy() == value


SPLIT_HEADS = """g (float[N,S,768] X) => (float[N,S,12,64] Y) {
    s = Shape(X) a = Gather(s, i0) b = Gather(s, i1) c = Unsqueeze(a, zero) d = Unsqueeze(b, zero)
    t = Concat<axis=0>(c, d, heads, width) Y = Reshape(X, t)
}"""


def test_a_reshape_that_keeps_batch_and_sequence():
    model = check_pass(
        FOLD,
        SPLIT_HEADS,
        "g (float[N,S,768] X) => (float[N,S,12,64] Y) { Y = Reshape(X, t) }",
        weights=LISTS,
        shapes={"X": (2, 5, 768)},
        counts={"targets": 1},
    )
    assert target_of(model) == [0, 0, 12, 64]
    for batch, length in ((1, 1), (0, 3)):
        outputs = run_reference(model, {"X": np.zeros((batch, length, 768), np.float32)})
        assert outputs["Y"].shape == (batch, length, 12, 64)


def test_one_size_that_cannot_be_told():
    model = check_pass(
        FOLD,
        """g (float[N,3,4] X) => (float[M,2] Y) {
            s = Shape(X) p = ReduceProd<keepdims=0>(s) h = Div(p, i2) u = Unsqueeze(h, zero) t = Concat<axis=0>(u, two)
            Y = Reshape(X, t)
        }""",
        "g (float[N,3,4] X) => (float[M,2] Y) { Y = Reshape(X, t) }",
        weights=LISTS,
        shapes={"X": (2, 3, 4)},
    )
    assert target_of(model) == [-1, 2]
    assert run_reference(model, {"X": np.zeros((0, 3, 4), np.float32)})["Y"].shape == (0, 2)


def test_a_minus_one_that_was_there_stays_beside_a_copied_batch():
    model = check_pass(
        FOLD,
        """g (float[N,3,4] X) => (float[N,M] Y) {
            s = Shape(X) a = Gather(s, i0) c = Unsqueeze(a, zero) t = Concat<axis=0>(c, minus) Y = Reshape(X, t)
        }""",
        "g (float[N,3,4] X) => (float[N,M] Y) { Y = Reshape(X, t) }",
        weights=LISTS,
        shapes={"X": (2, 3, 4)},
    )
    assert target_of(model) == [0, -1]


def test_dimensions_without_a_name_are_told_apart():
    check_pass(
        FOLD,
        """g (float[N,S,768] U) => (float[N,S,12,64] Y) {
            X = Slice(U, zero, two, zero)
            s = Shape(X) a = Gather(s, i0) b = Gather(s, i1) c = Unsqueeze(a, zero) d = Unsqueeze(b, zero)
            t = Concat<axis=0>(c, d, heads, width) Y = Reshape(X, t)
        }""",
        "g (float[N,S,768] U) => (float[N,S,12,64] Y) { X = Slice(U, zero, two, zero) Y = Reshape(X, t) }",
        weights=LISTS,
        shapes={"U": (3, 5, 768)},
    )


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        # with an empty batch -1 could not be found
        (
            "s = Shape(X) a = Gather(s, i0) b = Gather(s, i1) c = Unsqueeze(a, zero) d = Unsqueeze(b, zero) "
            "t = Concat<axis=0>(c, heads, d, width)",
            "A,B,C,D",
        ),
        # two sizes that cannot be told
        ("t = Concat<axis=0>(given, given, heads)", "A,B,C"),
    ],
)
def test_sizes_that_no_constant_tells(body, shape):
    check_declines(
        FOLD,
        f"g (float[N,S,768] X, int64[1] given) => (float[{shape}] Y) {{ {body} Y = Reshape(X, t) }}",
        NOT_CONSTANT,
        weights=LISTS,
    )


def test_zero_means_copying_afterwards_although_it_did_not_before():
    model = check_pass(
        FOLD,
        SPLIT_HEADS.replace("Reshape(X, t)", "Reshape<allowzero=1>(X, t)"),
        "g (float[N,S,768] X) => (float[N,S,12,64] Y) { Y = Reshape(X, t) }",
        weights=LISTS,
        shapes={"X": (2, 5, 768)},
    )
    assert target_of(model) == [0, 0, 12, 64]
    assert run_reference(model, {"X": np.zeros((0, 3, 768), np.float32)})["Y"].shape == (0, 3, 12, 64)


def test_a_reshape_where_zero_means_zero_stays():
    check_declines(
        FOLD,
        """g (float[N,0] X) => (float[A,B] Y) {
            s = Shape(X) a = Gather(s, i0) c = Unsqueeze(a, zero) t = Concat<axis=0>(zero, c)
            Y = Reshape<allowzero=1>(X, t)
        }""",
        weights=LISTS,
    )


def test_the_expansion_that_pytorch_exports():
    """Expand to [N, 4, 5] written as Where(Equal(shape, -1), 1, shape)."""
    model = check_pass(
        FOLD,
        """g (float[N,1,5] X) => (float[N,4,5] Y) {
            s = Shape(X) a = Gather(s, i0) c = Unsqueeze(a, zero) t = Concat<axis=0>(c, four, five)
            n = ConstantOfShape<value = int64[1] {1}>(three) e = Equal(t, all_minus) w = Where(e, n, t)
            Y = Expand(X, w)
        }""",
        "g (float[N,1,5] X) => (float[N,4,5] Y) { Y = Expand(X, t) }",
        weights={
            **LISTS,
            "three": np.array([3], np.int64),
            "four": np.array([4], np.int64),
            "five": np.array([5], np.int64),
            "all_minus": np.full(3, -1, np.int64),
        },
        shapes={"X": (2, 1, 5)},
    )
    assert target_of(model) == [1, 4, 5]


def test_expanding_to_the_size_of_another_stays():
    check_declines(FOLD, "g (float[1] X, float[N] Z) => (float[N] Y) { s = Shape(Z) Y = Expand(X, s) }")


def test_shape_reads_the_earliest_value_of_that_shape():
    check_pass(
        FOLD,
        "g (float[N,S] X) => (int64[2] Y) { a = Exp(X) b = Softmax(a) s = Shape(b) Y = Neg(s) }",
        "g (float[N,S] X) => (int64[2] Y) { s = Shape(X) Y = Neg(s) }",
        shapes={"X": (2, 3)},
        counts={"moved": 1},
    )


def test_the_shape_of_a_transposition():
    check_pass(
        FOLD,
        """g (float[N,S,H] X) => (int64 Y) {
            a = Transpose<perm=[1,2,0]>(X) s = Shape(a) k = Gather(s, last) Y = Neg(k)
        }""",
        "g (float[N,S,H] X) => (int64 Y) { s = Shape(X) k = Gather(s, i0) Y = Neg(k) }",
        weights={"last": np.int64(-1), "i0": np.int64(0)},
        shapes={"X": (2, 3, 4)},
    )


def test_an_output_that_is_known_keeps_its_name():
    check_pass(
        FOLD,
        "g (float[2,3] X) => (int64[2] S, int64[2] Y) { S = Shape(X) Y = Neg(S) }",
        "g (float[2,3] X) => (int64[2] S, int64[2] Y) { S = Identity(k) Y = Neg(k) }",
    )


def test_a_known_shape_that_is_only_given_out_is_left_to_fold_constants():
    check_declines(FOLD, "g (float[2,3] X) => (int64[2] S) { S = Shape(X) }")


def test_in_a_nested_graph():
    check_pass(
        FOLD,
        """g (bool c, float[N,3] X) => (float[N,3] Y) {
            s = Shape(X)
            Y = If(c) <then_branch = t () => (float[A,B] p) { p = Reshape(X, s) },
                       else_branch = e () => (float[A,B] q) { q = Neg(X) }>
        }""",
        """g (bool c, float[N,3] X) => (float[N,3] Y) {
            Y = If(c) <then_branch = t () => (float[A,B] p) { p = Reshape(X, k) },
                       else_branch = e () => (float[A,B] q) { q = Neg(X) }>
        }""",
        shapes={"c": (), "X": (2, 3)},
    )


@pytest.mark.parametrize(
    "body",
    [
        "k = Gather(X, i0)",  # not a shape at all
        "s = Shape(F) p = Gather(s, i0) k = Mul(p, i2)",
        "s = Shape(F) p = Gather(s, i0) e = Equal(p, i2) k = Where(e, i1, i2)",  # N may be 2
        "e = Equal(X, minus) w = Where(e, one, X) k = Squeeze(w)",  # any integer may be -1
        "s = Shape(F) p = Gather(s, i0) q = Sub(i0, p) k = Div(q, i2)",
    ],
)
def test_what_is_not_known_stays(body):
    text = f"g (float[N] F, int64[1] X) => (int64[A] Y) {{ {body} r = Unsqueeze(k, zero) Y = Neg(r) }}"
    check_declines(FOLD, text, weights=LISTS)


def test_an_old_opset_is_left_alone():
    check_declines(
        FOLD,
        '<ir_version: 7, opset_import: ["" : 11]> g (float[2,3] X) => (int64[2] Y) { s = Shape(X) Y = Neg(s) }',
        "opset below 18",
    )
