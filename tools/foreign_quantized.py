"""Measure how well quantized files of others compile: those of ONNX Runtime's quantizer and of NNCF.

    python tools/foreign_quantized.py [NETWORK ...] [--writers TEXT ...] [--nncf PYTHON] [--target host] [--inner]
        [-o docs/foreign.json] [--docs docs/quantization.md]

Each network is quantized in every way and compiled. Printed, and put into a table of the guide: the share of the
arithmetic of convolutions and matmuls that runs on integers, with the reasons for the rest; the share of the outputs
within one quantization step of what ONNX Runtime computes node by node, ours and that of ONNX Runtime's own integer
kernels; the CPU time of compiling relative to that of the float network. `--inner` compares all 8-bit values inside
too. `--writers` takes the first letters of writers. NNCF runs in an interpreter of its own (`python -m venv nncf &&
nncf/bin/pip install nncf onnx onnxruntime`). Exit status 1 if one falls short.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import graphopt
from graphopt import io
from graphopt.driver.integers import Product, products
from graphopt.hardware.target import Target
from graphopt.proof.oracle import Reference
from tools.quantization_accuracy import merged
from tools.quantizing import agreement
from tools.quantizing.foreign import SUBJECTS, Subject, Writer, writers
from tools.quantizing.networks import ROOT
from tools.quantizing.table import replace_table
from tools.quantizing.tasks import Feed

SAMPLES, JUDGED, JUDGED_LARGE = 16, 64, 8
LARGE = 1 << 16
"""The number of elements of an input from which fewer inputs are judged with."""
LEAST_SHARE, LEAST_NEAR, MOST_TIME = 0.95, 0.999, 1.5
MARK = "tools/foreign_quantized.py"
Row = dict[str, Any]


def cpu_seconds() -> float:
    """The CPU time of this process, and of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def compiled(path: Path, target: Target) -> tuple[graphopt.Artifact, float]:
    """Compile a file with closed-form plans; return the artifact and the CPU seconds."""
    start = cpu_seconds()
    artifact = graphopt.compile(path, target=target, tune="off")
    return artifact, cpu_seconds() - start


def integer_share(found: Sequence[Product]) -> tuple[float, list[str]]:
    """Return the share of FLOPs in integer kernels, and the reasons for the others with their share, largest first."""
    whole = sum(product.flops or 0 for product in found)
    lost: dict[str, int] = {}
    for product in found:
        if not product.is_integer:
            reason = f"{product.op}: {product.reason}"
            lost[reason] = lost.get(reason, 0) + (product.flops or 0)
    reasons = [f"{flops / max(whole, 1):.1%} {reason}" for reason, flops in sorted(lost.items(), key=lambda i: -i[1])]
    return 1 - sum(lost.values()) / max(whole, 1), reasons


def agreements(path: Path, artifact: graphopt.Artifact, feeds: Sequence[Feed]) -> tuple[float, float]:
    """Return the shares of output values within a step of the reference: ours, those of ONNX Runtime's kernels."""
    steps = agreement.output_steps(onnx.load(path, load_external_data=False))
    ours, theirs = [], []
    with Reference(path) as plain, Reference(path, optimize=True) as fast:
        for feed in feeds:
            wanted = plain.run(feed)
            ours.append(agreement.within_a_step(wanted, artifact.run(feed), steps))
            theirs.append(agreement.within_a_step(wanted, fast.run(feed), steps))
    return agreement.total(ours), agreement.total(theirs)


def inner_agreement(path: Path, target: Target, feeds: Sequence[Feed]) -> dict[str, Any]:
    """Compare the 8-bit values inside, once with all rounding before them, and once layer by layer.

    Layer by layer, the reference computes each value from the integers that the compiled model has before it.
    """
    model = onnx.load(path)
    inner = agreement.with_inner_values(model)
    names = [info.name for info in inner.graph.output[len(model.graph.output) :]]
    if not names:
        return {}
    artifact = graphopt.compile(inner, target=target, tune="off")
    along, alone, equal = [], [], []
    with Reference(inner) as plain, Reference(agreement.cut_apart(inner, names)) as cut:
        for feed in feeds:
            found = artifact.run(feed)
            own = {name: found[name] for name in names}
            wanted = plain.run(feed, names)
            made = cut.run({**feed, **own}, [name + agreement.MADE for name in names])
            expected = {name: made[name + agreement.MADE] for name in names}
            along.append(agreement.within_a_step(wanted, own, {}))
            alone.append(agreement.within_a_step(expected, own, {}))
            equal.append({name: (int((expected[name] == own[name]).sum()), own[name].size) for name in names})
    far = {name: 1 - agreement.total([{name: one[name]} for one in alone]) for name in names}
    worst = [f"{name} {share:.2%}" for name, share in sorted(far.items(), key=lambda item: -item[1])[:8] if share]
    totals = {"inner": agreement.total(along), "alone": agreement.total(alone), "equal": agreement.total(equal)}
    return {**totals, "worst": worst}


def judged(subject: Subject) -> list[Feed]:
    """Return the inputs on which results are compared."""
    first = subject.feeds(1, True)[0]
    return subject.feeds(JUDGED if sum(array.size for array in first.values()) < LARGE else JUDGED_LARGE, True)


def measured(subject: Subject, source: Path, writer: Writer, seconds: float, options: argparse.Namespace) -> Row:
    """Return the row of a network and a writer; an error of the writer or of graphopt is a row too."""
    row: Row = {"network": subject.name, "kind": writer.name, "settings": ""}
    target, feeds = Target.load(options.target), judged(subject)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        try:
            writer.write(subject, source, subject.feeds(SAMPLES, False), path)
        except Exception as error:  # the peers raise whatever they like
            return {**row, "error": f"{type(error).__name__}: {error}"}
        if options.keep:
            options.keep.mkdir(exist_ok=True)
            (options.keep / f"{subject.name}-{writer.name}.onnx".replace(" ", "-")).write_bytes(path.read_bytes())
        try:
            row["share"], row["reasons"] = integer_share(products(io.load(path), target))
            artifact, taken = compiled(path, target)
            row["time"] = taken / seconds
            row["near"], row["theirs"] = agreements(path, artifact, feeds)
            if options.inner:
                row |= inner_agreement(path, target, feeds)
        except graphopt.GraphOptError as error:
            return {**row, "error": str(error)}
    return row


def falls_short(row: Row) -> bool:
    return "error" in row or row["share"] < LEAST_SHARE or row["near"] < LEAST_NEAR or row["time"] > MOST_TIME


def table(rows: Sequence[Row]) -> str:
    """Return Markdown."""
    names = (
        "network",
        "written by",
        "on integers",
        "within a step",
        "each layer alone",
        "ONNX Runtime's kernels",
        "compile time",
        "floats",
    )
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for name, subject in SUBJECTS.items():
        for place, row in enumerate(row for row in rows if row["network"] == name):
            title = "" if place else subject.title
            if "error" in row:
                lines.append(f"| {title} | {row['kind']} | {row['error'].splitlines()[0][:80]} | | | | | |")
                continue
            alone = f"{row['alone']:.2%}" if "alone" in row else ""
            shares = f"{row['share']:.1%} | {row['near']:.2%} | {alone} | {row['theirs']:.2%}"
            lines.append(
                f"| {title} | {row['kind']} | {shares} | {row['time']:.2f} | {'; '.join(row['reasons'][:2])} |"
            )
    return "\n".join(lines) + "\n"


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--writers", nargs="+", default=[""], help="the first letters of writers")
    parser.add_argument("--nncf", metavar="PYTHON", help="an interpreter that has NNCF")
    parser.add_argument("--target", default="host")
    parser.add_argument("--inner", action="store_true", help="compare all 8-bit values inside too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the quantized files there")
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "docs" / "foreign.json")
    parser.add_argument("--docs", type=Path, help="a guide whose table is replaced")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.networks) - SUBJECTS.keys())
    if unknown:
        parser.error(f"there is no network {', '.join(unknown)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = arguments_of(arguments)
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    made: list[Row] = []
    for name in options.networks or SUBJECTS:
        subject = SUBJECTS[name]
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "float.onnx"
            onnx.save(subject.make(), source)
            seconds = compiled(source, Target.load(options.target))[1]
            for writer in writers(options.nncf):
                if not writer.name.startswith(tuple(options.writers)):
                    continue
                made.append(measured(subject, source, writer, seconds, options))
                print(json.dumps(made[-1]), flush=True)
                rows = merged(rows, made[-1:])
                options.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    if options.docs:
        options.docs.write_text(replace_table(options.docs.read_text(), table(rows), MARK))
    return int(any(map(falls_short, made)))


if __name__ == "__main__":
    sys.exit(main())
