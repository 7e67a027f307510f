"""The codec: every type survives the round trip, and invalid values are rejected with their place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.util.codec import DecodeError, decode, encode, stored_as


class Level(Enum):
    EXACT = 1
    LOSSY = 2


@dataclass(frozen=True)
class Part:
    name: str
    shape: tuple[int | str | None, ...]
    scale: float = 1.0


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    pair: tuple[str, int]
    level: Level
    error: Mapping[str, float] | None
    title: str = field(default="", metadata=stored_as("pass"))
    cache: int = field(default=0, metadata=stored_as(None))
    anything: Any = None
    counts: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    first: Part | None = None


numbers = st.floats(allow_nan=False)
parts = st.builds(Part, st.text(), st.lists(st.one_of(st.integers(), st.text(), st.none())).map(tuple), numbers)
wholes = st.builds(
    Whole,
    st.lists(parts).map(tuple),
    st.tuples(st.text(), st.integers()),
    st.sampled_from(Level),
    st.none() | st.dictionaries(st.text(), numbers),
    title=st.text(),
    anything=st.none() | st.integers() | st.lists(st.text()),
    counts=st.dictionaries(st.text(), st.integers()),
    names=st.lists(st.text()),
    first=st.none() | parts,
)


@given(wholes)
def test_what_is_written_comes_back(whole: Whole) -> None:
    assert decode(Whole, json.loads(json.dumps(encode(whole)))) == whole


def test_fields_are_stored_under_their_keys() -> None:
    stored = encode(Whole((), ("a", 1), Level.LOSSY, None, title="t", cache=7))
    assert stored["pass"] == "t"
    assert stored["level"] == "lossy"
    assert "cache" not in stored
    assert "title" not in stored
    assert decode(Whole, stored).cache == 0


def good() -> dict[str, Any]:
    return json.loads(json.dumps(encode(Whole((Part("p", (1, "N", None)),), ("a", 1), Level.EXACT, {"y": 0.5}))))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("parts", 0, "shape", 1), 1.5, r"parts\[0\]\.shape\[1\]: str expected, not 1.5"),
        (("parts", 0, "shape", 0), True, r"parts\[0\]\.shape\[0\]: str expected, not True"),
        (("parts", 0, "scale"), "1", r"parts\[0\]\.scale: float expected, not '1'"),
        (("parts", 0, "scale"), False, r"parts\[0\]\.scale: float expected, not False"),
        (("parts", 0), 3, r"parts\[0\]: an object expected, not 3"),
        (("parts",), {}, r"parts: a list expected, not {}"),
        (("pair",), ["a"], r"pair: a list of 2 expected"),
        (("pair", 1), True, r"pair\[1\]: int expected, not True"),
        (("level",), "worst", r"level: one of exact, lossy expected, not 'worst'"),
        (("error", "y"), None, r"error\.y: float expected, not None"),
        (("counts",), [], r"counts: an object expected"),
        (("surprise",), 1, r"surprise: an unknown key"),
    ],
)
def test_other_forms_are_refused_with_their_place(place: tuple[Any, ...], value: Any, message: str) -> None:
    data: Any = good()
    inner = data
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    with pytest.raises(DecodeError, match=message):
        decode(Whole, data)


def test_a_missing_field_is_refused_unless_it_has_a_default() -> None:
    data = good()
    del data["parts"][0]["scale"]
    assert decode(Whole, data).parts[0].scale == 1.0
    del data["parts"][0]["name"]
    with pytest.raises(DecodeError, match=r"parts\[0\]\.name: missing"):
        decode(Whole, data)
    with pytest.raises(DecodeError, match=r"job\.parts: missing"):
        decode(Whole, {}, where="job")
