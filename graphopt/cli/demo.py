"""`graphopt demo`: the complete workflow on a network that ships with graphopt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.errors import VerificationError
from graphopt.util.tables import Table, format_bytes, format_seconds

from .options import Json
from .output import Output, Progress

if TYPE_CHECKING:
    import numpy as np

    from graphopt.ir import Model
    from graphopt.profiling.bench import Runner, Timing
    from graphopt.rewriting.report import Report
    from graphopt.runtime.artifact import Artifact

FOLDER = Path(__file__).resolve().parent.parent / "demo"
MODEL = FOLDER / "fashion.onnx"
IMAGES = FOLDER / "test_images.npz"
_BATCH = 100
_CALIBRATION = 100
"""The images that ranges of activations are found on, without their labels."""


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """Return the images that ship with the demo, float32[1000,1,28,28] from 0 to 1, and their labels, int64[1000]."""
    import numpy as np

    with np.load(IMAGES, allow_pickle=False) as file:
        images = file["images"].astype(np.float32)[:, None] / np.float32(255)
        return images, file["labels"].astype(np.int64)


OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Keep the compiled model.", metavar="DEMO.gopt", show_default=False),
]
ThreadsOption = Annotated[int, typer.Option(help="Threads for each runtime when they are timed.", min=1)]
RunsOption = Annotated[int, typer.Option(help="Timed runs of each runtime.", min=1)]


def demo(
    out: OutOption = None,
    threads: ThreadsOption = 1,
    runs: RunsOption = 200,
    as_json: Json = False,
) -> None:
    """Compile a small network that comes with graphopt, and time it.

    The network classifies clothes (Fashion-MNIST, 28 x 28 pixels, ten classes). It is compiled for this machine,
    run on 1,000 test images before (in ONNX Runtime) and after, and timed on one image at a time. The same is done with
    the network quantized to 8 bits, with ranges of activations found on 100 of the images.

    \b
    Examples:
        graphopt demo
        graphopt demo -o demo.gopt && graphopt bench demo.gopt --threads 2
    """
    import graphopt
    from graphopt import runtime
    from graphopt.profiling.bench import interleave
    from graphopt.proof.oracle import Reference
    from graphopt.runtime.writing import check_replaceable

    output = Output(as_json)
    if out is not None:
        check_replaceable(out)
    images, labels = load_images()
    keep = _kept_report()
    with output.progress() as progress:
        artifact = graphopt.compile(MODEL, observers=[keep], progress=lambda what, done: progress(what, done / 2))
        small = _quantized(images, lambda what, done: progress(f"int8: {what}", 0.5 + done / 2))
    if out is not None:
        artifact.save(out)
    session, int8 = (runtime.load(one.folder, threads=threads) for one in (artifact, small))
    with Reference(MODEL, optimize=True, threads=threads) as reference:
        before = _logits(reference.run, images)
        after, rounded = (_logits(one.run, images) for one in (session, int8))
        error = _check(before, after)
        image = {"image": images[:1]}
        runners: dict[str, Runner] = {
            "onnxruntime": lambda: reference.run(image),
            "graphopt": lambda: session.run(image),
            "graphopt int8": lambda: int8.run(image),
        }
        timings = interleave(runners, runs=runs, seconds=10)
    scores = tuple(float((logits.argmax(1) == labels).mean()) for logits in (before, after, rounded))
    changed = tuple(int((before.argmax(1) != logits.argmax(1)).sum()) for logits in (after, rounded))
    found = Findings(artifact, small, keep.report, len(images), scores, changed, error, timings, threads)
    _show(output, found, out)


@dataclass(frozen=True)
class Findings:
    """The results of the demo: accuracy of the original, compiled and in 8 bits, changed answers, error, timings."""

    artifact: Artifact
    small: Artifact
    report: Report
    images: int
    accuracies: tuple[float, ...]
    answers_changed: tuple[int, ...]
    error: float
    timings: dict[str, Timing]
    threads: int

    @property
    def ratio(self) -> float:
        """How many times faster graphopt is than ONNX Runtime, by the medians."""
        return self.timings["onnxruntime"].p50 / self.timings["graphopt"].p50


def _code_and_weights(artifact: Artifact) -> tuple[int, int]:
    """Return the bytes of the library and of the weights."""
    from graphopt.runtime.manifest import LIBRARY, WEIGHTS

    return (artifact.folder / LIBRARY).stat().st_size, (artifact.folder / WEIGHTS).stat().st_size


def _quantized(images: np.ndarray, progress: Progress) -> Artifact:
    """Return the network in 8 bits, compiled."""
    import graphopt
    from graphopt.driver.quantizing import quantize

    few = [{"image": image[None]} for image in images[:_CALIBRATION]]
    result = quantize(MODEL, few, progress=lambda what, done: progress(what, done / 2))
    return graphopt.compile(result.model, progress=lambda what, done: progress(what, 0.5 + done / 2))


def _kept_report() -> Any:
    """Return an observer that keeps the report with its times; the one in the artifact has none, to be reproducible."""
    from graphopt.rewriting.pipeline import Observer

    class Keep(Observer):
        report: Report

        def end(self, model: Model, report: Report) -> None:
            self.report = report

    return Keep()


def _logits(run: Any, images: np.ndarray) -> np.ndarray:
    import numpy as np

    parts = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    return np.concatenate([run({"image": part})["logits"] for part in parts])


def _check(before: np.ndarray, after: np.ndarray) -> float:
    """Return the largest relative error of the compiled network. Raises VerificationError if it is too large."""
    from graphopt.proof.tolerance import compare

    comparison = compare({"logits": before}, {"logits": after})
    if not comparison.ok:
        raise VerificationError(
            f"the compiled network does not compute what the original does: {comparison}",
            where="demo",
            remedy="Run `graphopt compile --verify` on the model to find the faulty step.",
        )
    return comparison.error


def _show(output: Output, found: Findings, out: Path | None) -> None:
    output.table(found.report.table())
    times = found.timings
    columns = ("", "before", "after", "in 8 bits")
    table = Table("the demo's network", columns, right=frozenset(columns[1:]))
    table.add("run by", "ONNX Runtime", "native code", "native code")
    table.add(f"accuracy on {found.images:,} images", *(f"{accuracy:.1%}" for accuracy in found.accuracies))
    sizes = [sum(_code_and_weights(artifact)) for artifact in (found.artifact, found.small)]
    table.add("size on disk", *map(format_bytes, (MODEL.stat().st_size, *sizes)))
    table.add("weights", "", *(format_bytes(_code_and_weights(one)[1]) for one in (found.artifact, found.small)))
    for name, key in (("latency, median", "p50"), ("latency, 90 of 100", "p90")):
        peers = ("onnxruntime", "graphopt", "graphopt int8")
        table.add(name, *(format_seconds(getattr(times[peer], key)) for peer in peers))
    output.table(table)
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    output.line(f"\nONNX Runtime's time / graphopt's: {found.ratio:.2f} (one image at a time, {threads}, medians)")
    changed, rounded = found.answers_changed
    output.line(f"answers that changed: {changed} of {found.images:,}; largest error {found.error:.1e}")
    output.line(f"answers that changed in 8 bits: {rounded} of {found.images:,}")
    if out is not None:
        output.line(f"wrote {out}")
    output.result(_to_json(found, out))


def _to_json(found: Findings, out: Path | None) -> dict[str, Any]:
    library, weights = _code_and_weights(found.artifact)
    small = _code_and_weights(found.small)
    return {
        "images": found.images,
        "accuracy": dict(zip(("before", "after", "int8"), found.accuracies, strict=True)),
        "answers_changed": found.answers_changed[0],
        "error": found.error,
        "bytes": {
            "onnx": MODEL.stat().st_size,
            "library": library,
            "weights": weights,
            "artifact": found.artifact.nbytes,
        },
        "int8": {
            "answers_changed": found.answers_changed[1],
            "bytes": {"library": small[0], "weights": small[1], "artifact": found.small.nbytes},
        },
        "threads": found.threads,
        "timings": {name: timing.to_json() for name, timing in found.timings.items()},
        "ratio": found.ratio,
        "report": found.report.to_json(),
        "artifact": str(out) if out else None,
    }
