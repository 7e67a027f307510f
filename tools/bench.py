"""Measure compiled models against ONNX Runtime and OpenVINO, side by side, and draw the result.

    python tools/bench.py [MODEL ...] [--threads 1 2] [--runs 50] [-o bench]

MODEL is a name of the catalogue or an ONNX file; all of the catalogue by default. Batch 1, float32 arithmetic in all
three. Each model's outputs are compared with ONNX Runtime's before it is timed. Writes FILE.json and FILE.png.
Exit status: 0 all measured, 1 a model failed or its outputs differ, 2 a model is not to be had.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import graphopt
from graphopt import cpu, inputs, io, runtime
from graphopt.bench import Runner, interleave
from graphopt.reference import Reference
from graphopt.tables import Table, format_seconds
from graphopt.tolerance import compare
from tools.catalogue import NAMES, Entry, Shapes, entry
from tools.fetch_models import FetchError

BASELINE = "onnxruntime"
PEERS = (BASELINE, "openvino", "graphopt")
PACKAGES = ("graphopt", "onnxruntime", "openvino", "apache-tvm", "numpy")


def fixed(path: Path, shapes: Shapes) -> onnx.ModelProto:
    """The model with its inputs' shapes fixed, so that every peer may plan for them."""
    model = onnx.load(path)
    for value in model.graph.input:
        if value.name in shapes:
            dims = value.type.tensor_type.shape.dim
            for dim, size in zip(dims, shapes[value.name], strict=True):
                dim.dim_value = size
    return model


def onnxruntime_runner(model: onnx.ModelProto, feed: dict[str, Any], threads: int) -> Runner:
    session = Reference(model, optimize=True, threads=threads)
    return lambda: session.run(feed)


def openvino_runner(model: onnx.ModelProto, feed: dict[str, Any], threads: int) -> Runner:
    import openvino  # type: ignore[import-untyped]

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        # Where weights are compressed it would otherwise quantize activations too.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    request = compiled.create_infer_request()
    names = [output.name for output in model.graph.output]

    def run() -> dict[str, np.ndarray]:
        results = request.infer(feed)
        return {name: results[port] for name, port in zip(names, compiled.outputs, strict=True)}

    return run


def graphopt_runner(artifact: graphopt.Artifact, feed: dict[str, Any], threads: int) -> Runner:
    session = runtime.load(artifact.folder, threads=threads)
    return lambda: session.run(feed)


def _peers(model: onnx.ModelProto, artifact: graphopt.Artifact | None) -> dict[str, Any]:
    makers: dict[str, Any] = {BASELINE: lambda *a: onnxruntime_runner(model, *a)}
    if importlib.util.find_spec("openvino"):
        makers["openvino"] = lambda *a: openvino_runner(model, *a)
    if artifact is not None:
        makers["graphopt"] = lambda *a: graphopt_runner(artifact, *a)
    return makers


def measure(
    model: Entry, threads: Sequence[int], runs: int, seconds: float, target: str = "host"
) -> list[dict[str, Any]]:
    """One row for each thread count: the timing, the error relative to ONNX Runtime and any failure of each peer."""
    shapes = model.sizes[0]
    proto = fixed(model.path, shapes)
    sample = inputs.generate(io.load(proto), shapes=shapes)
    failures: dict[str, str] = {}
    artifact = None
    try:
        artifact = graphopt.compile(proto, target=target)
    except graphopt.GraphOptError as error:
        failures["graphopt"] = str(error)
    rows = []
    for count in threads:
        runners, errors = {}, {}
        failed = dict(failures)
        for name, make in _peers(proto, artifact).items():
            try:
                runner = make(sample.inputs, count)
                comparison = compare(sample.outputs, runner())
            except Exception as error:  # a peer may raise anything; the others are still measured
                failed[name] = f"{type(error).__name__}: {error}"
                continue
            errors[name] = comparison.error
            if comparison.ok:
                runners[name] = runner
            else:
                failed[name] = f"outputs differ: {comparison.worst}"
        timings = interleave(runners, runs, seconds=seconds)
        rows.append(
            {
                "model": model.name,
                "shapes": {name: list(shape) for name, shape in shapes.items()},
                "threads": count,
                "timings": {name: timing.to_json() for name, timing in timings.items()},
                "errors": errors,
                "failures": failed,
            }
        )
    return rows


def machine() -> dict[str, Any]:
    """Where and with what was measured."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu.current().model_name,
        "cores": cpu.current().cores,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Median times, and how many times faster than ONNX Runtime graphopt is."""
    columns = ("model", "threads", *PEERS, "p90", "vs onnxruntime", "error")
    result = Table("median seconds", columns, right=frozenset(columns[1:]))
    for row in rows:
        timings = row["timings"]
        cells = [format_seconds(timings[peer]["p50"]) if peer in timings else "-" for peer in PEERS]
        ours = timings.get("graphopt")
        p90 = format_seconds(ours["p90"]) if ours else "-"
        both = ours and BASELINE in timings
        ratio = f"{timings[BASELINE]['p50'] / ours['p50']:.2f}x" if both else "-"
        error = row["errors"].get("graphopt")
        result.add(row["model"], row["threads"], *cells, p90, ratio, "-" if error is None else f"{error:.1e}")
    return result


def draw(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Bars of speed relative to ONNX Runtime's, a panel for each thread count."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = sorted({row["threads"] for row in rows})
    names = list(dict.fromkeys(row["model"] for row in rows))
    size = (max(6.0, 0.7 * len(names) + 2), 3.2 * len(counts) + 0.6)
    figure, panels = pyplot.subplots(len(counts), 1, figsize=size, squeeze=False, layout="constrained")
    figure.suptitle(title, fontsize=9)
    for panel, count in zip(panels[:, 0], counts):
        chosen = {row["model"]: row["timings"] for row in rows if row["threads"] == count}
        for place, peer in enumerate(PEERS):
            speeds = [_speed(chosen.get(name, {}), peer) for name in names]
            panel.bar(np.arange(len(names)) + (place - 1) * 0.27, speeds, 0.25, label=peer)
        panel.axhline(1, color="black", linewidth=0.6)
        panel.set_xticks(np.arange(len(names)), names, rotation=40, ha="right", fontsize=8)
        panel.set_ylabel(f"speed / {BASELINE}'s")
        panel.set_title(f"{count} thread{'s' if count > 1 else ''}", fontsize=9)
        panel.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _speed(timings: dict[str, Any], peer: str) -> float:
    """Nothing (no bar) where either was not measured."""
    if peer not in timings or BASELINE not in timings:
        return 0.0
    return float(timings[BASELINE]["p50"] / timings[peer]["p50"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"names or files; names: {', '.join(NAMES)}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=50, help="timed runs of each peer (default: 50)")
    parser.add_argument("--seconds", type=float, default=30, help="no new round after so long (default: 30)")
    parser.add_argument("--target", default="host")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench"), help="FILE, without its suffix")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    rows: list[dict[str, Any]] = []
    about = machine()
    for name in options.models or NAMES:
        try:
            model = entry(name)
        except (FetchError, FileNotFoundError) as error:
            print(error, file=sys.stderr)
            return 2
        print(f"measuring {model.name}", file=sys.stderr, flush=True)
        rows += measure(model, options.threads, options.runs, options.seconds, options.target)
        # After each model, so that a long run that is stopped has not measured in vain.
        text = json.dumps({"machine": about, "rows": rows}, indent=1)
        options.output.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(table(rows).to_text())
    title = f"{about['cpu']}, {about['date'][:10]}, graphopt {about['versions']['graphopt']}"
    draw(rows, title, options.output.with_suffix(".png"))
    failures = [(row, peer) for row in rows for peer in row["failures"]]
    for row, peer in failures:
        print(f"{row['model']}, {row['threads']} threads, {peer}: {row['failures'][peer]}", file=sys.stderr)
    return 1 if any(peer == "graphopt" for _, peer in failures) else 0


if __name__ == "__main__":
    sys.exit(main())
