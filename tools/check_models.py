"""Compile models for this machine with every check on, and run each artifact at several sizes against ONNX Runtime.

    python tools/check_models.py [MODEL ...] [--passes PIPELINE] [--no-verify] [--json FILE]

MODEL is a name of the catalogue or an ONNX file; all of the catalogue by default. A model with dynamic dimensions is
compiled once and run at all its sizes. Exit status: 0 all agree, 1 one does not, 2 a model is not to be had.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import graphopt
from graphopt import io
from graphopt.data import inputs
from graphopt.proof.oracle import Reference
from graphopt.util.tables import Table, format_seconds
from tools.catalogue import NAMES, Entry, entry
from tools.fetch_models import FetchError


def check(model: Entry, passes: str | None, verify: bool) -> dict[str, Any]:
    """Return the results for one model: seconds to compile, the largest error at each size, or what failed where."""
    found: dict[str, Any] = {"model": model.name, "seconds": None, "errors": [], "failure": None}
    start = time.perf_counter()
    try:
        artifact = graphopt.compile(model.path, "host", passes, verify=verify)
        found["seconds"] = time.perf_counter() - start
        original = io.load(model.path)
        with Reference(model.path) as reference:
            for seed, shapes in enumerate(model.sizes):
                sample = inputs.generate(original, seed=seed, shapes=shapes, reference=reference)
                comparison = inputs.compare_with_oracle(original, sample, artifact.run(sample.inputs))
                found["errors"].append(comparison.error)
                if not comparison.ok and found["failure"] is None:
                    found["failure"] = f"at {shapes or 'its own size'}: {comparison.worst}"
    except graphopt.GraphOptError as error:
        found["failure"] = f"{type(error).__name__}: {error}"
    except Exception:  # a bug in graphopt: it is shown in full, and the other models are still checked
        found["failure"] = traceback.format_exc()
    return found


def table(rows: Sequence[dict[str, Any]]) -> Table:
    result = Table("", ("model", "compiled in", "error at each size", "agrees"), right=frozenset({"compiled in"}))
    for row in rows:
        seconds = "-" if row["seconds"] is None else format_seconds(row["seconds"])
        errors = ", ".join(f"{error:.1e}" for error in row["errors"])
        result.add(row["model"], seconds, errors or "-", "no" if row["failure"] else "yes")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"names or files; names: {', '.join(NAMES)}")
    parser.add_argument("--passes", help="the pipeline (default: that of `graphopt compile`)")
    parser.add_argument("--no-verify", action="store_true", help="only compare the compiled code, not each pass")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args(arguments)
    rows = []
    for name in options.models or NAMES:
        try:
            model = entry(name)
        except (FetchError, FileNotFoundError) as error:
            print(error, file=sys.stderr)
            return 2
        rows.append(check(model, options.passes, not options.no_verify))
        print(table(rows[-1:]).to_text().splitlines()[-1], flush=True)
        if rows[-1]["failure"]:
            print(rows[-1]["failure"], flush=True)
    print("\n" + table(rows).to_text())
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 1 if any(row["failure"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
