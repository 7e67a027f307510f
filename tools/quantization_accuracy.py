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
from tools.quantizing.table import FLOAT, replace_table, table
from tools.training.dataset import DATA

Logits = tuple[np.ndarray, np.ndarray]
"""Those of the images that choose a setting, and of the test images."""
Measured = tuple[dict[str, Any], Logits | None]


def measured(network: Network, quantizer: Quantizer | None, data: Path, floats: Logits | None) -> Measured:
    """Return the row of a network and a quantizer (None: as it is), and its logits.

    `floats`: the logits before quantization. An error of the quantizer is a row too.
    """
    row: dict[str, Any] = {"network": network.name, "kind": FLOAT, "settings": ""}
    with tempfile.TemporaryDirectory() as folder:
        path = network.path
        if quantizer is not None:
            path = Path(folder) / "quantized.onnx"
            row |= {"kind": quantizer.kind, "settings": quantizer.settings}
            try:
                quantizer.run(network, calibration_images(data), path)
            except Exception as error:  # the peers raise whatever they like
                return {**row, "error": f"{type(error).__name__}: {error}"}, None
        (choosing, classes), (images, labels) = choosing_images(data), test_images(data)
        found = answers(path, choosing), answers(path, images)
        row |= {"chosen by": round(accuracy(found[0], classes), 2), "accuracy": round(accuracy(found[1], labels), 2)}
        row["bytes"] = path.stat().st_size
        return row | (differences(floats[1], found[1], labels) if floats is not None else {}), found


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
        chosen = [None, *(q for q in quantizers(options.nncf) if q.kind.startswith(tuple(options.tools)))]
        floats: Logits | None = None
        for quantizer in chosen:
            row, found = measured(NETWORKS[name], quantizer, options.data, floats)
            floats = found if quantizer is None else floats
            print(*(f"{value}" for value in row.values()), sep="  ", flush=True)
            rows = merged(rows, [row])
            options.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    if options.docs:
        options.docs.write_text(replace_table(options.docs.read_text(), table(rows)))
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
