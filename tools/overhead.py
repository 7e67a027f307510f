"""Measure the overhead of a call: tiny models here and in ONNX Runtime, one thread, interleaved.

    python -m tools.overhead [--rounds N]

Prints, for each model, the median microseconds of `Session.run` and of ONNX Runtime's, and their ratio (above 1: this
runtime is faster). A round times a batch of calls of each in turn, so that what disturbs one disturbs both.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from graphopt import io, runtime
from graphopt.cli.demo import MODEL
from graphopt.driver import compiling as compiler
from graphopt.ir import Model
from graphopt.ir.text import parse

_CALLS = 20  # of each in one round


def tiny_models() -> dict[str, Model]:
    """One addition, a small dense layer, a chain of 40 of them, and the network of `graphopt demo`."""
    rng = np.random.default_rng(0)

    def dense(layers: int) -> str:
        names = ["x", *(f"r{i}" for i in range(1, layers)), "y"]
        weights = [",".join(map(str, rng.standard_normal(1024).astype(np.float32) / 8)) for _ in range(layers)]
        head = ", ".join(f"float[32,32] w{i} = {{{text}}}" for i, text in enumerate(weights))
        steps = (f"m{i} = MatMul({names[i]}, w{i}) {names[i + 1]} = Relu(m{i})" for i in range(layers))
        return f"dense (float[1,32] x) => (float[1,32] y) <{head}> {{ {' '.join(steps)} }}"

    texts = {
        "add": "add (float[1,16] a, float[1,16] b) => (float[1,16] y) { y = Add(a, b) }",
        "dense": dense(1),
        "40 dense": dense(40),
    }
    models = {name: parse(f'<ir_version: 10, opset_import: ["" : 21]> {text}') for name, text in texts.items()}
    return {**models, "demo": io.load(MODEL)}


def medians(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of a call of each, in `rounds` rounds that alternate between them."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, taken in zip((ours, theirs), seconds, strict=True):
            start = time.perf_counter()
            for _ in range(_CALLS):
                call()
            taken.append((time.perf_counter() - start) / _CALLS)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def compare(model: Model, rounds: int) -> tuple[float, float]:
    """Median seconds of a call of the compiled model and of ONNX Runtime's session."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.onnx"
        io.save(model, path)
        peer = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        session = runtime.load(compiler.compile(model).save(Path(name) / "model.gopt"), threads=1)
        rng = np.random.default_rng(1)
        shapes = {info.name: [d if isinstance(d, int) else 1 for d in info.shape] for info in session.inputs}
        given = {key: rng.random(shape, np.float32) for key, shape in shapes.items()}
        for key, array in session.run(given).items():
            np.testing.assert_allclose(array, peer.run([key], given)[0], rtol=1e-3, atol=1e-3)
        return medians(lambda: session.run(given), lambda: peer.run(None, given), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    print(f"{'model':10} {'graphopt':>10} {'ONNX Runtime':>14} {'ratio':>7}")
    for name, model in tiny_models().items():
        ours, theirs = compare(model, rounds)
        print(f"{name:10} {ours * 1e6:7.1f} us {theirs * 1e6:11.1f} us {theirs / ours:7.2f}")


if __name__ == "__main__":
    main()
