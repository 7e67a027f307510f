"""Measure matmuls by matrices of few bits against the memory's bandwidth and ONNX Runtime's MatMulNBits.

    python -m tools.few_bits_speed [--shapes 4096x4096 ...] [--rows 1 128] [--levels 0 4] [--threads 1 2] [--folder DIR]

A model has as many such matrices as exceed the caches together, each multiplied with the same data, so that every
matrix comes from memory as in a language model. Its time is divided by their number. Both runtimes get the same file;
`accuracy_level` 4 permits both to round the data to 8 bits. Bandwidth is that of a plain sum over 256 MiB with as many
threads, measured before and after; "read" are the bytes of integers and scales (and zero points) in the file, in
relation to time and bandwidth. With --folder, compiled models are kept, and reused if they exist. Exit status 1 if the
outputs of the runtimes differ by more than ONNX Runtime's own rounding explains.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.driver import backend
from graphopt.hardware.target import Target
from tools import peers
from tools.bench_worker import Worker, take_turns

LARGE = 144 << 20
"""The bytes of all matrices of a model with few rows: some times what caches hold."""
FEW = 16
TOLERANCE = {0: 1e-4, 4: 2e-2}
"""The accepted difference from ONNX Runtime's outputs, relative to the largest, by accuracy level."""
RIVAL = "onnxruntime"


@dataclass(frozen=True)
class Case:
    """A matmul of (m, k) by (k, n), of which a model has `copies`."""

    m: int
    k: int
    n: int
    level: int
    bits: int = 4
    block: int = 32
    zeros: bool = False

    @property
    def bytes(self) -> int:
        """The bytes of a matrix: integers, scales and zero points."""
        groups = self.k // self.block
        return self.n * (self.k * self.bits // 8 + 4 * groups + (groups * self.bits // 8 if self.zeros else 0))

    @property
    def copies(self) -> int:
        return -(-LARGE // self.bytes) if self.m < FEW else 1

    @property
    def name(self) -> str:
        zeros = "-zeros" if self.zeros else ""
        return f"{self.m}x{self.k}x{self.n}-{self.bits}bits-{self.block}{zeros}-level{self.level}"

    def model(self) -> onnx.ModelProto:
        """Return the model; its matrices differ, their data are the same."""
        random = np.random.default_rng(0)
        groups = self.k // self.block
        nodes, constants, outputs = [], [], []
        sizes = {"K": self.k, "N": self.n, "bits": self.bits, "block_size": self.block, "accuracy_level": self.level}
        for copy in range(self.copies):
            arrays = {
                "w": random.integers(0, 256, (self.n, groups, self.block * self.bits // 8), np.uint8),
                "s": random.random((self.n, groups), np.float32) / 100,
            }
            if self.zeros:
                arrays["z"] = random.integers(0, 256, (self.n, -(-groups * self.bits // 8)), np.uint8)
            constants += [numpy_helper.from_array(array, f"{name}{copy}") for name, array in arrays.items()]
            inputs = ["x", *(f"{name}{copy}" for name in arrays)]
            nodes.append(helper.make_node("MatMulNBits", inputs, [f"y{copy}"], domain="com.microsoft", **sizes))
            outputs.append(helper.make_tensor_value_info(f"y{copy}", TensorProto.FLOAT, [self.m, self.n]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [self.m, self.k])
        graph = helper.make_graph(nodes, self.name, [x], outputs, constants)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@dataclass(frozen=True)
class Row:
    """The median seconds of one matmul by runtime, and the bytes that memory gives in a second."""

    case: Case
    threads: int
    seconds: dict[str, float]
    bandwidth: float
    error: float

    @property
    def of_bandwidth(self) -> float:
        return self.case.bytes / self.seconds[peers.OURS] / self.bandwidth


def prepare(case: Case, folder: Path, target: str) -> None:
    """Write the files that workers read into `folder`, unless they are there."""
    if (folder / "feed.npz").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(case.model(), folder / "model.onnx")
    graphopt.compile(folder / "model.onnx", target=target, tune="off").save(folder / "model.gopt")
    np.savez(folder / "feed.npz", x=np.random.default_rng(1).standard_normal((case.m, case.k)).astype(np.float32))


def measure(case: Case, folder: Path, threads: int, target: Target, seconds: float) -> Row:
    """Time both runtimes, interleaved, and compare their outputs."""
    before = backend.load().peak(target, threads)
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(name, folder, threads, "wall")) for name in (peers.OURS, RIVAL)}
        ours, theirs = (workers[name].outputs() for name in (peers.OURS, RIVAL))
        errors = [np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max() for name in theirs]
        timings = take_turns(workers, 200, seconds)
    peak = before.or_better(backend.load().peak(target, threads))
    each = {name: timing.p50 / case.copies for name, timing in timings.items()}
    return Row(case, threads, each, peak.bytes, float(max(errors)))


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| rows | matrix | accuracy level | threads | graphopt | ONNX Runtime | ratio | read | of the bandwidth |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        case, ours, theirs = row.case, row.seconds[peers.OURS], row.seconds[RIVAL]
        cells = [
            case.m,
            f"{case.k}x{case.n}",
            case.level,
            row.threads,
            f"{ours * 1e3:.3f} ms",
            f"{theirs * 1e3:.3f} ms",
        ]
        cells += [f"{theirs / ours:.2f}", f"{case.bytes / ours / 1e9:.1f} GB/s"]
        cells.append(f"{row.of_bandwidth:.0%} of {row.bandwidth / 1e9:.1f} GB/s")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield the cases of the command line."""
    for shape in options.shapes:
        k, _, n = shape.partition("x")
        for m in options.rows:
            for level in options.levels:
                yield Case(m, int(k), int(n), level, options.bits, options.block, options.zeros)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", metavar="KxN", default=["4096x4096", "4096x11008"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 128])
    parser.add_argument("--levels", nargs="+", type=int, choices=sorted(TOLERANCE), default=[0, 4])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--zeros", action="store_true", help="store zero points")
    parser.add_argument("--target", default="host")
    parser.add_argument("--seconds", type=float, default=3, help="for each case and number of threads")
    parser.add_argument("--folder", type=Path, help="where to keep the compiled models")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="graphopt-bits-") as temporary:
        rows = []
        for case in cases(options):
            folder = (options.folder or Path(temporary)) / case.name
            print(case.name, file=sys.stderr, flush=True)
            prepare(case, folder, options.target)
            if options.seconds:
                target = Target.load(options.target)
                rows += [measure(case, folder, threads, target, options.seconds) for threads in options.threads]
    print(table(rows))
    return 0 if all(row.error <= TOLERANCE[row.case.level] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
