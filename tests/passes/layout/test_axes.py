"""Slicing, concatenating, padding and resizing blocked values."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers import value_named
from tests.passes.layout.support import blocked, declined, noise

BACK = {"graphopt::ToBlocked": 1, "graphopt::FromBlocked": 1}
TWO = {**BACK, "graphopt::BlockedConv": 2}
WEIGHTS = {"w": noise(16, 16, 1, 1), "v": noise(12, 16, 1, 1)}


@pytest.mark.parametrize(
    ("pieces", "output", "expected"),
    [
        ("<axis = 1> (c, d)", "28,6,4", TWO),
        ("<axis = 1> (c, c, d)", "44,6,4", TWO),
        ("<axis = -3> (X, c)", "32,6,4", {**BACK, "graphopt::BlockedConv": 1}),
        ("<axis = -1> (d, d)", "12,6,8", {**BACK, "graphopt::BlockedConv": 1}),
        ("<axis = 2> (c, X, c)", "16,18,4", {**BACK, "graphopt::BlockedConv": 1}),
    ],
)
def test_concat(pieces: str, output: str, expected: dict[str, int]) -> None:
    convs = {"c": "c = Conv(X, w)", "d": "d = Conv(X, v)"}
    used = " ".join(text for name, text in convs.items() if name in pieces)
    text = f"g (float[N,16,6,4] X) => (float[N,{output}] Y) {{ {used}  Y = Concat {pieces} }}"
    model = blocked(text, {**expected, "Concat": 1}, **WEIGHTS)
    producer = value_named(model, "Y").producer
    assert producer is not None
    assert producer.op == "graphopt::FromBlocked"


def test_concat_that_stays_plain() -> None:
    text = "g (float[2,16,6,4] X) => (float[2,28,6,4] Y) { c = Conv(X, w)  d = Conv(X, v)  Y = Concat <axis=1> (d, c) }"
    declined(text, "its pieces do not fill blocks of channels", WEIGHTS, count=2)
    declined(
        "g (float[2,16,6,4] X) => (float[4,16,6,4] Y) { c = Conv(X, w)  Y = Concat <axis = 0> (c, c) }",
        "it works along the batch or the channels",
        WEIGHTS,
    )
    declined(
        "g (float[1,16,6,4] X) => (float[1,28,6,4] Y) { c = Conv(X, w)  Y = Concat <axis = 1> (c, k) }",
        "a piece is constant",
        {**WEIGHTS, "k": noise(1, 12, 6, 4)},
    )


@pytest.mark.parametrize(
    ("axis", "sizes", "outputs"),
    [
        (1, [16, 24, 4], ["16,6,4", "24,6,4", "4,6,4"]),
        (-1, [1, 2, 1], ["44,6,1", "44,6,2", "44,6,1"]),
        (2, [3, 1, 2], ["44,3,4", "44,1,4", "44,2,4"]),
    ],
)
def test_split(axis: int, sizes: list[int], outputs: list[str]) -> None:
    results = ", ".join(f"float[N,{shape}] {name}" for name, shape in zip("ABC", outputs))
    text = f"g (float[N,16,6,4] X) => ({results}) {{ c = Conv(X, w)  A, B, C = Split <axis = {axis}> (c, sizes) }}"
    expected = {"graphopt::ToBlocked": 1, "graphopt::BlockedConv": 1, "Split": 1, "graphopt::FromBlocked": 3}
    blocked(text, expected, w=noise(44, 16, 1, 1), sizes=np.array(sizes))


def test_split_into_equal_parts() -> None:
    text = """g (float[N,16,6,4] X) => (float[N,16,6,4] Y) {
        c = Conv(X, w)  A, B = Split <axis = 1, num_outputs = 2> (c)  Y = Mul(A, B) }"""
    expected = {**BACK, "graphopt::BlockedConv": 1, "Split": 1, "Mul": 1}
    blocked(text, expected, w=noise(32, 16, 1, 1))


def test_split_that_stays_plain() -> None:
    text = (
        "g (float[2,16,6,4] X) => (float[2,4,6,4] A, float[2,8,6,4] B) { c = Conv(X, v)  A, B = Split <axis=1> (c, s) }"
    )
    declined(text, "its pieces do not fill blocks of channels", {**WEIGHTS, "s": np.array([4, 8])})


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (
            '<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (c, , up)',
            "12,12",
        ),
        ('<mode = "nearest"> (c, , odd)', "9,5"),
        ('<mode = "linear"> (c, , up)', "12,12"),
        ('<mode = "linear", coordinate_transformation_mode = "align_corners"> (c, , , sizes)', "7,9"),
        ('<mode = "linear", axes = [2, 3]> (c, , , two)', "5,8"),
        ('<mode = "nearest", axes = [-1]> (c, , wide)', "6,8"),
    ],
)
def test_resize(arguments: str, output: str) -> None:
    text = f"g (float[2,16,6,4] X) => (float[2,12,{output}] Y) {{ c = Conv(X, v)  Y = Resize {arguments} }}"
    sizes = {"up": np.array([1, 1, 2, 3], np.float32), "odd": np.array([1, 1, 1.5, 1.3], np.float32)}
    sizes |= {"sizes": np.array([2, 12, 7, 9]), "two": np.array([5, 8]), "wide": np.array([2], np.float32)}
    blocked(text, {**BACK, "graphopt::BlockedConv": 1, "Resize": 1}, v=WEIGHTS["v"], **sizes)


@pytest.mark.parametrize(
    ("arguments", "output", "reason"),
    [
        ('<mode = "cubic"> (c, , up)', "2,12,12,12", "it is cubic in 2 axes"),
        ('<mode = "linear", antialias = 1> (c, , down)', "2,12,3,2", "it crops or smooths"),
        ("(c, , , more)", "2,24,6,4", "it works along the batch or the channels"),
        (
            '<axes = [2, 3], keep_aspect_ratio_policy = "not_larger"> (c, , , two)',
            "2,12,5,3",
            "it keeps the aspect ratio",
        ),
    ],
)
def test_resize_that_stays_plain(arguments: str, output: str, reason: str) -> None:
    text = f"g (float[2,16,6,4] X) => (float[{output}] Y) {{ c = Conv(X, v)  Y = Resize {arguments} }}"
    sizes = {"up": np.array([1, 1, 2, 3], np.float32), "down": np.array([1, 1, 0.5, 0.5], np.float32)}
    sizes |= {"more": np.array([2, 24, 6, 4]), "two": np.array([5, 8])}
    declined(text, reason, {"v": WEIGHTS["v"], **sizes})


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        ("(c, pads)", "7,9"),
        ("(c, pads, value)", "7,9"),
        ('<mode = "edge"> (c, pads)', "7,9"),
        ('<mode = "reflect"> (c, pads)', "7,9"),
        ("(c, two, value, axes)", "6,7"),
        ("(c, cut)", "5,4"),
    ],
)
def test_pad(arguments: str, output: str) -> None:
    text = f"g (float[N,16,6,4] X) => (float[N,12,{output}] Y) {{ c = Conv(X, v)  Y = Pad {arguments} }}"
    sizes = {"pads": np.array([0, 0, 1, 2, 0, 0, 0, 3]), "two": np.array([1, 2]), "axes": np.array([-1])}
    sizes |= {"cut": np.array([0, 0, -1, 0, 0, 0, 0, 0])}
    weights = {"v": WEIGHTS["v"], **sizes, "value": np.float32(1.5)}
    blocked(text, {**BACK, "graphopt::BlockedConv": 1, "Pad": 1}, **weights)


def test_pad_that_stays_plain() -> None:
    text = "g (float[2,16,6,4] X) => (float[2,13,6,4] Y) { c = Conv(X, v)  Y = Pad(c, pads) }"
    pads = {"v": WEIGHTS["v"], "pads": np.array([0, 1, 0, 0, 0, 0, 0, 0])}
    declined(text, "it works along the batch or the channels", pads)


@pytest.mark.parametrize(
    ("bounds", "output"),
    [
        (([1], [5], [2], [2]), "28,2,4"),
        (([-3, 0], [100, -1], [-2, 3], [1, 1]), "28,3,3"),
        (([5], [-100], [2], [-2]), "28,3,4"),
        (([8], [16], [1], [1]), "8,6,4"),
        (([16], [1000], [1], [1]), "12,6,4"),
        (([-20], [28], [1], [1]), "20,6,4"),
        (([8, 1], [24, 3], [1, 2], [1, 1]), "16,2,4"),
    ],
)
def test_slice(bounds: tuple[list[int], ...], output: str) -> None:
    text = f"g (float[N,16,6,4] X) => (float[N,{output}] Y) {{ c = Conv(X, v)  Y = Slice(c, s, e, a, t) }}"
    lists = {name: np.array(numbers) for name, numbers in zip("seat", bounds)}
    blocked(text, {**BACK, "graphopt::BlockedConv": 1, "Slice": 1}, v=noise(28, 16, 1, 1), **lists)


@pytest.mark.parametrize(
    ("bounds", "output", "reason"),
    [
        (([4], [16], [1], [1]), "2,12,6,4", "its pieces do not fill blocks of channels"),
        (([0], [12], [1], [1]), "2,12,6,4", "its pieces do not fill blocks of channels"),
        (([0], [16], [1], [2]), "2,8,6,4", "its pieces do not fill blocks of channels"),
        (([0], [1], [0], [1]), "1,28,6,4", "it works along the batch or the channels"),
    ],
)
def test_slice_that_stays_plain(bounds: tuple[list[int], ...], output: str, reason: str) -> None:
    text = f"g (float[2,16,6,4] X) => (float[{output}] Y) {{ c = Conv(X, v)  Y = Slice(c, s, e, a, t) }}"
    lists = {name: np.array(numbers) for name, numbers in zip("seat", bounds)}
    declined(text, reason, {"v": noise(28, 16, 1, 1), **lists})
