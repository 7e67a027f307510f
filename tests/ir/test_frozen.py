"""Only a Rewriter changes a graph: every other assignment is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from graphopt.ir import Model
from graphopt.rewriting.rewriter import Rewriter
from tests.helpers import model_of

TEXT = """g (float[N,3] X, bool c) => (float[N,3] Y) {
    a = Add(X, w)
    Y = If (c) <then_branch = t () => (float[N,3] T) { T = Relu(a) },
                else_branch = e () => (float[N,3] E) { E = Neg(a) }>
}"""


def model() -> Model:
    return model_of(TEXT, {"w": np.ones(3, np.float32)})


def parts(model: Model) -> dict[str, Any]:
    node = next(iter(model.graph.nodes))
    return {"Model": model, "Graph": model.graph, "NodeList": model.graph.nodes, "Node": node, "Value": node.output}


def attributes(item: object) -> list[str]:
    """Every attribute that holds something, public or not, that of slots included."""
    return [name for name in dir(type(item)) if not callable(getattr(type(item), name)) and not name.startswith("__")]


@pytest.mark.parametrize("kind", ["Model", "Graph", "NodeList", "Node", "Value"])
def test_no_attribute_can_be_assigned_or_deleted(kind: str) -> None:
    whole = model()
    item = parts(whole)[kind]
    names = attributes(item)
    assert names
    version = whole.version
    for name in (*names, "something_new"):
        with pytest.raises(AttributeError, match=f"'{name}' of a {kind} cannot be assigned: only a Rewriter"):
            setattr(item, name, None)
        with pytest.raises(AttributeError, match="only a Rewriter changes a graph"):
            delattr(item, name)
    assert whole.version == version


@pytest.mark.parametrize("kind", ["Model", "Graph", "Node", "Value"])
def test_no_mapping_that_is_handed_out_can_be_changed(kind: str) -> None:
    item = parts(model())[kind]
    names = [name for name in attributes(item) if not name.startswith("_")]
    mappings = [getattr(item, name) for name in names if isinstance(getattr(item, name), Mapping)]
    assert mappings or kind == "Value"
    for mapping in mappings:
        with pytest.raises(TypeError):
            mapping["new"] = None  # type: ignore[index]


def test_the_error_names_the_way_that_there_is() -> None:
    whole = model()
    value = whole.graph.inputs[0]
    with pytest.raises(AttributeError, match=r"use rewriter.set_type\(value, type\)"):
        value.type = None
    Rewriter(whole.graph).set_type(value, None)
    assert value.type is None


def test_lent_types_are_taken_back_and_count_as_no_change() -> None:
    whole = model()
    value, version = whole.graph.inputs[0], whole.version
    own = value.type
    with Rewriter(whole.graph).lent_types() as lend:
        lend(value, None)
        assert value.type is None
    assert value.type == own
    assert whole.version == version
