"""Checks of the layout pass that look at the operators of the main graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir import Model, infer_shapes, verify
from graphopt.passes.layout.assign_layout import AssignLayout
from graphopt.rewriting.passes import PassContext
from tests.helpers import check_numbers, check_pass, model_of

BLOCK8 = AssignLayout(block=8)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def nodes(model: Model) -> dict[str, int]:
    """Count each operator in the main graph, without functions, which define graphopt's own operators."""
    found: dict[str, int] = {}
    for node in model.graph.nodes:
        found[node.op] = found.get(node.op, 0) + 1
    return found


def blocked(text: str, expected: dict[str, int], pass_: AssignLayout = BLOCK8, **weights: Any) -> Model:
    """Run the pass with every check of `check_pass`, and look at the operators of the main graph."""
    model = check_pass(pass_, text, weights=weights, changes=True, shapes={"X": batch_of_two(text)})
    assert nodes(model) == expected
    return model


def batch_of_two(text: str) -> list[int]:
    shape = text[text.index("[") + 1 : text.index("]")]
    return [2 if size == "N" else int(size) for size in shape.split(",")]


def declined(text: str, reason: str, weights: dict[str, np.ndarray], count: int = 1) -> None:
    """The convolutions (`count`) are blocked and what follows is not, for that reason; the numbers stay."""
    model = model_of(text, weights)
    original = model.copy()
    context = PassContext(model)
    infer_shapes(model)
    BLOCK8.run(model.graph, context)
    verify(model)
    assert reason in context.misses, dict(context.misses)
    assert context.counts["nodes blocked"] == count
    check_numbers(BLOCK8, original, model)
