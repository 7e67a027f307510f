"""Type-check the package as it is installed: `passes` as `graphopt.passes`, `targets` as `graphopt.targets`.

mypy does not know setuptools' mapping of folders, so it is shown a folder of links that has the installed
shape. The check fails if any source file was not covered: one that skips half of the code proves nothing.

    python tools/typecheck.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FARM = ROOT / ".typecheck"


def main() -> int:
    build_farm()
    report = FARM / "report"
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(FARM / "cache"), "--linecount-report", str(report), "-p", "graphopt"]
    # Only the farm counts: an installed graphopt would lead mypy back to the unmapped folders.
    environment = {**os.environ, "MYPYPATH": str(FARM / "source")}
    status = subprocess.run(command, cwd=FARM / "source", env=environment, check=False).returncode
    missed = sorted(sources() - covered(report))
    if missed:
        print(f"not covered by the type check: {', '.join(missed)}", file=sys.stderr)
        return 1
    print(f"type check: {len(sources())} modules covered")
    return status


def build_farm() -> None:
    """Create links in the installed shape from scratch: a module that was deleted must not linger."""
    package = FARM / "source" / "graphopt"
    shutil.rmtree(FARM / "source", ignore_errors=True)
    package.mkdir(parents=True)
    for entry in (ROOT / "graphopt").iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    for folder in ("passes", "targets"):
        (package / folder).symlink_to(ROOT / folder)


def sources() -> set[str]:
    """The names of all modules that must be checked."""
    modules = set()
    for folder, prefix in (("graphopt", ""), ("passes", "graphopt."), ("targets", "graphopt.")):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            modules.add(prefix + ".".join(parts).removesuffix(".__init__"))
    return modules


def covered(report: Path) -> set[str]:
    """The names of the modules that mypy reported on."""
    path = report / "linecount.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return {line.split()[-1] for line in lines if line.strip()}


if __name__ == "__main__":
    sys.exit(main())
