"""Find the operators that ONNX Runtime supports in an old version but not in a newer one.

    python tools/lacking_kernels.py            prints the table
    python tools/lacking_kernels.py --write    writes it to passes/normalize/kernels.py

For each operator of ONNX, each of its versions and each allowed element type, a model with that node alone is loaded
into the installed ONNX Runtime, which shows whether it has a kernel.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnx import helper

TABLE = Path(__file__).resolve().parent.parent / "passes" / "normalize" / "kernels.py"
OLDEST, NEWEST = 7, 24
_LACKING = "NOT_IMPLEMENTED"
_TENSOR = "tensor("
_PREFERRED = ("float", "int64", "uint8", "int32", "bool", "int8", "float16", "double")
_CHOICES = 3  # element types to try for each further type of an operator
_ATTRIBUTES = {"equation": "i->i", "to": 1, "direction": "LEFT", "pooled_shape": [2, 2]}
_NEEDED = {"hidden_size": 1}  # attributes that are optional in schemas but required by kernels
_VALUES = {"INT": 1, "FLOAT": 1.0, "STRING": "x", "INTS": [1], "FLOATS": [1.0], "STRINGS": ["x"]}


def lacking(op_types: Sequence[str] | None = None) -> dict[str, dict[int, tuple[str, ...]]]:
    """Return, by operator and version, the element types that only an older version has a kernel for."""
    versions: dict[str, dict[int, onnx.defs.OpSchema]] = defaultdict(dict)
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain and not schema.deprecated and (op_types is None or schema.name in op_types):
            versions[schema.name][schema.since_version] = schema
    found: dict[str, dict[int, tuple[str, ...]]] = {}
    for name, schemas in sorted(versions.items()):
        before: set[str] = set()
        for opset in _opsets(schemas):
            have, lack = _kernels(schemas[max(v for v in schemas if v <= opset)], opset)
            if lost := before & lack:
                found.setdefault(name, {})[opset] = tuple(sorted(lost))
            before = (before | have) - lost
    return found


def _opsets(schemas: dict[int, onnx.defs.OpSchema]) -> list[int]:
    """The opsets to ask for: those in which an operator changes, and all where ONNX defines it by a function.

    ONNX Runtime uses the function where it has no kernel, but only until an operator in its body changes.
    """
    kept = {max(version, OLDEST) for version in schemas if version <= NEWEST and _is_last_at(schemas, version)}
    if kept and any(schema.has_function or schema.has_context_dependent_function for schema in schemas.values()):
        kept |= set(range(min(kept), NEWEST + 1))
    return sorted(kept)


def _is_last_at(schemas: dict[int, onnx.defs.OpSchema], version: int) -> bool:
    """Whether a version is in use at the oldest opset or after it."""
    return not any(version < other <= OLDEST for other in schemas)


def _kernels(schema: onnx.defs.OpSchema, opset: int) -> tuple[set[str], set[str]]:
    """The element types of the first input (or output) with a kernel, and those without one."""
    parameters = list(schema.inputs) or list(schema.outputs)
    main = parameters[0].type_str
    allowed = {c.type_param_str: list(c.allowed_type_strs) for c in schema.type_constraints}
    have: set[str] = set()
    lack: set[str] = set()
    for kind in allowed.get(main, [main]):
        if kind.startswith(_TENSOR):
            dtype = kind[len(_TENSOR) : -1]
            choices = list(_choices(allowed, main, kind))
            answers = {_loads(schema, types, opset, optional) for optional in (False, True) for types in choices}
            if True in answers:
                have.add(dtype)
            elif False in answers:
                lack.add(dtype)
    return have, lack


def _choices(allowed: dict[str, list[str]], main: str, kind: str) -> Iterator[dict[str, str]]:
    """Yield ways to choose an element type for each of an operator's types, given the main one."""
    others = [name for name in allowed if name != main]
    ranked = [sorted(allowed[name], key=lambda k: (k != kind, _rank(k), k))[:_CHOICES] for name in others]
    for chosen in itertools.product(*ranked):
        yield {main: kind, **dict(zip(others, chosen))}


def _rank(kind: str) -> int:
    dtype = kind[len(_TENSOR) : -1]
    return _PREFERRED.index(dtype) if dtype in _PREFERRED else len(_PREFERRED)


def _loads(schema: onnx.defs.OpSchema, types: dict[str, str], opset: int, optional: bool) -> bool | None:
    """Return whether ONNX Runtime has a kernel; None if it rejects the model for another reason."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        ort.InferenceSession(_model(schema, types, opset, optional), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        return False if _LACKING in str(error) else None
    return True


def _model(schema: onnx.defs.OpSchema, types: dict[str, str], opset: int, optional: bool) -> bytes:
    option = onnx.defs.OpSchema.FormalParameterOption
    sides = []
    for side, parameters in (("i", schema.inputs), ("o", schema.outputs)):
        needed = [p for p in parameters if p.option != option.Optional or (optional and side == "i")]
        sides.append([_port(f"{side}{i}", types.get(p.type_str, p.type_str)) for i, p in enumerate(needed)])
    required = {name: a for name, a in schema.attributes.items() if a.required}
    values = {name: _ATTRIBUTES.get(name, _VALUES.get(a.type.name)) for name, a in required.items()}
    values |= {name: value for name, value in _NEEDED.items() if name in schema.attributes}
    names = [[port.name for port in ports] for ports in sides]
    node = helper.make_node(schema.name, names[0], names[1], **{k: v for k, v in values.items() if v is not None})
    graph = helper.make_graph([node], "g", *sides)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10).SerializeToString()


def _port(name: str, kind: str) -> onnx.ValueInfoProto:
    dtype = kind[len(_TENSOR) : -1] if kind.startswith(_TENSOR) else "float"
    dtype = {"float": "float", "double": "double"}.get(dtype, dtype).upper()
    return helper.make_tensor_value_info(name, onnx.TensorProto.DataType.Value(dtype), None)


def text(table: dict[str, dict[int, tuple[str, ...]]]) -> str:
    """Return the table as the module that the pass reads."""
    import onnxruntime as ort

    lines = [
        '"""Versions of operators that ONNX Runtime has no kernel for. Written by tools/lacking_kernels.py."""',
        "",
        f'RUNTIME = "{ort.__version__}"',
        '"""The version of ONNX Runtime that was asked."""',
        "LACKING: dict[str, dict[int, frozenset[str]]] = {",
        *(
            f'    "{name}": {{{", ".join(f"{v}: frozenset({{{_quoted(t)}}})" for v, t in versions.items())}}},'
            for name, versions in table.items()
        ),
        "}",
        '"""By operator and version: element types of the first input (or output) for which only older versions have',
        'kernels."""',
        "",
    ]
    return "\n".join(lines)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name} instead of printing it")
    options = parser.parse_args()
    table = text(lacking())
    if options.write:
        TABLE.write_text(table)
    else:
        print(table)


if __name__ == "__main__":
    main()
