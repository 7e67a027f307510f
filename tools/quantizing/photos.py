"""Photos to calibrate classifiers on and to judge them with: those that the package of scikit-image carries."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image

from tools.fetch_models import FetchError, cache_folder, members

PACKAGE = "scikit-image==0.25.2"
CALIBRATION = ("chelsea.png", "coffee.png", "grass.png", "motorcycle_left.png", "moon.png", "clock_motion.png")
JUDGING = (
    "astronaut.png",
    "rocket.jpg",
    "camera.png",
    "coins.png",
    "gravel.png",
    "brick.png",
    "hubble_deep_field.jpg",
)
SHA256 = "389554c74d490ed8ecfe50d0b8e108e890bdfff2de3875253fbed03b528157c4"
"""Of all of them, one after the other."""


def photos(judge: bool) -> list[Image.Image]:
    """Return the photos as RGB, fetched first if they are not in the cache. Raises FetchError if that is impossible."""
    names = (*CALIBRATION, *JUDGING)
    folder = cache_folder() / "photos"
    if not _whole(folder, names):
        found = members(PACKAGE, [f"skimage/data/{name}" for name in names])
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_bytes(found[f"skimage/data/{name}"])
        if not _whole(folder, names):
            raise FetchError(f"{PACKAGE}: its photos are not the pinned ones")
    return [Image.open(folder / name).convert("RGB") for name in (JUDGING if judge else CALIBRATION)]


def _whole(folder: Path, names: tuple[str, ...]) -> bool:
    paths = [folder / name for name in names]
    if not all(path.is_file() for path in paths):
        return False
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest() == SHA256
