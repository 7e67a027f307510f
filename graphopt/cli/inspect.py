"""`graphopt inspect`: shows what a model or an artifact consists of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.util.tables import Table, format_bytes, format_count

from .models import is_artifact, open_model
from .options import InputShapes, Json, Load, load_modules, parse_shapes
from .output import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graphopt.analysis.statistics import Statistics
    from graphopt.driver.integers import Product
    from graphopt.ir import Model
    from graphopt.runtime.manifest import Manifest, Memory


ModelArgument = Annotated[Path, typer.Argument(help="A model (.onnx) or a compiled model (.gopt).", show_default=False)]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        help="Also list the nodes that cannot be compiled for this target; exit status 1 if there are any.",
        show_default=False,
    ),
]
LayersOption = Annotated[bool, typer.Option("--layers", help="List every layer, in the order of the model.")]
TopOption = Annotated[int, typer.Option(help="How many layers to list, those with the most FLOPs first.", min=0)]


def inspect(
    model: ModelArgument,
    target: TargetOption = None,
    shapes: InputShapes = None,
    layers: LayersOption = False,
    top: TopOption = 5,
    load: Load = None,
    as_json: Json = False,
) -> None:
    """Show what a model or a compiled model consists of.

    Operators, parameters, bytes, FLOPs, which products of a quantized model run on integers, and which nodes a target
    supports.

    A multiply-add counts as two FLOPs. If shapes are dynamic, fix them with --input to count everything.

    \b
    Examples:
        graphopt inspect model.onnx
        graphopt inspect model.onnx --input x:1x3x224x224 --target arm
        graphopt inspect model.gopt --json
    """
    from graphopt.analysis.statistics import measure
    from graphopt.rewriting.shapes import fix_shapes
    from graphopt.runtime.manifest import read_manifest

    load_modules(load)
    output = Output(as_json)
    opened = open_model(model)
    fix_shapes(opened, parse_shapes(shapes))
    statistics = measure(opened)
    result = statistics.to_json()
    output.table(_summary(statistics))
    output.table(statistics.operators())
    if layers or top:
        output.table(statistics.largest_layers(None if layers else top))
    if statistics.unknown:
        _hint(output, opened)
    if is_artifact(model):
        manifest = read_manifest(model)
        result["artifact"] = _artifact_json(manifest)
        for table in _artifact_tables(manifest):
            output.table(table)
    if not is_artifact(model):
        integers = _integers(opened, target or "host", output, None if layers else top)
        if integers:
            result["integers"] = integers
    unsupported = _unsupported(opened, target, output) if target else []
    if target:
        result["target"] = {"name": target, "unsupported": unsupported}
    output.result(result)
    if unsupported:
        raise typer.Exit(1)


def _hint(output: Output, model: Model) -> None:
    """Say how to fix the shapes of inputs, if that is why FLOPs could not be counted."""
    from graphopt.data.checking import required_inputs
    from graphopt.data.making import Maker

    dynamic = [
        value.name
        for value in required_inputs(model)
        if value.shape and not all(isinstance(dim, int) for dim in value.shape)
    ]
    maker = Maker(model)
    arrays = maker.make(*next(maker.choices())) if dynamic else {}
    examples = [f"--input {name}:{'x'.join(map(str, arrays[name].shape))}" for name in dynamic]
    if examples:
        output.line(f"\nSome shapes are dynamic. To count everything, fix them: {' '.join(examples)}")


def _summary(statistics: Statistics) -> Table:
    table = Table(statistics.name, ("property", "value"))
    table.add("opsets", ", ".join(f"{domain} {version}" for domain, version in statistics.opsets.items()))
    for kind, ports in (("input", statistics.inputs), ("output", statistics.outputs)):
        for name, type_ in ports.items():
            table.add(kind, f"{name}: {type_}")
    table.add("nodes", len(statistics.layers))
    table.add("parameters", f"{format_count(statistics.parameters)}, {format_bytes(statistics.bytes)}")
    table.add("FLOPs", statistics.flops_text)
    if statistics.unknown:
        unknown = ", ".join(f"{times:,} {op}" for op, times in statistics.unknown.most_common())
        table.add("not counted", f"{unknown} (unknown shape or operator)")
    return table


def _artifact_json(manifest: Manifest) -> dict[str, Any]:
    import json

    described: dict[str, Any] = json.loads(manifest.to_json())
    return {key: value for key, value in described.items() if key not in ("weights", "kind")}


def memory_text(memory: Memory) -> str:
    """Describe the memory of one run besides inputs, weights and outputs, and what sharing saves."""
    text = f"{format_bytes(memory.allocated)} for intermediate values, {format_bytes(memory.tensors)} without sharing"
    return f"{text} ({', '.join(memory.sizes)} = 1)" if memory.sizes else text


def _artifact_tables(manifest: Manifest) -> list[Table]:
    table = Table("artifact", ("property", "value"))
    table.add("target", f"{manifest.target.get('name', '?')} ({manifest.machine}, {manifest.device})")
    table.add("needs", ", ".join(manifest.features) or "nothing beyond the architecture")
    table.add("pipeline", manifest.pipeline)
    table.add("fidelity", manifest.fidelity)
    table.add("memory", memory_text(manifest.memory))
    if manifest.error is not None:
        table.add("measured error", f"{max(manifest.error.values(), default=0.0):.3g}")
    table.add("made with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items()))
    files = Table("files", ("file", "size"), right=frozenset({"size"}))
    for name, entry in manifest.files.items():
        files.add(name, format_bytes(entry.bytes))
    return [table, files]


def _integers(model: Model, name: str, output: Output, top: int | None) -> dict[str, Any]:
    """Show which products of a quantized model run on integers; return that for JSON, nothing for other models."""
    from graphopt.driver.integers import is_quantized, products
    from graphopt.hardware import target as targets

    if not is_quantized(model):
        return {}
    found = products(model, targets.load(name))
    whole, part = (sum(p.flops or 0 for p in found if p.is_integer or every) for every in (True, False))
    share = part / whole if whole else None
    summary = Table(
        f"products on {name}", ("computed on", "nodes", "FLOPs", "reason"), right=frozenset({"nodes", "FLOPs"})
    )
    for reason in dict.fromkeys(("", *(p.reason for p in found))):
        some = [p for p in found if p.reason == reason]
        if some:
            known = [p.flops for p in some if p.flops is not None]
            flops = format_count(sum(known)) if known else "?"
            summary.add("floats" if reason else "8-bit integers", len(some), flops, reason)
    output.table(summary)
    largest = found if top is None else sorted(found, key=lambda p: -(p.flops or 0))[:top]
    if largest:
        output.table(_products_table(largest))
    described = [
        {"node": p.node, "operator": p.op, "flops": p.flops, "int8": p.is_integer, "reason": p.reason} for p in found
    ]
    return {"target": name, "int8_flops": part, "flops": whole, "int8_share": share, "products": described}


def _products_table(found: Sequence[Product]) -> Table:
    table = Table("largest products", ("node", "FLOPs", "int8", "reason"), right=frozenset({"FLOPs"}))
    for product in found:
        flops = "?" if product.flops is None else format_count(product.flops)
        table.add(product.node, flops, "yes" if product.is_integer else "no", product.reason)
    return table


def _unsupported(model: Model, name: str, output: Output) -> list[dict[str, str]]:
    """Return the nodes that are unsupported after the passes that `compile` runs by default."""
    from graphopt.driver import backend
    from graphopt.driver import optimizing as api
    from graphopt.hardware import target as targets

    found = targets.load(name)
    optimized, _ = api.optimize(model, target=found)
    nodes = backend.load().unsupported(optimized)
    table = Table(f"not supported on {name}", ("node", "operator", "reason"))
    for item in nodes:
        table.add(item.node, item.op, item.reason)
    output.table(table)
    if not nodes:
        output.line(f"\n{name}: every node is supported")
    return [{"node": item.node, "operator": item.op, "reason": item.reason} for item in nodes]
