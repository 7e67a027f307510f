"""Temporary folders, and the cleanup after killed processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphopt.util.scratch import scratch


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def other(place: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process with a folder of its own, which looks old."""
    script = (
        "from graphopt.util.scratch import scratch\nwith scratch('x') as folder: print(folder, flush=True); input()"
    )
    environment = {**os.environ, "TMPDIR": str(place)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        (folder / "file").write_text("a library")
        os.utime(folder, (0, 0))
        yield process, folder
        process.kill()


def test_it_is_removed_with_all_it_holds(place: Path) -> None:
    with scratch("x") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("")
        assert folder.parent == place
    assert not list(place.iterdir())


def test_what_a_killed_process_left_is_removed(other: tuple[subprocess.Popen[str], Path]) -> None:
    process, left = other
    process.kill()
    process.wait()
    with scratch("y"):
        assert left.exists(), "of another name"
    with scratch("x"):
        assert not left.exists()


def test_what_a_living_process_uses_stays(other: tuple[subprocess.Popen[str], Path]) -> None:
    _, used = other
    with scratch("x"):
        assert (used / "file").exists()


def test_what_is_new_or_no_folder_stays(place: Path) -> None:
    new, file, link = place / "graphopt-x-new", place / "graphopt-x-file", place / "graphopt-x-link"
    new.mkdir()
    file.write_text("")
    link.symlink_to(place / "target")
    (place / "target").mkdir()
    for path in (file, place / "target"):
        os.utime(path, (0, time.time() - 1e6))
    with scratch("x"):
        assert new.exists()
        assert file.exists()
        assert link.is_symlink()
        assert (place / "target").exists()
