"""Compare two versions of graphopt: the code that each generates for a model, interleaved in one run.

    python tools/bench_versions.py --baseline PYTHON [MODEL ...] [--batch 1] [--threads 1] [--tune off] [-o FILE.json]

PYTHON is the interpreter of an environment in which the other version is installed. MODEL is a name of the benchmark's
suite; the default are all. Each version compiles and runs the model in its own environment. Prints medians, the time of
the baseline divided by that of this version (above 1: this one is faster), the compile times, and the sizes. Exit
status: 0 all measured, 1 a version failed or the outputs differ, 2 a model is not available.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from graphopt import io
from graphopt.data import inputs
from graphopt.proof.tolerance import compare
from graphopt.util.tables import Table, format_bytes, format_seconds
from tools import suite
from tools.bench_worker import Worker, take_turns
from tools.catalogue import entry
from tools.fetch_models import FetchError

WORKER = Path(__file__).with_name("artifact_worker.py")
BEFORE, AFTER = "baseline", "graphopt"


def measure(name: str, pythons: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """Measure one model: median seconds, compile seconds, bytes and error, by version. Raises RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as place:
        folder = Path(place)
        path = folder / "model.onnx"
        onnx.save(suite.fixed(name, options.batch), path)
        sample = inputs.generate(io.load(path))
        np.savez(folder / "feed.npz", **sample.inputs)
        row: dict[str, Any] = {"model": name, "versions": {}}
        for version, python in pythons.items():
            row["versions"][version] = _compile(python, path, folder / f"{version}.gopt", options.tune)
        with contextlib.ExitStack() as stack:
            workers = {}
            for version, python in pythons.items():
                worker = Worker(version, folder, options.threads, options.clock, (python, str(WORKER)))
                workers[version] = stack.enter_context(worker)
                comparison = compare(sample.outputs, worker.outputs())
                row["versions"][version].update(error=comparison.error, ok=comparison.ok)
            for version, timing in take_turns(workers, options.runs, options.seconds).items():
                row["versions"][version]["seconds"] = timing.p50
        return row


def _compile(python: str, model: Path, artifact: Path, tune: str) -> dict[str, Any]:
    start = time.perf_counter()
    # -P: a folder named graphopt in the current directory must not replace the installed package.
    script = "import sys, graphopt; graphopt.compile(sys.argv[1], tune=sys.argv[3] or None).save(sys.argv[2])"
    command = [python, "-P", "-c", script, str(model), str(artifact), "" if tune == "records" else tune]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{python} could not compile it: {done.stdout.strip()[-1000:]}")
    size = sum(file.stat().st_size for file in artifact.iterdir())
    return {"compile_seconds": time.perf_counter() - start, "bytes": size}


def ratio(row: dict[str, Any]) -> float:
    """Return the baseline's time divided by this version's."""
    versions = row["versions"]
    return float(versions[BEFORE]["seconds"] / versions[AFTER]["seconds"])


def table(rows: Sequence[dict[str, Any]]) -> Table:
    columns = ("model", "before", "after", "ratio", "error", "compiled in", "(before)", "artifact", "(before)")
    result = Table("median latency of two versions", columns, right=frozenset(columns[1:]))
    for row in rows:
        before, after = row["versions"][BEFORE], row["versions"][AFTER]
        result.add(
            row["model"],
            format_seconds(before["seconds"]),
            format_seconds(after["seconds"]),
            f"{ratio(row):.3f}",
            f"{after['error']:.1e}",
            *(format_seconds(version["compile_seconds"]) for version in (after, before)),
            *(format_bytes(version["bytes"]) for version in (after, before)),
        )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"names: {', '.join(suite.SUITE)}")
    parser.add_argument("--baseline", required=True, metavar="PYTHON", help="interpreter of the other version")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=200, help="maximal timed runs of each (default: 200)")
    parser.add_argument(
        "--seconds", type=float, default=15, help="seconds after which no new round starts (default: 15)"
    )
    parser.add_argument("--tune", default="off", help="off (default), or records")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("-o", "--output", type=Path, help="also write the rows as JSON")
    options = parser.parse_args(arguments)
    rows, failed = [], False
    for name in options.models or suite.SUITE:
        try:
            entry(name)
            rows.append(measure(name, {BEFORE: options.baseline, AFTER: sys.executable}, options))
        except (FetchError, FileNotFoundError) as error:
            print(error, file=sys.stderr)
            return 2
        except RuntimeError as error:
            failed = True
            print(f"{name}: {error}", file=sys.stderr)
            continue
        print(f"{name}: {ratio(rows[-1]):.3f}", file=sys.stderr, flush=True)
    print(table(rows).to_text())
    if rows:
        ratios = [ratio(row) for row in rows]
        mean = math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
        print(f"\ngeometric mean {mean:.3f}, least {min(ratios):.3f}, of {len(rows)} models")
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 1 if failed or not all(version["ok"] for row in rows for version in row["versions"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
