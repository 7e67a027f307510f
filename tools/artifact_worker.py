"""A worker that runs an artifact of any version of graphopt in the environment of that version (see `bench_worker`).

    PYTHON tools/artifact_worker.py NAME FOLDER THREADS CLOCK

FOLDER contains NAME.gopt and feed.npz. Only `bench_turns`, which is next to this file, is imported from this checkout.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from bench_turns import answer, end_with_parent, serve

import graphopt


def main() -> None:
    end_with_parent()
    name, folder, threads, clock = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    with np.load(folder / "feed.npz") as file:
        feed = dict(file)
    session = graphopt.runtime.load(folder / f"{name}.gopt", threads=threads)
    np.savez(folder / f"{name}.npz", **session.run(feed))
    answer("ready")
    serve(lambda: session.run(feed), clock, sys.stdin, answer)


if __name__ == "__main__":
    main()
