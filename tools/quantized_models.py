"""Measure whether published networks still do their work with 8-bit integers.

    python tools/quantized_models.py [MODEL ...] [--passes quantize] [--max-drop 1%] [--samples 100] [--count N]
        [-o docs/quantized_models.json] [--docs docs/quantization.md]

Each model is quantized with inputs of its kind, as `graphopt quantize` does it with the same options, and its results
for others are compared with those of the float model: lines read by an OCR network, classes of crops of
photos and of files, vectors of sentences. Rows are written to a JSON file, in which those of other models stay; the
table in the guide is made of them.
Exit status 1 if a model falls short, 2 if a model or the data is not available.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import graphopt
from graphopt.driver.quantizing import quantize
from graphopt.proof.oracle import Reference
from tools.catalogue import entry
from tools.fetch_models import FetchError
from tools.quantizing.networks import ROOT
from tools.quantizing.table import replace_table
from tools.quantizing.tasks import TASKS, Task

Row = dict[str, Any]


def measured(task: Task, passes: str, max_drop: str | None, samples: int, count: int) -> Row:
    """Return the row of a task: how alike the results are on average, the arithmetic on integers, and the size."""
    path = entry(task.model).path
    whole = ",".join(filter(None, (task.first, passes)))
    found = quantize(path, task.feeds(samples, False), passes=whole, budget=max_drop)
    with tempfile.TemporaryDirectory() as folder:
        original, quantized = Path(folder) / "original.onnx", Path(folder) / "quantized.onnx"
        graphopt.save(graphopt.optimize(path, task.first or "O0")[0], original)
        graphopt.save(found.model, quantized)
        with Reference(original, optimize=True) as floats, Reference(quantized) as integers:
            names = [port.name for port in floats.outputs][:1]
            feeds = task.feeds(count, True)
            alike = [task.alike(floats.run(feed, names), integers.run(feed, names)) for feed in feeds]
        return {
            "model": task.model,
            "what": task.what,
            "passes": passes,
            "max_drop": max_drop,
            "inputs": len(feeds),
            "alike": round(float(np.mean(alike)), 4),
            "needed": task.needed,
            "integers": round(found.report.share, 4),
            "bytes": quantized.stat().st_size,
            "floats": original.stat().st_size,
        }


def table(rows: Sequence[Row]) -> str:
    """Return Markdown, with the models in the order of the tasks."""
    lines = [
        "| network | options | what is compared | as before | wanted | arithmetic on integers | size of the file |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: list(TASKS).index(row["model"])):
        alike = f"{row['alike']:.4f}" if row["what"].startswith("cosine") else f"{row['alike']:.1%}"
        wanted = f"{row['needed']:.2f}" if row["what"].startswith("cosine") else f"{row['needed']:.0%}"
        facts = f"{alike} | {wanted} | {row['integers']:.1%} | {row['bytes'] / row['floats']:.1%}"
        settings = [f"--passes {row['passes']}"] if row["passes"] != "quantize" else []
        settings += [f"--max-drop {row['max_drop']}"] if row["max_drop"] else []
        options = f"`{' '.join(settings)}`" if settings else "no option"
        lines.append(f"| {row['model']} | {options} | {row['inputs']} {row['what']} | {facts} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--passes", default="quantize")
    parser.add_argument("--max-drop", help="the largest mean error of the outputs on the calibration inputs")
    parser.add_argument("--samples", type=int, default=100, help="the number of inputs to calibrate on")
    parser.add_argument("--count", type=int, help="the number of inputs to judge with")
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "docs" / "quantized_models.json")
    parser.add_argument("--docs", type=Path, help="a guide whose table is replaced")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.models) - TASKS.keys())
    if unknown:
        parser.error(f"there is no task for {', '.join(unknown)}")
    rows = {row["model"]: row for row in json.loads(options.out.read_text())} if options.out.exists() else {}
    for name in options.models or TASKS:
        task = TASKS[name]
        try:
            rows[name] = measured(task, options.passes, options.max_drop, options.samples, options.count or task.count)
        except FetchError as error:
            print(error, file=sys.stderr)
            return 2
        print(rows[name], flush=True)
        options.out.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
    made = table(list(rows.values()))
    print(made)
    if options.docs:
        options.docs.write_text(replace_table(options.docs.read_text(), made, "tools/quantized_models.py"))
    return int(any(rows[name]["alike"] < rows[name]["needed"] for name in options.models or TASKS))


if __name__ == "__main__":
    sys.exit(main())
