"""Random networks through whole pipelines, with every check on after every pass."""

from __future__ import annotations

import pytest

from graphopt.driver.optimizing import optimize
from graphopt.ir import DType
from graphopt.proof.tolerance import Tolerance
from tests.random_networks import random_network

# A few layer norms and softmaxes in a row make more of a rounding error than any one pass does.
TOLERANCE = Tolerance({DType.FLOAT: 3e-4})


@pytest.mark.parametrize("seed", range(40))
def test_the_default_pipeline_keeps_the_numbers(seed: int) -> None:
    _, report = optimize(random_network(seed), verify=TOLERANCE)
    assert report.changed
    assert report.error is not None


@pytest.mark.parametrize("seed", range(1000, 1010))
def test_the_longest_pipeline_keeps_the_numbers(seed: int) -> None:
    _, report = optimize(random_network(seed, motifs=15), "O3", verify=TOLERANCE)
    assert report.changed
    assert report.error is not None


@pytest.mark.parametrize("seed", range(2000, 2030))
def test_blocked_layouts_keep_the_numbers(seed: int) -> None:
    """Blocks of 2: these networks have one to eight channels."""
    model, _ = optimize(random_network(seed))
    _, report = optimize(model, "infer-shapes,assign-layout{block=2}", verify=TOLERANCE)
    assert report.error is not None or "nodes blocked" not in report.steps[-1].counts


def test_the_networks_hold_what_passes_look_for() -> None:
    """A generator that drifts away from the patterns would prove nothing."""
    acted: set[str] = set()
    for seed in range(40):
        _, report = optimize(random_network(seed), "default,assign-layout{block=2}")
        acted.update(step.name for step in report.steps if step.changed)
    recognizers = {"fuse-layer-norm", "fuse-rms-norm", "fuse-gelu", "fuse-silu", "fuse-softmax", "fuse-attention"}
    fusions = {"fuse-conv-bn", "fold-bn-into-gemm", "merge-parallel-matmuls", "reassociate-matmul", "fuse-conv-affine"}
    fusions |= {"fuse-matmul-add", "fuse-transpose-matmul", "fuse-pad"}
    cleaning = {"fold-if", "fold-constants", "fold-shapes", "simplify-reshape", "simplify-transpose", "share-weights"}
    cleaning |= {"assign-layout"}
    assert recognizers | fusions | cleaning <= acted
