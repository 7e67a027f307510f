"""Measure the share of the processor's peak that the compute-bound kernels of the suite's models reach.

    python -m tools.peak_share [MODEL ...] [--int8] [--target x86] [--threads 1] [-o FILE.json]

Each model is compiled for a target, its outputs are compared with ONNX Runtime's, and it is profiled; the peak is a
measured loop of multiply-adds with the target's own instructions, timed before and after: of floats, or of bytes for
the kernels that multiply these. Prints, for each kind of kernel, its share of the time and of the peak: the FLOPs of
the layers (for Winograd, those of the convolution that it replaces) divided by time and peak. With --int8, models are
quantized first, as by `tools/bench.py --int8`. Exit status 1 if a model's outputs differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx

import graphopt
from graphopt import io, runtime
from graphopt.data import inputs
from graphopt.driver import backend
from graphopt.driver.backend import Peak
from graphopt.hardware.target import Target
from graphopt.profiling.profile import Call, Profile, profile
from graphopt.proof.oracle import run_reference
from tools import bench_case, suite

KINDS = ("direct convolution", "Winograd", "depthwise convolution", "matmul")
"""The prefixes of the names of schedules that the table has columns for."""


def by_kind(calls: Iterable[Call], peak: Peak) -> dict[str, dict[str, float]]:
    """Return, for each kind of kernel that occurs, its `seconds` and the share of the peak that it reaches."""
    sums: dict[str, tuple[float, float]] = {}
    for call in calls:
        kind = next((kind for kind in KINDS if call.kernel.schedule.startswith(kind)), None)
        if kind is not None and call.kernel.flops:
            seconds, least = sums.get(kind, (0.0, 0.0))
            fastest = peak.products if call.kernel.is_integer else peak.flops
            sums[kind] = seconds + call.seconds, least + call.kernel.flops / fastest
    return {
        kind: {"seconds": seconds, "of_peak": least / seconds} for kind, (seconds, least) in sums.items() if seconds
    }


def measure(name: str, target: Target, threads: int, int8: bool = False) -> dict[str, Any]:
    """Return one model's row: the error against ONNX Runtime, whether it is tolerable, and its kinds of kernels."""
    with tempfile.TemporaryDirectory(prefix="graphopt-peak-") as folder:
        path, made = Path(folder) / "model.onnx", Path(folder) / "model.gopt"
        onnx.save(suite.fixed(name, 1), path)
        floats = io.load(path) if int8 else None
        if int8:
            bench_case.quantize(path, Path(folder))
        graphopt.compile(path, target=target).save(made)
        sample = inputs.generate(io.load(path))
        session = runtime.load(made, threads=threads)
        exact = None if floats is None else run_reference(floats, sample.inputs)
        error, wrong = bench_case.Judge(sample.outputs, exact)(session.run(sample.inputs))
        before = backend.load().peak(target, threads)
        found: Profile = profile(session, made, sample.inputs, seconds=10)
        peak = before.or_better(backend.load().peak(target, threads))
    kinds = {k: {**v, "share": v["seconds"] / found.seconds} for k, v in by_kind(found.calls, peak).items()}
    return {
        "model": name,
        "target": target.name,
        "threads": threads,
        "int8": int8,
        "error": error,
        "ok": not wrong,
        "peak_flops": peak.flops,
        "peak_products": peak.products,
        "kinds": kinds,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown: for each kind its share of the time and of the peak, in percent."""
    lines = ["| model | error | " + " | ".join(KINDS) + " |", "|---|--:|" + "--:|" * len(KINDS)]
    for row in rows:
        cells = [row["kinds"].get(kind) for kind in KINDS]
        texts = ["" if c is None else f"{c['of_peak']:.0%} of peak in {c['share']:.0%}" for c in cells]
        lines.append(f"| {row['model']} | {row['error']:.1e} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=list(suite.SUITE))
    parser.add_argument("--int8", action="store_true", help="quantize each model first")
    parser.add_argument("--target", default="x86")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    unknown = sorted(set(options.models) - set(suite.SUITE))
    if unknown:
        parser.error(f"not in the suite: {', '.join(unknown)}")
    rows = []
    for name in options.models:
        print(name, file=sys.stderr, flush=True)
        rows.append(measure(name, Target.load(options.target), options.threads, options.int8))
        if options.output:
            options.output.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(table(rows))
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
