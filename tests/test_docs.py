"""The code in README.md and docs/*.md runs.

Each file runs in an empty folder with the demo's network in `model.onnx` and the example package in `example_pass/`.
Its ```python and ```bash blocks run in their order; Python blocks of a file share their names. A comment before a
block says more:

    <!-- file: PATH -->   the block is the contents of that file of docs/, word for word, and is not run
    <!-- write: PATH -->  the block becomes that file, and is not run by itself
    <!-- in: FOLDER -->   Python: modules of that folder can be imported
    <!-- ci: NAME -->     the block installs packages, and is run by .ci/run

The README is followed as a new user follows it: all its blocks in one new shell that knows nothing of graphopt before
the line that activates the environment, in a fresh checkout and in an empty folder.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tvm  # noqa: F401  (before a guide loads a bundled runtime: TVM aborts if it is loaded after another copy of it)

from graphopt import registry
from graphopt.cli.demo import MODEL
from tests.checkout import ROOT, copy_checkout

README = ROOT / "README.md"
GUIDES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>\w+): (?P<value>\S+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
RUN = ("python", "bash")


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int
    mark: str
    value: str


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    return [
        Block(m["language"], m["code"], text.count("\n", 0, m.start("code")), m["mark"] or "", m["value"] or "")
        for m in BLOCK.finditer(text)
    ]


@pytest.mark.parametrize("guide", [guide for guide in GUIDES if guide != README], ids=lambda path: path.name)
def test_code_runs(guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(MODEL, tmp_path / "model.onnx")
    shutil.copytree(ROOT / "docs" / "example_pass", tmp_path / "example_pass")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_loaded", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    names: dict[str, Any] = {"__name__": guide.stem}
    for block in blocks(guide):
        where = f"{guide.name}:{block.line}"
        if block.mark == "file":
            assert (ROOT / "docs" / block.value).read_text() == block.code, f"{where} is not docs/{block.value}"
        elif block.mark == "write":
            (tmp_path / block.value).write_text(block.code)
        elif block.mark == "ci" or block.language not in RUN:
            continue
        elif block.language == "bash":
            run_bash(block.code, where)
        else:
            if block.mark == "in":
                sys.path.insert(0, str(tmp_path / block.value))
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.code, where, "exec", dont_inherit=True), names)


@pytest.mark.parametrize("where", ["in a checkout", "in an empty folder"])
def test_the_readme_works_for_a_new_user(where: str, tmp_path: Path) -> None:
    """Python blocks see what those before them defined, as in one session."""
    if where == "in a checkout":
        copy_checkout(tmp_path)
    installed(tmp_path / ".venv")
    script, session = [], ""
    for block in blocks(README):
        if block.mark == "ci" or block.language not in RUN:
            continue
        script.append(f"echo README.md:{block.line} >&2")
        if block.language == "python":
            session += block.code
            script.append(f"python - <<'END' > /dev/null\n{session}END")
        else:
            script.append(block.code)
    assert "source .venv/bin/activate" in script[1]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=new_shell(),
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"


def installed(place: Path) -> None:
    """Create what the README's first line leaves at `place`: this interpreter's environment."""
    place.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        if (Path(sys.prefix) / name).exists():
            (place / name).symlink_to(Path(sys.prefix) / name)
    if not (place / "bin" / "activate").exists():  # the tests run in no virtual environment
        (place / "bin").unlink()
        (place / "bin").mkdir()
        (place / "bin" / "activate").write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n')


def new_shell() -> dict[str, str]:
    """The environment of somebody who never heard of graphopt."""
    here = Path(sys.executable).parent
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME") if name in os.environ}
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if Path(folder) != here]
    return {**kept, "PATH": os.pathsep.join(folders)}


def test_the_root_of_a_checkout_is_a_place_to_import_graphopt_from(tmp_path: Path) -> None:
    """There, the folder `graphopt` comes before the installed package, and its passes and targets lie beside it."""
    script = """if True:
        import sys
        sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
        import graphopt, pathlib
        assert pathlib.Path(graphopt.__file__).parent == pathlib.Path.cwd() / "graphopt", graphopt.__file__
        from graphopt.cli.demo import MODEL
        model, report = graphopt.optimize(MODEL)
        print(sum(step.changed for step in report.steps))
        artifact = graphopt.compile(MODEL)
        print(artifact.manifest.target["name"])
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    changed, name = done.stdout.split()
    assert int(changed) > 0
    assert name == "host"


def test_without_an_installation_one_line_says_what_to_do(tmp_path: Path) -> None:
    """A checkout whose folder is found, in an environment that has its dependencies and not graphopt."""
    shutil.copytree(ROOT / "graphopt", tmp_path / "graphopt", ignore=shutil.ignore_patterns("__pycache__"))
    script = """if True:
        import importlib.metadata as metadata
        metadata.entry_points = lambda **_: []
        import graphopt
        graphopt.optimize("graphopt/demo/fashion.onnx")
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert f"graphopt is not installed for {sys.executable}" in done.stderr
    assert f"-m pip install {tmp_path}" in done.stderr


def run_bash(code: str, where: str) -> None:
    """Run a block with this interpreter's commands first in the path."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, f"{where}: status {done.returncode}\n{done.stdout}\n{done.stderr}"


def test_every_guide_holds_code_or_links() -> None:
    """The pattern above finds blocks at all, and no block is left open."""
    assert sum(block.language in RUN for guide in GUIDES for block in blocks(guide)) >= 10
    for guide in GUIDES:
        fences = re.findall(r"^```.*$", guide.read_text(), re.M)
        assert len(fences) == 2 * len(blocks(guide)), guide.name


PAGES = [*GUIDES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for file, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", BLOCK.sub("", page.read_text())):
        target = page.parent / file if file else page
        assert target.exists(), file
        heads = re.findall(r"^#+ (.*)$", target.read_text(), re.M) if anchor else []
        anchors = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
        assert not anchor or anchor in anchors, f"{file}#{anchor}"


def test_the_example_package_passes_its_tests(tmp_path: Path) -> None:
    """As installed: its entry points are in a .dist-info folder on the path."""
    package = tmp_path / "example_pass"
    shutil.copytree(ROOT / "docs" / "example_pass", package)
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = package / "graphopt_div_to_mul-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(package), str(package)]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_commands_that_ci_runs_are_in_the_readme() -> None:
    marked = {block.value: block.code for block in blocks(ROOT / "README.md") if block.mark == "ci"}
    assert set(marked) == {"demo", "test"}
    assert "graphopt demo" in marked["demo"]
    assert "pytest" in marked["test"]
    assert len(marked["demo"].strip().splitlines()) == len(marked["test"].strip().splitlines()) == 1
