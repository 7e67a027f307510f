"""Measure the size of artifacts, and the memory that compiling takes, relative to the models.

    python -m tools.artifact_size [MODEL ...] [--target x86] [--compact] [-o FILE.json]

MODEL is a name of the suite or an ONNX file; the default are the names in DEFAULT. Each is compiled by a separate
`graphopt compile`. Its memory is the peak of that process and all its children together, with shared pages counted once
(the sum of the proportional set sizes), including memory-mapped files. The compiler itself takes some hundred megabytes
of it, whatever the model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import psutil

from graphopt import io
from graphopt.io.files import weight_bytes
from graphopt.util.tables import format_bytes
from tools import suite

DEFAULT = ("squeezenet", "resnet50", "vgg19")
_INTERVAL = 0.05
_COMMAND = "import sys; from graphopt.cli.app import main; sys.exit(main())"


@dataclass(frozen=True)
class Row:
    """Sizes in bytes: of the model's file, of its weights, of the artifact, and of peak memory."""

    name: str
    model: int
    weights: int
    artifact: int
    memory: int

    def text(self) -> str:
        """The row of the printed table."""
        sizes = (format_bytes(size) for size in (self.model, self.artifact))
        of_weights = f"{self.memory / self.weights:.2f}" if self.weights else "-"  # "-": all in nodes Constant
        ratios = f"{self.artifact / self.model:.2f}", format_bytes(self.memory), of_weights
        return "".join(f"{cell:>12}" for cell in (*sizes, *ratios))


def measure(name: str, options: Sequence[str]) -> Row:
    """Compile one model and measure it. Raises CalledProcessError if it does not compile."""
    with tempfile.TemporaryDirectory(prefix="graphopt-size-") as folder:
        path, out = Path(name), Path(folder) / "model.gopt"
        if path.suffix != ".onnx":
            path = Path(folder) / "model.onnx"
            onnx.save(suite.fixed(name, 1), path)
        command = [sys.executable, "-c", _COMMAND, "compile", str(path), "-o", str(out), *options]
        memory = _watched(command)
        artifact = sum(file.stat().st_size for file in out.iterdir())
        data = path.with_name(path.name + ".data")
        model = path.stat().st_size + (data.stat().st_size if data.exists() else 0)
        return Row(path.stem if path.suffix == ".onnx" else name, model, weight_bytes(io.load(path)), artifact, memory)


def _watched(command: list[str]) -> int:
    """Run a command; return the peak memory of it and its children together."""
    most = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            most = max(most, _memory(watched))
            time.sleep(_INTERVAL)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return most


def _memory(process: psutil.Process) -> int:
    """Return the memory of a process and its children in bytes, with shared pages counted once."""
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for one in family:
        try:
            lines = Path(f"/proc/{one.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError):
            continue  # it has ended
        total += next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
    return total


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; see the module's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=list(DEFAULT))
    parser.add_argument("--target", default="host")
    parser.add_argument("--compact", action="store_true", help="compile with --compact")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE.json")
    given = parser.parse_args(arguments)
    options = ["--target", given.target, *(["--compact"] if given.compact else [])]
    rows = []
    print(f"{'':20}{'model':>12}{'artifact':>12}{'ratio':>12}{'memory':>12}{'of weights':>12}")
    for name in given.models:
        row = measure(name, options)
        rows.append(row)
        print(f"{Path(name).stem[:20]:20}{row.text()}", flush=True)
    if given.out:
        given.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
