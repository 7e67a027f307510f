"""`graphopt demo`: the complete workflow on a network that ships with graphopt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.errors import VerificationError
from graphopt.util.tables import Table, format_bytes, format_seconds

from .options import Json
from .output import Output

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
    run on 1,000 test images before (in ONNX Runtime) and after, and timed on one image at a time.

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
        artifact = graphopt.compile(MODEL, observers=[keep], progress=progress)
    if out is not None:
        artifact.save(out)
    session = runtime.load(artifact.folder, threads=threads)
    with Reference(MODEL, optimize=True, threads=threads) as reference:
        before = _logits(reference.run, images)
        after = _logits(session.run, images)
        error = _check(before, after)
        image = {"image": images[:1]}
        runners: dict[str, Runner] = {
            "onnxruntime": lambda: reference.run(image),
            "graphopt": lambda: session.run(image),
        }
        timings = interleave(runners, runs=runs, seconds=10)
    scores = [float((logits.argmax(1) == labels).mean()) for logits in (before, after)]
    changed = int((before.argmax(1) != after.argmax(1)).sum())
    found = Findings(artifact, keep.report, len(images), scores[0], scores[1], changed, error, timings, threads)
    _show(output, found, out)


@dataclass(frozen=True)
class Findings:
    """The results of the demo: accuracy before and after, changed answers, the largest error, timings."""

    artifact: Artifact
    report: Report
    images: int
    accuracy_before: float
    accuracy_after: float
    answers_changed: int
    error: float
    timings: dict[str, Timing]
    threads: int

    @property
    def ratio(self) -> float:
        """How many times faster graphopt is than ONNX Runtime, by the medians."""
        return self.timings["onnxruntime"].p50 / self.timings["graphopt"].p50

    @property
    def library_bytes(self) -> int:
        from graphopt.runtime.manifest import LIBRARY

        return (self.artifact.folder / LIBRARY).stat().st_size


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
    from graphopt.runtime.manifest import WEIGHTS

    weights = (found.artifact.folder / WEIGHTS).stat().st_size
    output.table(found.report.table())
    times = found.timings
    table = Table("the demo's network", ("", "before", "after"), right=frozenset({"before", "after"}))
    table.add("run by", "ONNX Runtime", "native code")
    table.add(f"accuracy on {found.images:,} images", f"{found.accuracy_before:.1%}", f"{found.accuracy_after:.1%}")
    table.add("size on disk", format_bytes(MODEL.stat().st_size), format_bytes(found.library_bytes + weights))
    for name, key in (("latency, median", "p50"), ("latency, 90 of 100", "p90")):
        pair = (format_seconds(getattr(times[peer], key)) for peer in ("onnxruntime", "graphopt"))
        table.add(name, *pair)
    output.table(table)
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    output.line(f"\nONNX Runtime's time / graphopt's: {found.ratio:.2f} (one image at a time, {threads}, medians)")
    output.line(f"answers that changed: {found.answers_changed} of {found.images:,}; largest error {found.error:.1e}")
    if out is not None:
        output.line(f"wrote {out}")
    output.result(_to_json(found, weights, out))


def _to_json(found: Findings, weights: int, out: Path | None) -> dict[str, Any]:
    return {
        "images": found.images,
        "accuracy": {"before": found.accuracy_before, "after": found.accuracy_after},
        "answers_changed": found.answers_changed,
        "error": found.error,
        "bytes": {
            "onnx": MODEL.stat().st_size,
            "library": found.library_bytes,
            "weights": weights,
            "artifact": found.artifact.nbytes,
        },
        "threads": found.threads,
        "timings": {name: timing.to_json() for name, timing in found.timings.items()},
        "ratio": found.ratio,
        "report": found.report.to_json(),
        "artifact": str(out) if out else None,
    }
