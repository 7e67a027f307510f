"""Measure how much accuracy quantization costs: graphopt, a naive control, ONNX Runtime's quantizer and NNCF.

    python tools/quantization_accuracy.py [--networks demo mobilenet vit] [--tools TEXT ...] [--nncf PYTHON]
        [-o docs/quantization.json] [--docs docs/quantization.md]

Three networks for Fashion-MNIST are quantized with the same 500 training images without labels, and judged on the
10,000 test images. Of a tool's settings, the one that is best on 5,000 other training images stands for it. Rows are
written to a JSON file, in which rows that are not measured again stay; the table in the guide is made of them.
`--tools` takes the first letters of kinds of quantizers ("graphopt", "NNCF"). NNCF runs in an interpreter of its own:
`python -m venv nncf && nncf/bin/pip install nncf onnx onnxruntime openvino`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.quantizing.networks import (
    NETWORKS,
    ROOT,
    Network,
    accuracy,
    answers,
    calibration_images,
    choosing_images,
    signal_to_noise,
    test_images,
)
from tools.quantizing.quantizers import Quantizer, quantizers
from tools.quantizing.table import FLOAT, best_of, replace_table, table
from tools.training.dataset import DATA

Row = dict[str, Any]


@dataclass(frozen=True)
class Judge:
    """The images of a folder, and what the float network answers to those that choose and to the test images."""

    data: Path
    floats: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, network: Network, data: Path) -> Judge:
        return cls(data, (answers(network.path, choosing_images(data)[0]), answers(network.path, test_images(data)[0])))

    def row_of_floats(self, network: Network) -> Row:
        row = {"network": network.name, "kind": FLOAT, "settings": "", "bytes": network.path.stat().st_size}
        return row | {"accuracy": round(accuracy(self.floats[1], test_images(self.data)[1]), 2)}

    def tried(self, network: Network, quantizer: Quantizer, path: Path) -> Row:
        """Quantize a network, write it to a path, and return a row without results of the test.

        An error of the quantizer is a row too.
        """
        row: Row = {"network": network.name, "kind": quantizer.kind, "settings": quantizer.settings}
        try:
            quantizer.run(network, calibration_images(self.data), path)
        except Exception as error:  # the peers raise whatever they like
            return {**row, "error": f"{type(error).__name__}: {error}"}
        images, labels = choosing_images(self.data)
        found = answers(path, images)
        changed = int((found.argmax(1) != self.floats[0].argmax(1)).sum())
        chosen = {"choosing accuracy": round(accuracy(found, labels), 2), "choosing changed": changed}
        return row | {"bytes": path.stat().st_size} | chosen

    def tested(self, path: Path) -> Row:
        """Return the results of the test."""
        images, labels = test_images(self.data)
        found = answers(path, images)
        return {"accuracy": round(accuracy(found, labels), 2)} | differences(self.floats[1], found, labels)


def differences(floats: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return how the answers to test images differ from those of the float network."""
    before, after = floats.argmax(1), logits.argmax(1)
    return {
        "images": len(labels),
        "changed": int((before != after).sum()),
        "worse": int(((before == labels) & (after != labels)).sum()),
        "better": int(((before != labels) & (after == labels)).sum()),
        "decibels": round(signal_to_noise(floats, logits), 1),
    }


def rows_of_kind(judge: Judge, network: Network, settings: Sequence[Quantizer]) -> list[Row]:
    """Return a row for each setting of one kind; the best of them is tested."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.onnx" for number in range(len(settings))]
        rows = [judge.tried(network, quantizer, path) for quantizer, path in zip(settings, paths, strict=True)]
        best = best_of(rows)
        if best is not None:
            best |= judge.tested(paths[rows.index(best)])
    return rows


def merged(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of both in the order of the old ones; a new row replaces the old one of the same setting."""

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return row["network"], row["kind"], row["settings"]

    return list({**{key(row): row for row in old}, **{key(row): row for row in new}}.values())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--tools", nargs="+", default=[""], help="the first letters of kinds of quantizers")
    parser.add_argument("--nncf", metavar="PYTHON", help="an interpreter that has NNCF")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the IDX files")
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "docs" / "quantization.json")
    parser.add_argument("--docs", type=Path, help="a guide whose table is replaced")
    options = parser.parse_args(arguments)
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    for name in options.networks:
        network, judge = NETWORKS[name], Judge.of(NETWORKS[name], options.data)
        every = [q for q in quantizers(options.nncf) if q.kind.startswith(tuple(options.tools))]
        kinds = [[q for q in every if q.kind == kind] for kind in dict.fromkeys(q.kind for q in every)]
        for new in ([judge.row_of_floats(network)], *(rows_of_kind(judge, network, kind) for kind in kinds)):
            for row in new:
                print(*(f"{value}" for value in row.values()), sep="  ", flush=True)
            rows = merged(rows, new)
            options.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    if options.docs:
        options.docs.write_text(replace_table(options.docs.read_text(), table(rows)))
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
