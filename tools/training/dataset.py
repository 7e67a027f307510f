"""Fashion-MNIST, as Debian's package `dataset-fashion-mnist` installs it (Zalando Research; MIT licence)."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np

DATA = Path("/usr/share/datasets/fashion-mnist")


def read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file: magic number with the rank in its last byte, big-endian sizes, then bytes."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        content = file.read()
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def load_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 N x 28 x 28, labels uint8 N) of `train` or `t10k`, gzipped or not."""

    def find(kind: str) -> Path:
        found = sorted(folder.rglob(f"{split}-{kind}-ubyte*"))
        if not found:
            sys.exit(f"{folder} contains no {split}-{kind}-ubyte: install dataset-fashion-mnist or use --data")
        return found[0]

    return read_idx(find("images-idx3")), read_idx(find("labels-idx1"))


def as_input(images: np.ndarray) -> np.ndarray:
    """Images as all of these networks take them: float32 N x 1 x 28 x 28 between 0 and 1."""
    return images[:, None].astype(np.float32) / np.float32(255)
