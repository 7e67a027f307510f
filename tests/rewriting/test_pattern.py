"""The pattern language: matches, captures, and the reasons of misses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphopt.ir import Model, Node
from graphopt.rewriting import matcher
from graphopt.rewriting.passes import Miss
from graphopt.rewriting.pattern import Capture, Match, Number, Pattern, any_of, constant, op, optional
from tests.helpers import model_of

X, Y = Capture("x"), Capture("y")
NUMBERS = {
    "half": np.array(0.5, np.float32),
    "one": np.array(1, np.float32),
    "two": np.array([2], np.float32),
    "three": np.array(3, np.float32),
    "six": np.array(6, np.float32),
    "wide": np.array([[[2]]], np.float32),
    "root2": np.array(math.sqrt(2), np.float32),
    "list": np.array([1, 2, 3, 4], np.float32),
}


def model(body: str, outputs: str = "float[N,4] Y") -> Model:
    return model_of(f"g (float[N,4] X, float[N,4] Z, bool B) => ({outputs}) {{ {body} }}", NUMBERS)


def find(graph_model: Model, name: str) -> Node:
    """The node whose first output has that name."""
    return next(node for node in graph_model.graph.all_nodes() if node.output.name == name)


def matched(pattern: Pattern, body: str, at: str = "Y") -> Match:
    found = pattern.match(find(model(body), at))
    assert isinstance(found, Match), found
    return found


def reason(pattern: Pattern, body: str, at: str = "Y", outputs: str = "float[N,4] Y") -> str:
    found = pattern.match(find(model(body, outputs), at))
    assert isinstance(found, Miss)
    return found.reason


def test_operators_and_captures() -> None:
    pattern = Pattern(op.Sub(op.Neg(X).named("neg"), Y))
    found = matched(pattern, "a = Neg(X) Y = Sub(a, Z)")
    assert (found["x"].name, found["y"].name) == ("X", "Z")
    assert [node.op for node in found.nodes] == ["Sub", "Neg"]
    assert found.root.op == "Sub"
    assert found.named["neg"].op == "Neg"
    assert reason(pattern, "a = Neg(X) Y = Sub(Z, a)") == ""


def test_one_name_is_one_value() -> None:
    pattern = Pattern(op.Sub(op.Neg(X), X))
    assert matched(pattern, "a = Neg(Z) Y = Sub(a, Z)")["x"].name == "Z"
    assert reason(pattern, "a = Neg(X) Y = Sub(a, Z)") == "expected x, found input 'Z'"


def test_a_number_gives_the_result_no_axes() -> None:
    """A constant of shape [1, 1, 1] would make three axes of two."""
    pattern = Pattern(op.Max(op.Neg(X), Number("bound")))
    assert matched(pattern, "a = Neg(X) Y = Max(a, three)").numbers == {"bound": 3}
    assert reason(Pattern(pattern.root, near=1), "a = Neg(X) Y = Max(a, wide)") == (
        "expected bound, found a constant 'wide'"
    )
    assert isinstance(Pattern(op.Clip(X, Number("low"), ...)).match(find(model("Y = Clip(X, one)"), "Y")), Match)


@pytest.mark.parametrize("body", ["a = Neg(X) Y = Add(a, Z)", "a = Neg(X) Y = Add(Z, a)"])
def test_operands_of_commutative_operators_come_in_any_order(body: str) -> None:
    assert matched(Pattern(op.Add(op.Neg(X), Y)), body)["y"].name == "Z"


def test_both_orders_are_tried_until_everything_fits() -> None:
    pattern = Pattern(op.Sub(op.Add(X, Y), X))
    assert matched(pattern, "a = Add(X, Z) Y = Sub(a, Z)")["x"].name == "Z"


def test_attributes() -> None:
    body = "Y = LeakyRelu<alpha=0.5>(X)"
    matched(Pattern(op.LeakyRelu(X, alpha=0.5)), body)
    matched(Pattern(op.LeakyRelu(X, alpha=lambda alpha: alpha < 1)), body)
    assert isinstance(Pattern(op.LeakyRelu(X, alpha=0.1)).match(find(model(body), "Y")), Miss)
    assert isinstance(Pattern(op.LeakyRelu(X, alpha=None)).match(find(model(body), "Y")), Miss)


def test_inputs_left_out() -> None:
    matched(Pattern(op.Clip(X, None, 6)), "Y = Clip(X, , six)")
    matched(Pattern(op.Clip(X, ...)), "Y = Clip(X, , six)")
    assert isinstance(Pattern(op.Clip(X, 0, 6)).match(find(model("Y = Clip(X, , six)"), "Y")), Miss)
    assert isinstance(Pattern(op.Clip(X)).match(find(model("Y = Clip(X, , six)"), "Y")), Miss)


def test_constants_and_numbers() -> None:
    found = matched(Pattern(op.Mul(constant("c"), X)), "Y = Mul(X, list)")
    assert found["c"].name == "list"
    assert matched(Pattern(op.Mul(Number("n"), X)), "Y = Mul(X, three)").numbers == {"n": 3.0}
    assert isinstance(Pattern(op.Mul(Number("n"), X)).match(find(model("Y = Mul(X, list)"), "Y")), Miss)
    assert isinstance(Pattern(op.Mul(constant("c"), X)).match(find(model("Y = Mul(X, Z)"), "Y")), Miss)
    small = Pattern(op.Mul(constant("c", test=lambda value: value.rank == 0), X))
    matched(small, "Y = Mul(X, three)")
    assert isinstance(small.match(find(model("Y = Mul(X, list)"), "Y")), Miss)


FORMS = [
    "d = Div(X, root2) e = Erf(d) a = Add(e, one) m = Mul(X, a) Y = Mul(m, half)",
    "d = Div(X, root2) e = Erf(d) b = Mul(e, half) a = Add(half, b) Y = Mul(a, X)",
    "d = Div(X, root2) e = Erf(d) b = Mul(e, X) a = Add(b, X) Y = Div(a, two)",
]


@pytest.mark.parametrize("body", FORMS)
def test_arithmetic_is_matched_by_what_it_computes(body: str) -> None:
    gelu = Pattern(X / 2 * (1 + op.Erf(X / math.sqrt(2))), at="Erf")
    found = matched(gelu, body, at="e")
    assert found["x"].name == "X"
    assert found.root.output.name == "Y"
    assert {node.op for node in found.nodes} >= {"Div", "Erf", "Add", "Mul"}


def test_arithmetic_of_all_kinds() -> None:
    pattern = Pattern(3 - (X - 1) ** 2 + -X, at="")
    matched(pattern, "a = Sub(X, one) b = Mul(a, a) c = Add(b, X) Y = Sub(three, c)")
    assert isinstance(pattern.match(find(model("a = Sub(X, one) b = Mul(a, a) Y = Sub(three, b)"), "Y")), Miss)
    assert str(X * 2 + 1) == "2*x + 1"


def test_a_constant_that_adds_an_axis_is_no_factor() -> None:
    pattern = Pattern(2 * X)
    matched(pattern, "Y = Mul(X, two)")
    assert isinstance(pattern.match(find(model("Y = Mul(X, wide)", "float[1,N,4] Y"), "Y")), Miss)


def test_named_numbers_are_coefficients() -> None:
    pattern = Pattern(op.Tanh(Number("a") * X + Number("b")))
    found = matched(pattern, "m = Mul(X, three) s = Sub(m, half) Y = Tanh(s)")
    assert found.numbers == {"a": 3.0, "b": -0.5}
    assert found["x"].name == "X"
    assert matched(pattern, "Y = Tanh(X)").numbers == {"a": 1.0, "b": 0.0}
    swish = Pattern(X * op.Sigmoid(Number("a") * X), at="Sigmoid")
    found = matched(swish, "m = Mul(X, three) s = Sigmoid(m) Y = Mul(s, X)", at="s")
    assert (found["x"].name, found.numbers) == ("X", {"a": 3.0})
    found = matched(swish, "s = Sigmoid(X) Y = Mul(X, s)", at="s")
    assert found.numbers == {"a": 1.0}


def test_a_check_lets_other_ways_be_tried() -> None:
    def has_factor_one(found: Match) -> Miss | None:
        return None if found.numbers["a"] == 1 else Miss("there is a factor")

    pattern = Pattern(op.Tanh(Number("a") * X + Number("b")), check=has_factor_one)
    found = matched(pattern, "m = Mul(X, three) s = Sub(m, half) Y = Tanh(s)")
    assert found.numbers == {"a": 1.0, "b": -0.5}
    assert found["x"].name == "m"
    never = Pattern(op.Tanh(X), check=lambda found: Miss("it is never right"))
    assert reason(never, "Y = Tanh(X)") == "it is never right"


def test_what_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="name their sum"):
        Number("a") * X + Number("b") * X
    with pytest.raises(ValueError, match="name the product"):
        Number("a") * (Number("b") * X)
    with pytest.raises(TypeError):
        X / Y  # type: ignore[operator]


def test_alternatives_and_optional_links() -> None:
    pattern = Pattern(op.Neg(any_of(op.Exp(X), op.Log(X))))
    assert [matched(pattern, f"a = {name}(X) Y = Neg(a)").nodes[1].op for name in ("Exp", "Log")] == ["Exp", "Log"]
    linked = Pattern(op.Neg(optional(("Identity", "Cast"), op.Exp(X), "link")))
    assert matched(linked, "a = Exp(X) Y = Neg(a)").node("link") is None
    link = matched(linked, "a = Exp(X) b = Cast<to=1>(a) Y = Neg(b)").node("link")
    assert link is not None
    assert link.op == "Cast"


def test_results_inside_that_are_used_elsewhere() -> None:
    pattern = op.Neg(op.Exp(X))
    body, outputs = "a = Exp(X) Y = Neg(a) V = Abs(a)", "float[N,4] Y, float[N,4] V"
    assert reason(Pattern(pattern), body, outputs=outputs) == (
        "an intermediate result is used elsewhere or is an output"
    )
    assert isinstance(Pattern(pattern, shared=True).match(find(model(body, outputs), "Y")), Match)
    once = Pattern(op.Neg(op.Exp(X).once()), shared=True)
    assert reason(once, body, outputs=outputs) == "the result of Exp 'a' is used elsewhere or is an output"
    matched(once, "a = Exp(X) Y = Neg(a)")
    branch = (
        "a = Exp(X) Y = Neg(a) V = If(B) <then_branch = t () => (float[N,4] v) { v = Abs(a) }, "
        "else_branch = e () => (float[N,4] w) { w = Neg(X) }>"
    )
    assert isinstance(Pattern(pattern).match(find(model(branch, outputs), "Y")), Miss)


def test_the_deepest_partial_match_says_what_was_expected() -> None:
    pattern = Pattern(op.Neg(op.Exp(op.Abs(op.Log(X)))))
    assert reason(pattern, "a = Log(X) b = Sqrt(a) c = Exp(b) Y = Neg(c)") == "expected Abs(Log(x)), found Sqrt 'b'"
    assert reason(pattern, "a = Exp(X) b = Abs(a) c = Exp(b) Y = Neg(c)") == "expected Log(x), found Exp 'a'"
    assert reason(pattern, "Y = Neg(X)") == ""
    assert reason(Pattern(op.Neg(op.Exp(X)), near=1), "Y = Neg(X)") == "expected Exp(x), found input 'X'"
    either = Pattern(op.Add(op.Exp(op.Abs(X)), Y))
    assert reason(either, "a = Neg(X) b = Exp(a) c = Log(Z) Y = Add(c, b)") == "expected Abs(x), found Neg 'a'"


def test_reasons_of_ones_own() -> None:
    pattern = Pattern(op.Neg(op.Exp(X).expect("it is not the negative of an exponential")))
    assert reason(pattern, "Y = Neg(X)") == "it is not the negative of an exponential"
    whole = Pattern(op.Neg(op.Exp(op.Abs(X))).expect("it is something else"))
    assert reason(whole, "Y = Neg(X)") == ""
    assert reason(whole, "a = Exp(X) Y = Neg(a)") == "it is something else"


def test_found_from_the_middle() -> None:
    pattern = Pattern(op.Sub(op.Neg(op.Softplus(X)), X), at="Softplus")
    body = "s = Softplus(X) a = Neg(s) Y = Sub(a, X)"
    assert matched(pattern, body, at="s").root.op == "Sub"
    assert reason(pattern, "s = Softplus(X) a = Neg(s) Y = Sub(a, Z)", at="s") == "expected x, found input 'Z'"
    two = "s = Softplus(X) t = Softplus(Z) a = Neg(s) Y = Sub(a, X) b = Neg(t) V = Sub(b, Z)"
    outputs = "float[N,4] Y, float[N,4] V"
    assert isinstance(found := pattern.match(find(model(two, outputs), "t")), Match)
    assert found.root.output.name == "V"


def test_values_of_nested_graphs_match_in_their_graph_only() -> None:
    body = (
        "a = Exp(X) Y = If(B) <then_branch = t () => (float[N,4] v) { b = Exp(X) v = Neg(b) }, "
        "else_branch = e () => (float[N,4] w) { w = Neg(a) }>"
    )
    pattern = Pattern(op.Neg(op.Exp(X)))
    inside = model(body)
    assert isinstance(pattern.match(find(inside, "v")), Match)
    assert isinstance(pattern.match(find(inside, "w")), Miss)  # the exponential outside is captured: it may be shared


def lattice(length: int) -> Model:
    """Sums of sums, each of which both operands are: there are two ways to go down at each."""
    lines, last = [], "X"
    for i in range(length):
        lines.append(f"p{i} = Add({last}, three) q{i} = Add({last}, half) s{i} = Add(p{i}, q{i})")
        last = f"s{i}"
    return model(" ".join(lines) + f" Y = Neg({last})")


def test_time_grows_with_the_graph_and_not_with_the_ways_to_match(monkeypatch: pytest.MonkeyPatch) -> None:
    part = op.Exp(X)
    for i in range(24):
        part = op.Add(part, Capture(f"c{i}"))
    pattern, steps = Pattern(part), 0
    real = matcher.Search.match

    def counted(self, *arguments):
        nonlocal steps
        steps += 1
        return real(self, *arguments)

    monkeypatch.setattr(matcher.Search, "match", counted)
    monkeypatch.setattr(matcher, "MOST_STEPS", 100)
    counts = []
    for length in (40, 80):
        steps = 0
        graph = lattice(length).graph
        nodes = [node for node in graph.all_nodes() if node.op == "Add"]
        assert all(isinstance(pattern.match(node), Miss) for node in nodes)
        counts.append(steps)
        assert steps <= 2 * len(nodes) * matcher.MOST_STEPS
    assert counts[1] < 2.5 * counts[0]
    assert pattern.match(nodes[-1]).reason == "there are too many ways to match it"


def test_a_long_chain_is_walked_once() -> None:
    count = 5_000
    lines = " ".join(f"v{i + 1} = Add(v{i}, one)" for i in range(count))
    chain = model(f"v0 = Neg(X) {lines} Y = Erf(v{count})")
    gelu = Pattern(X / 2 * (1 + op.Erf(X / math.sqrt(2))), at="Erf")
    assert isinstance(gelu.match(find(chain, "Y")), Miss)
