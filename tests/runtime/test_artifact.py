"""The artifact folder: its contents, atomic writing, and the detection of damage."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from graphopt import runtime
from graphopt.errors import ArtifactError, InputError
from graphopt.runtime import artifact, checks, writing
from graphopt.runtime.artifact import Artifact
from graphopt.runtime.members import sha256
from tests.compiled import compiled, copy, expected, inputs


def edit(folder: Path, **changes: object) -> None:
    """Change keys of the manifest, leaving everything else as it was written."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def alter(path: Path) -> None:
    """Change the last byte of a file."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_what_is_in_the_folder(tmp_path):
    folder = copy(tmp_path)
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json",
        "lib.so",
        "weights.bin",
        "kernels.json",
        "graph.onnx",
        "report.json",
    }
    told = manifest(folder)
    assert told["target"]["name"] == "host"
    assert told["machine"] == told["target"]["machine"]
    assert told["features"] == told["target"]["features"]
    assert told["inputs"] == [
        {"name": "x", "dtype": "float32", "shape": ["N", 16]},
        {"name": "bias", "dtype": "float32", "shape": ["N", 32]},
    ]
    assert [output["name"] for output in told["outputs"]] == ["y", "h"]
    assert {"graphopt", "apache-tvm", "apache-tvm-ffi"} <= set(told["versions"])
    assert told["fidelity"] == "float"
    assert told["pipeline"] == "default,layout"
    assert set(told["files"]) == {"lib.so", "weights.bin", "kernels.json", "graph.onnx", "report.json"}
    assert all(weight["offset"] % 64 == 0 for weight in told["weights"])


def test_saved_and_loaded_it_runs(tmp_path):
    loaded = Artifact.load(copy(tmp_path))
    given = inputs()
    outputs = loaded.run(given)
    for name, array in expected(given).items():
        np.testing.assert_allclose(outputs[name], array, atol=1e-5)
    assert loaded.nbytes == sum(p.stat().st_size for p in loaded.folder.iterdir())


def test_a_compiled_artifact_needs_no_saving(tmp_path):
    given = inputs()
    np.testing.assert_allclose(compiled().run(given)["h"], expected(given)["h"], atol=1e-5)


def test_an_artifact_is_replaced(tmp_path):
    folder = copy(tmp_path)
    (folder / "lib.so").write_bytes(b"old")
    assert compiled().save(folder) == folder
    Artifact.load(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gopt"]
    os.chmod(folder, 0o755)


def test_saved_folders_have_ordinary_permissions(tmp_path):
    folder = copy(tmp_path)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_nothing_else_is_replaced(tmp_path, kind):
    """A folder with a manifest.json of something else is as precious as any."""
    place = tmp_path / "precious"
    if kind == "file":
        place.write_text("precious")
    elif kind == "link":
        place.symlink_to(copy(tmp_path))
    else:
        place.mkdir()
        (place / "manifest.json").write_text('{"name": "a web extension", "manifest_version": 3}')
    with pytest.raises(ArtifactError, match="exists already and is not an artifact"):
        compiled().save(place)
    assert place.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "new").mkdir()
    compiled().save(tmp_path / "new")
    Artifact.load(tmp_path / "new")


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    folder = copy(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact.shutil, "copyfile", full)
    with pytest.raises(ArtifactError, match="cannot be written: No space left on device"):
        compiled().save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.gopt"]


def test_a_failed_exchange_brings_back_what_was_there(tmp_path, monkeypatch):
    folder = copy(tmp_path)
    replace = os.replace

    def fail(source: object, target: object) -> None:
        if Path(str(target)) == folder and "-old-" not in str(source):
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(writing.os, "replace", fail)
    with pytest.raises(ArtifactError, match="cannot be written: Input/output error"):
        compiled().save(folder)
    Artifact.load(folder)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be"):
        compiled().save(tmp_path / "file" / "model.gopt")


def test_a_temporary_folder_goes_with_its_artifact(tmp_path):
    folder = copy(tmp_path)
    temporary = Artifact(folder, temporary=True)
    del temporary
    assert not folder.exists()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda f: (f / "manifest.json").unlink(), "is not an artifact: it has no manifest.json"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff"), "manifest.json is damaged"),
        (lambda f: (f / "manifest.json").write_text("[1]"), "has format None"),
        (lambda f: edit(f, format=99), "has format 99, and this graphopt reads format 3"),
        (lambda f: edit(f, inputs=3), "manifest.json is damaged"),
        (lambda f: edit(f, format=2), "has format 2, and this graphopt reads format 3"),
        (lambda f: edit(f, files={}), "does not list lib.so"),
        (lambda f: (f / "lib.so").unlink(), "lib.so is missing"),
        (lambda f: (f / "weights.bin").write_bytes(b""), "weights.bin has 0 bytes instead of"),
        (lambda f: alter(f / "lib.so"), "lib.so was modified"),
        (lambda f: (f / "graph.onnx").unlink(), "graph.onnx is missing"),
        (lambda f: edit(f, machine="riscv64"), r"is compiled for riscv64 \(target host\)"),
        (lambda f: edit(f, device="npu"), "unknown device 'npu'"),
        (lambda f: edit(f, features=["avx9000"]), "needs CPU features .* lacks: avx9000"),
        (lambda f: edit(f, weights=[{"dtype": "float32", "shape": [9999], "offset": 0}]), "does not contain"),
        (lambda f: edit(f, weights=[{"dtype": "float32", "shape": [2], "offset": 4}]), "does not contain"),
        (lambda f: edit(f, weights=[{"dtype": "float32", "shape": [-2], "offset": 64}]), "does not contain"),
        (lambda f: edit(f, runtime=["libother.so"]), "does not list libother.so"),
    ],
)
def test_damage_is_named(tmp_path, damage, problem):
    folder = copy(tmp_path)
    damage(folder)
    with pytest.raises(ArtifactError, match=problem) as caught:
        runtime.load(folder)
    assert str(caught.value).startswith(str(folder))


@pytest.mark.parametrize("name", ["weights.bin", "graph.onnx", "report.json", "lib.so"])
def test_a_full_check_finds_every_altered_byte(tmp_path, name):
    """By default the contents of what is executed are checked, and of the others the sizes."""
    folder = copy(tmp_path)
    alter(folder / name)
    with pytest.raises(ArtifactError, match=f"{name} was modified: its SHA-256 differs"):
        runtime.load(folder, check="full")
    with pytest.raises(ArtifactError, match=f"{name} was modified: its SHA-256 differs"):
        Artifact.load(folder, check="full")
    if name != "lib.so":
        runtime.load(folder)


def test_by_default_no_weight_is_read_to_load(tmp_path, monkeypatch):
    folder = copy(tmp_path)
    hashed: list[str] = []
    monkeypatch.setattr(checks, "sha256", lambda path: hashed.append(path.name) or sha256(path))
    runtime.load(folder)
    assert hashed == ["lib.so"]
    runtime.load(folder, check="full")
    assert set(hashed[1:]) == set(manifest(folder)["files"])


def test_a_check_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match="there is no check 'all'"):
        runtime.load(copy(tmp_path), check="all")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/b", "..", "", "x\0y"])
def test_a_name_that_leads_out_of_the_folder(tmp_path, name):
    folder = copy(tmp_path)
    (tmp_path / "outside").write_text("secret")
    files = manifest(folder)["files"]
    edit(folder, files={**files, name: {"sha256": "0" * 64, "bytes": 6}})
    with pytest.raises(ArtifactError, match="is not a plain file of this folder"):
        runtime.load(folder)


@pytest.mark.parametrize("name", ["lib.so", "manifest.json", "weights.bin"])
def test_a_link_out_of_the_folder(tmp_path, name):
    folder = copy(tmp_path)
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(ArtifactError, match="is not a plain file of this folder"):
        runtime.load(folder)


def test_a_missing_artifact(tmp_path):
    with pytest.raises(ArtifactError, match="there is no such artifact"):
        runtime.load(tmp_path / "no.gopt")
    (tmp_path / "file.gopt").write_text("")
    with pytest.raises(ArtifactError, match="there is no such artifact"):
        Artifact.load(tmp_path / "file.gopt")
