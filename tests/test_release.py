"""The release: a wheel and a source distribution with everything that is needed, and a changelog."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.checkout import ROOT, copy_checkout, tracked

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGED = ("graphopt", "passes", "targets")
BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, f'build_{sys.argv[1]}')(sys.argv[2]))"


def build(kind: str, source: Path, out: Path) -> Path:
    command = [sys.executable, "-c", BUILD, kind, str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A source distribution of the checkout, and the wheel that is built from it, as package indexes build it."""
    folder = tmp_path_factory.mktemp("release")
    copy_checkout(folder / "checkout")
    source = build("sdist", folder / "checkout", folder)
    with tarfile.open(source) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return {"sdist": source, "wheel": build("wheel", unpacked, folder), "unpacked": unpacked}


def test_the_source_distribution_holds_every_file(releases: dict[str, Path]) -> None:
    unpacked = releases["unpacked"]
    assert [str(path) for path in tracked() if not (unpacked / path).exists()] == []


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(releases: dict[str, Path]) -> None:
    place = {"graphopt": Path("graphopt"), "passes": Path("graphopt/passes"), "targets": Path("graphopt/targets")}
    expected = {str(place[p.parts[0]].joinpath(*p.parts[1:])) for p in tracked() if p.parts[0] in PACKAGED}
    with zipfile.ZipFile(releases["wheel"]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        text = wheel.read(metadata).decode()
    assert held == expected
    assert f"Version: {PROJECT['version']}\n" in text
    for name in ("cloudpickle", "psutil", "tornado"):
        assert f"Requires-Dist: {name}\n" in text, "tuning needs no extra"


def test_the_wheel_works_where_there_is_no_checkout(releases: dict[str, Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(releases["wheel"]) as wheel:
        wheel.extractall(site)
    script = """if True:
        import sys
        import graphopt
        from graphopt.cli import main
        assert graphopt.__file__.startswith(sys.argv[1]), graphopt.__file__
        import graphopt.targets.tvm
        assert graphopt.targets.tvm.__file__.startswith(sys.argv[1]), graphopt.targets.tvm.__file__
        main(["demo", "--runs", "3", "-o", "demo.gopt"])
    """
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", script, str(site)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "demo.gopt" / "manifest.json").exists()


def test_changes_are_recorded() -> None:
    """The newest release is the version of the package, and what came since stands above it."""
    heads = re.findall(r"^## \[([^\]]+)\](?: - (\d{4}-\d\d-\d\d))?$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert heads[0] == ("Unreleased", "")
    assert heads[1][0] == PROJECT["version"]
    dates = [date for _, date in heads[1:]]
    assert all(dates)
    assert dates == sorted(dates, reverse=True)
