"""Measure how the default pipeline's time grows with the size of the graph: a table, and a picture with --plot.

    python tools/scaling.py --sizes 1000,10000,100000 --plot scaling.png

Checks are off; reading (with onnx.checker) and the pipeline are timed separately. The exponent is the slope between the
last two sizes in logarithms: 1 is linear.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from graphopt import io
from graphopt.rewriting.pipeline import PassManager, Pipeline

sys.path.insert(0, str(Path(__file__).parent.parent))

from tools.large import make_large

SHAPES = ("chain", "wide")


def measure(shape: str, size: int, pipeline: str) -> tuple[float, float, int, int]:
    """Seconds of reading and of the pipeline, and the number of nodes before and after."""
    proto = make_large(size, shape)
    start = time.perf_counter()
    model = io.load(proto)
    read = time.perf_counter() - start
    before = len(model.graph.nodes)
    start = time.perf_counter()
    PassManager(Pipeline.parse(pipeline)).run(model)
    return read, time.perf_counter() - start, before, len(model.graph.nodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000", help="nodes, separated by commas")
    parser.add_argument("--shapes", default=",".join(SHAPES), help=f"of the graph: {', '.join(SHAPES)}")
    parser.add_argument("--passes", default="default", help="the pipeline")
    parser.add_argument("--plot", help="where to write a picture (needs matplotlib)")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    rows = {shape: [measure(shape, size, options.passes) for size in sizes] for shape in options.shapes.split(",")}
    table = Table("graph", "nodes", "left", "read", "pipeline", "exponent")
    for shape, results in rows.items():
        for index, (read, run, before, after) in enumerate(results):
            last = results[index - 1] if index else None
            slope = f"{math.log(run / last[1]) / math.log(before / last[2]):.2f}" if last else ""
            table.add_row(shape, f"{before:,}", f"{after:,}", f"{read:.2f} s", f"{run:.2f} s", slope)
    Console().print(table)
    if options.plot:
        plot(rows, options.plot)


def plot(rows: dict[str, list[tuple[float, float, int, int]]], path: str) -> None:
    """Nodes against seconds, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for shape, results in rows.items():
        axes.loglog([r[2] for r in results], [r[1] for r in results], marker="o", label=shape)
    axes.set(xlabel="nodes", ylabel="seconds of the pipeline", title="graphopt passes against graph size")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
