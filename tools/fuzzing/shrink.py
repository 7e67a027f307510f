"""Reduction of a failing case, and its storage in a form that anybody can run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from graphopt.ir import DType
from graphopt.proof.oracle import Reference
from tools.fuzzing.check import Finding
from tools.fuzzing.graph import Case
from tools.fuzzing.make import expected

Fails = Callable[[Case], Finding]

_REPRODUCER = '''"""{title}

    python {name}/repro.py
"""
import sys
from pathlib import Path

import graphopt
import numpy as np
from graphopt.proof.oracle import Reference
from graphopt.proof.tolerance import compare

here = Path(__file__).resolve().parent
inputs = dict(np.load(here / "inputs_0.npz"))
expected = Reference(here / "model.onnx").run(inputs)
level = sys.argv[1] if len(sys.argv) > 1 else "{level}"
optimized, _ = graphopt.optimize(here / "model.onnx", level)
print(compare(expected, Reference(optimized).run(inputs)))
print(compare(expected, graphopt.compile(here / "model.onnx", "host", level).run(inputs)))
'''


def shrink(case: Case, finding: Finding, fails: Fails) -> tuple[Case, Finding]:
    """Return the smallest case that fails at the same stage: with nodes removed from both ends and fixed sizes."""
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(case):
            if expected(smaller.model, smaller.inputs) is None:
                continue
            found = fails(smaller)
            if found.failed and found.stage == finding.stage:
                case, finding, changed = smaller, found, True
                break
    return case, finding


def write(case: Case, finding: Finding, folder: Path) -> Path:
    """Write the model, its inputs, ONNX Runtime's results, and a script that shows the failure."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(case.model, folder / "model.onnx")
    np.savez(folder / "inputs_0.npz", **_plain(case.inputs))
    np.savez(folder / "expected_0.npz", **_plain(expected(case.model, case.inputs) or {}))
    said = (finding.text.strip().splitlines() or [""])[0][:300]
    title = f"seed {case.seed}, {finding.stage}: {said}"
    text = [line if len(line) < 300 else f"{line[:300]} ..." for line in onnx.printer.to_text(case.model).splitlines()]
    (folder / "README").write_text("\n".join([title, "", finding.text.strip(), "", *text]) + "\n")
    level = finding.stage.rpartition(" ")[2] or "O2"
    (folder / "repro.py").write_text(_REPRODUCER.format(title=title.replace("\\", "/"), name=folder.name, level=level))
    return folder


def _plain(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays that a numpy file can store: bfloat16 is not one of its types, and becomes float32."""
    return {name: a if a.dtype.kind != "V" else a.astype(np.float32) for name, a in arrays.items()}


def _smaller(case: Case) -> Iterator[Case]:
    """Yield cases with one thing less, those that remove most first."""
    graph = case.model.graph
    if len(graph.output) > 1:
        for output in graph.output:
            yield _pruned(case, [output])
    for node in graph.node:
        if node.op_type != "Constant" and (cut := _cut(case, node)):
            yield cut
    for node in reversed(graph.node):
        if len(graph.node) > 1 and all(output.name in node.output for output in graph.output) and node.input:
            yield from _moved_up(case, node)
    if any(dim.dim_param for info in graph.input for dim in info.type.tensor_type.shape.dim):
        yield _fixed(case)


def _copy(case: Case) -> Case:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    return Case(case.seed, model, dict(case.inputs), case.slack)


def _pruned(case: Case, outputs: list[onnx.ValueInfoProto]) -> Case:
    """Return the part of a model that these outputs need."""
    made = _copy(case)
    graph = made.model.graph
    keep = [onnx.ValueInfoProto.FromString(output.SerializeToString()) for output in outputs]
    needed = {output.name for output in keep}
    nodes = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
            needed |= set(node.input) | {n for a in node.attribute for inner in a.g.node for n in inner.input}
    del graph.node[:], graph.output[:]
    graph.node.extend(reversed(nodes))
    graph.output.extend(keep)
    for infos in (graph.input, graph.initializer):
        rest = [info for info in infos if info.name in needed]
        del infos[:]
        infos.extend(rest)
    made.inputs = {info.name: case.inputs[info.name] for info in graph.input}
    return made


def _values(case: Case, names: list[str]) -> dict[str, np.ndarray] | None:
    """Return some values inside the model."""
    probe = _copy(case).model
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        return Reference(probe).run(case.inputs)
    except Exception:  # an unknown type
        return None


def _cut(case: Case, node: onnx.NodeProto) -> Case | None:
    """Return the model with a node's results as inputs instead."""
    names = [name for name in node.output if name]
    results = {output.name for output in case.model.graph.output}
    if results & set(names):
        return None
    found = _values(case, names)
    if found is None:
        return None
    made = _copy(case)
    kept = [n for n in made.model.graph.node if n.output != node.output]
    del made.model.graph.node[:]
    made.model.graph.node.extend(kept)
    for name, array in found.items():
        made.model.graph.input.append(helper.make_tensor_value_info(name, int(DType.of(array)), array.shape))
        made.inputs[name] = array
    return _pruned(made, list(made.model.graph.output))


def _moved_up(case: Case, node: onnx.NodeProto) -> Iterator[Case]:
    """Yield models that end at an operand of the last node."""
    produced = {name for other in case.model.graph.node for name in other.output}
    for name in dict.fromkeys(node.input):
        if name not in produced:
            continue
        found = _values(case, [name])
        if found is None:
            continue
        array = found[name]
        info = helper.make_tensor_value_info(name, int(DType.of(array)), [None] * array.ndim)
        yield _pruned(case, [info])


def _fixed(case: Case) -> Case:
    made = _copy(case)
    for info in made.model.graph.input:
        shape = case.inputs[info.name].shape
        for dim, size in zip(info.type.tensor_type.shape.dim, shape):
            dim.dim_value = size
    return made
