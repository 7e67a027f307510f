"""Measure whether published networks still do their work with 8-bit integers.

    python tools/quantized_models.py [MODEL ...] [--passes quantize] [--samples 100] [--count N] [-o rows.json]

Each model is quantized with inputs of its kind, and its results for others are compared with those of the float model:
lines read by an OCR network, classes of crops of photos and of files, vectors of sentences. Exit status 1 if one falls
short, 2 if a model or the data is not available.
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
from graphopt.proof.oracle import Reference
from graphopt.util.tables import Table
from tools.catalogue import entry
from tools.fetch_models import FetchError
from tools.quantizing.tasks import TASKS, Task


def measured(task: Task, passes: str, samples: int, count: int) -> dict[str, Any]:
    """Return the row of a task: how alike the results are, on average and at worst, and the sizes of the files."""
    path = entry(task.model).path
    model, _ = graphopt.optimize(path, ",".join(filter(None, (task.first, passes))), samples=task.feeds(samples, False))
    with tempfile.TemporaryDirectory() as folder:
        original, quantized = Path(folder) / "original.onnx", Path(folder) / "quantized.onnx"
        graphopt.save(graphopt.optimize(path, task.first or "O0")[0], original)
        graphopt.save(model, quantized)
        with Reference(original, optimize=True) as floats, Reference(quantized) as integers:
            names = [port.name for port in floats.outputs][:1]
            feeds = task.feeds(count, True)
            alike = [task.alike(floats.run(feed, names), integers.run(feed, names)) for feed in feeds]
        return {
            "model": task.model,
            "what": task.what,
            "passes": passes,
            "inputs": len(feeds),
            "mean": float(np.mean(alike)),
            "worst": float(np.min(alike)),
            "needed": task.needed,
            "size": quantized.stat().st_size / original.stat().st_size,
        }


def table(rows: Sequence[dict[str, Any]]) -> Table:
    numbers = ("inputs", "mean", "worst", "needed", "size")
    result = Table("", ("model", "what", *numbers), right=frozenset(numbers))
    for row in rows:
        shares = (f"{row[name]:.4f}" for name in ("mean", "worst", "needed"))
        result.add(row["model"], row["what"], str(row["inputs"]), *shares, f"{row['size']:.1%}")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--passes", default="quantize")
    parser.add_argument("--samples", type=int, default=100, help="the number of inputs to calibrate on")
    parser.add_argument("--count", type=int, help="the number of inputs to judge with")
    parser.add_argument("-o", "--out", type=Path, help="write the rows there too, as JSON")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.models) - TASKS.keys())
    if unknown:
        parser.error(f"there is no task for {', '.join(unknown)}")
    rows = []
    for name in options.models or TASKS:
        task = TASKS[name]
        try:
            rows.append(measured(task, options.passes, options.samples, options.count or task.count))
        except FetchError as error:
            print(error, file=sys.stderr)
            return 2
        print(rows[-1], flush=True)
    print(table(rows).to_text())
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(row["mean"] < row["needed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
