"""Measure what `graphopt quantize` takes: wall-clock and CPU time, and memory beyond that of the float model.

    python -m tools.quantization_cost [MODEL] [--images 500] [--passes quantize,mend] [OPTION ...]

MODEL is a name of the catalogue or an ONNX file with one input of images; further options are those of the command. The
images are random, but smooth as photos are. The memory of the float model is the peak of a process that runs it once in
ONNX Runtime. The progress of the command is printed; its lines tell how long each step takes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from graphopt import io
from graphopt.data.checking import required_inputs
from graphopt.util.tables import format_bytes
from tools import catalogue

_COMMAND = "import sys; from graphopt.cli.app import main; sys.exit(main())"
_ONCE = """
import sys, numpy
from graphopt.proof.oracle import Reference
with numpy.load(sys.argv[2]) as file:
    feed = dict(file)
Reference(sys.argv[1]).run(feed)
"""


def photo(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Return an image [C, H, W] with mean 0 and deviation 1, in which large structures are stronger than small ones."""
    image = np.zeros(shape)
    for size in (2, 4, 8, 16, 32, 64):
        cells = rng.normal(size=(shape[0], *(-(-side // size) for side in shape[1:])))
        image += size * np.kron(cells, np.ones((1, size, size)))[:, : shape[1], : shape[2]]
    return ((image - image.mean()) / image.std()).astype(np.float32)


def write_images(path: Path, model: Path, count: int) -> None:
    """Write samples for the model's input, whose open dimensions become 1 (the batch) and 224."""
    (value,) = required_inputs(io.load(model))
    assert value.shape is not None
    shape = [size if isinstance(size, int) else 224 for size in value.shape[1:]]
    rng = np.random.default_rng(0)
    np.savez(path, **{value.name: np.stack([photo(rng, shape) for _ in range(count)])})


def measured(command: list[str]) -> tuple[float, float, int]:
    """Run a command; return its seconds, its CPU seconds and its peak memory. Raises SystemExit if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="resnet50")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--passes", default="quantize,mend")
    given, options = parser.parse_known_args()
    model = catalogue.entry(given.model).path
    with tempfile.TemporaryDirectory(prefix="graphopt-cost-") as folder:
        samples, one, out = (Path(folder) / name for name in ("images.npz", "image.npz", "int8.onnx"))
        write_images(samples, model, given.images)
        write_images(one, model, 1)
        *_, own = measured([sys.executable, "-c", _ONCE, str(model), str(one)])
        words = ["quantize", str(model), "-o", str(out), "-c", str(samples), "--passes", given.passes, *options]
        seconds, cpu, peak = measured([sys.executable, "-c", _COMMAND, *words])
    print(f"{given.model}, {given.images} images, {given.passes}: {seconds:.0f} s, {cpu:.0f} s of CPU time")
    print(
        f"peak memory {format_bytes(peak)}, the float model's own {format_bytes(own)}: {format_bytes(peak - own)} more"
    )


if __name__ == "__main__":
    main()
