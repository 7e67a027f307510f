"""The networks that are quantized, the images that they are calibrated on, and their accuracy on others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphopt.proof.oracle import Reference
from tools.training.dataset import as_input, load_split

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLES = 500
_CHOOSING = 5000
_BATCH = 50
Images = tuple[np.ndarray, np.ndarray]
"""Images, uint8 N x 28 x 28, and their classes."""


@dataclass(frozen=True)
class Network:
    """A network for Fashion-MNIST: `image` N x 1 x 28 x 28 to `logits` N x 10."""

    name: str
    title: str
    path: Path
    transformer: bool = False


NETWORKS = {
    network.name: network
    for network in (
        Network("demo", "Residual CNN of the demo", ROOT / "graphopt" / "demo" / "fashion.onnx"),
        Network("mobilenet", "MobileNetV3-like CNN", ROOT / "tests" / "networks" / "mobilenet.onnx"),
        Network("vit", "Vision transformer", ROOT / "tests" / "networks" / "vit.onnx", transformer=True),
    )
}


def calibration_images(folder: Path) -> np.ndarray:
    """The first training images: float32 500 x 1 x 28 x 28. Their labels are not used."""
    return as_input(load_split(folder, "train")[0][:SAMPLES])


def test_images(folder: Path) -> Images:
    """The 10,000 images that accuracies are measured on."""
    return load_split(folder, "t10k")


def choosing_images(folder: Path) -> Images:
    """The last 5,000 training images, by which the best of several settings is chosen."""
    images, labels = load_split(folder, "train")
    return images[-_CHOOSING:], labels[-_CHOOSING:]


def answers(model: Path, images: np.ndarray) -> np.ndarray:
    """What a model answers to images: logits, float32 N x 10.

    ONNX Runtime computes it node by node, without its integer kernels: those for processors without VNNI saturate.
    """
    with Reference(model) as reference:
        parts = [
            np.asarray(reference.run({"image": as_input(images[start : start + _BATCH])})["logits"])
            for start in range(0, len(images), _BATCH)
        ]
    return np.concatenate(parts)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The percentage of right answers."""
    return 100 * float((logits.argmax(1) == labels).mean())


def signal_to_noise(floats: np.ndarray, logits: np.ndarray) -> float:
    """How near logits are to those before quantization, in dB: unlike the accuracy, hardly a matter of luck.

    A common shift of an image's logits changes no probability and does not count.
    """
    signal, other = (x.astype(np.float64) - x.mean(1, keepdims=True) for x in (floats, logits))
    return 10 * float(np.log10((signal**2).sum() / max(((signal - other) ** 2).sum(), np.finfo(float).tiny)))
