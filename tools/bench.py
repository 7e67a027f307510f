"""Measure compiled models against ONNX Runtime and OpenVINO, interleaved in one run, and draw the result.

    python tools/bench.py [MODEL ...] [--batches 1 8] [--threads 1 2] [-o bench] [--resume]

MODEL is a name of the suite or an ONNX file with fixed shapes (which is measured at its own batch size); the default is
the whole suite. All three get the same file, and compute in float32, or on integers with --int8. Before each is
timed, its outputs are compared with the model's; with --int8, their distance to those of the float model is. The
result is the ratio: the median latency of the faster of the other two divided by that of graphopt. Writes FILE.json,
after each model, and FILE.svg. Exit status: 0 all measured, 1 a model failed or its outputs differ, 2 a model is not
available.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from graphopt.hardware import processor as cpu
from graphopt.util.tables import Table, format_bytes, format_seconds
from tools import bench_case
from tools.bench_case import Job
from tools.bench_chart import draw
from tools.bench_ratio import ratio, summary
from tools.catalogue import entry
from tools.fetch_models import FetchError
from tools.peers import LABELS, OURS, RUNNERS
from tools.suite import SUITE

PACKAGES = ("graphopt", "onnxruntime", "openvino", "apache-tvm", "numpy")


def machine() -> dict[str, Any]:
    """Return where and with which versions the measurements were made."""
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
    """Return median times of all, the ratio of the faster of the others to graphopt, and the cost of compiling."""
    names = tuple(LABELS[name] for name in RUNNERS)
    columns = ("model", "batch", "threads", *names, "ratio", "error", "memory", "compiled in", "with")
    result = Table("median latency; peak memory of running and of compiling", columns, right=frozenset(columns[1:]))
    for row in rows:
        timings, compiling, memory = row["timings"], row["compile"] or {}, row["memory"]
        times = [_cell(timings.get(name, {}).get("p50"), format_seconds) for name in RUNNERS]
        result.add(
            row["model"],
            row["batch"],
            row["threads"],
            *times,
            _cell(ratio(row), "{:.2f}".format),
            _cell(row["errors"].get(OURS), "{:.1e}".format),
            _cell(memory.get(OURS), format_bytes),
            _cell(compiling.get("seconds"), format_seconds),
            _cell(compiling.get("peak_bytes"), format_bytes),
        )
    return result


def _cell(value: Any, text: Callable[[Any], str]) -> str:
    return "-" if value is None else text(value)


def summary_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return, for each thread count, the geometric mean of the ratios, and the worst model."""
    columns = ("threads", "batch", "models", "geometric mean", "least", "of", "below 1")
    result = Table("ratio: latency of the better of ONNX Runtime and OpenVINO / of graphopt", columns)
    result.right = frozenset(columns) - {"of"}
    for threads in sorted({row["threads"] for row in rows}):
        for batch in ("all", *sorted({row["batch"] for row in rows})):
            chosen = [row for row in rows if row["threads"] == threads and batch in ("all", row["batch"])]
            found = summary(chosen)
            if found is not None:
                least = f"{found.worst['model']} x{found.worst['batch']}"
                mean = f"{found.mean:.3f}"
                result.add(threads, batch, found.count, mean, f"{found.least:.2f}", least, found.losses)
    return result


def merged(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return `old` rows with newly measured ones in their places, followed by the other new ones."""
    rows = {_key(row): row for row in old}
    rows.update({_key(row): row for row in new})
    return list(rows.values())


def _key(row: dict[str, Any]) -> tuple[str, int, int]:
    return row["model"], row["batch"], row["threads"]


def _jobs(options: argparse.Namespace, done: Sequence[dict[str, Any]]) -> list[Job]:
    """Return what is left to measure, including what failed before."""
    known = {_key(row) for row in done if not row["failures"]}
    jobs = []
    for name in options.models or SUITE:
        for batch in options.batches if name in SUITE else (1,):
            job = Job(
                name,
                batch,
                (),
                options.runs,
                options.seconds,
                options.target,
                options.clock,
                options.tune,
                options.int8,
                options.reduce_range,
            )
            threads = tuple(count for count in options.threads if (job.name, batch, count) not in known)
            if threads:
                jobs.append(dataclasses.replace(job, threads=threads))
    return jobs


def _failed(job: Job, message: str) -> list[dict[str, Any]]:
    """Return the rows of a case whose process crashed."""
    empty: dict[str, Any] = {"timings": {}, "errors": {}, "compile": None, "memory": {}, "failures": {OURS: message}}
    return [{"model": job.name, "batch": job.batch, "threads": threads, **empty} for threads in job.threads]


def _measure(
    jobs: Sequence[Job], rows: list[dict[str, Any]], about: dict[str, Any], output: Path
) -> list[dict[str, Any]]:
    """Measure what is left; the file is written after each case, so that an interrupted run can be continued."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as work:
        for index, job in enumerate(jobs):
            minutes = (time.perf_counter() - start) / 60
            print(f"[{index + 1}/{len(jobs)}, {minutes:.1f} min] {job.model} x{job.batch}", file=sys.stderr, flush=True)
            try:
                found = bench_case.run(job, Path(work))
            except RuntimeError as error:
                found = _failed(job, str(error))
            rows = merged(rows, found)
            for row in found:
                print(f"    {_line(row)}", file=sys.stderr, flush=True)
            _write(rows, about, output)
    return rows


def _line(row: dict[str, Any]) -> str:
    times = ", ".join(f"{name} {format_seconds(t['p50'])}" for name, t in row["timings"].items())
    found = ratio(row)
    failures = "".join(f"; {name}: {text.splitlines()[0]}" for name, text in row["failures"].items())
    return f"{row['threads']} threads: {times}{'' if found is None else f', ratio {found:.2f}'}{failures}"


def _write(rows: Sequence[dict[str, Any]], about: dict[str, Any], output: Path) -> None:
    text = json.dumps({"machine": about, "rows": [{**row, "ratio": ratio(row)} for row in rows]}, indent=1)
    part = output.with_suffix(".json.part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(output.with_suffix(".json"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"names or files; names: {', '.join(SUITE)}")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=200, help="maximal timed runs of each (default: 200)")
    parser.add_argument(
        "--seconds", type=float, default=15, help="seconds after which no new round starts (default: 15)"
    )
    parser.add_argument("--target", default="host")
    parser.add_argument(
        "--tune", default="off", help="off (default): untuned; records: use existing records; or a budget such as 5m"
    )
    parser.add_argument(
        "--int8", action="store_true", help="quantize each model first; all runtimes get the same quantized file"
    )
    parser.add_argument(
        "--reduce-range", action="store_true", help="with --int8: weights have 7 bits, as for processors without VNNI"
    )
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: the CPU time of the process, which other programs do not affect; only for one thread",
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep the results in FILE.json; measure what is missing or failed"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("bench"), help="FILE, without its suffix")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.clock == "cpu" and options.threads != [1]:
        parser.error("--clock cpu adds up the time of all threads: it needs --threads 1")
    for name in options.models or SUITE:
        try:
            entry(name)
        except (FetchError, FileNotFoundError) as error:
            print(error, file=sys.stderr)
            return 2
    about = machine()
    saved = options.output.with_suffix(".json")
    old = json.loads(saved.read_text(encoding="utf-8"))["rows"] if options.resume and saved.is_file() else []
    rows = _measure(_jobs(options, old), old, about, options.output)
    print(table(rows).to_text(), summary_table(rows).to_text(), sep="\n\n")
    options.output.with_suffix(".svg").write_text(draw(rows, about), encoding="utf-8")
    failures = [(row, name) for row in rows for name in row["failures"]]
    for row, name in failures:
        print(
            f"{row['model']} x{row['batch']}, {row['threads']} threads, {name}: {row['failures'][name]}",
            file=sys.stderr,
        )
    return 1 if any(name == OURS for _, name in failures) else 0


if __name__ == "__main__":
    sys.exit(main())
