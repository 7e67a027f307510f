"""ONNX Runtime loads the result of raise-opset, whatever the original operator, version and element type."""

from __future__ import annotations

import itertools
import warnings

import onnx
import pytest

from graphopt import io
from graphopt.errors import ModelWarning
from graphopt.ir import Model
from graphopt.passes.normalize.kernels import LACKING
from graphopt.passes.normalize.raise_opset import RaiseOpset
from graphopt.proof.oracle import OracleError, Reference
from graphopt.rewriting.pipeline import PassManager, Pipeline
from tests.helpers import model_of
from tools import lacking_kernels as tool

DTYPES = ("float", "double", "float16", "int32", "int64", "uint8", "bool", "string")


def loads(model: Model | bytes) -> bool:
    try:
        Reference(model).close()
    except OracleError:
        return False
    return True


def raised(model: Model) -> Model:
    PassManager(Pipeline.of(RaiseOpset())).run(model)
    return model


def old_models() -> dict[str, list[tuple[str, bytes]]]:
    """By operator: models of one node, for each version that is not the newest and each element type."""
    schemas = [s for s in onnx.defs.get_all_schemas_with_history() if not s.domain and s.since_version <= tool.NEWEST]
    models: dict[str, list[tuple[str, bytes]]] = {}
    for name, group in itertools.groupby(sorted(schemas, key=lambda s: (s.name, s.since_version)), lambda s: s.name):
        for schema, newer in itertools.pairwise(group):
            opset = newer.since_version - 1
            if opset < tool.OLDEST:
                continue
            allowed = {c.type_param_str: list(c.allowed_type_strs) for c in schema.type_constraints}
            main = (list(schema.inputs) or list(schema.outputs))[0].type_str
            for dtype in DTYPES:
                if f"tensor({dtype})" in allowed.get(main, ()):
                    choices = next(tool._choices(allowed, main, f"tensor({dtype})"))
                    models.setdefault(name, []).append(
                        (f"{name}-{opset} {dtype}", tool._model(schema, choices, opset, False))
                    )
    return models


def test_every_old_form_that_onnx_runtime_loads_is_loaded_when_raised() -> None:
    compared, broken = 0, []
    for label, proto in itertools.chain(*old_models().values()):
        if not loads(proto):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ModelWarning)
            model = io.load(proto)
        compared += 1
        if not loads(raised(model)):
            broken.append(label)
    assert not broken, " ".join(broken)
    assert compared > 500


def test_the_table_is_that_of_the_installed_runtime() -> None:
    found = tool.lacking()
    assert {op: {v: frozenset(t) for v, t in versions.items()} for op, versions in found.items()} == LACKING


@pytest.mark.parametrize(("to", "opset"), [(24, 21), (20, 20)])
def test_the_opset_stays_where_there_is_a_kernel(to: int, opset: int) -> None:
    text = (
        '<ir_version: 8, opset_import: ["": 16]> '
        "g (float[1,2,8,8] X, float[3,4] r, int64[3] b) => (float[3,2,1,1] Y) { Z = Relu(X)  Y = RoiAlign(Z, r, b) }"
    )
    model = model_of(text)
    report = PassManager(Pipeline.of(RaiseOpset(to=to))).run(model)
    assert model.opset == opset
    misses = dict(report.steps[0].misses)
    assert misses == ({"RoiAlign: ONNX Runtime has no kernel for it after opset 21": 1} if to == 24 else {})
    assert loads(model)
