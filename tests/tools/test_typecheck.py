"""The type check covers the folders in their installed shape, and detects what it did not cover."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import typecheck


def test_modules_have_the_names_they_are_imported_by() -> None:
    found = typecheck.sources()
    assert {"graphopt", "graphopt.ir.graph", "graphopt.passes", "graphopt.passes.cleanup.fold_constants"} <= found
    assert "graphopt.targets.tvm.lowering.lower" in found
    assert not any(name.startswith(("passes", "targets")) for name in found)


def test_the_farm_has_the_installed_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typecheck, "FARM", tmp_path)
    (tmp_path / "source" / "graphopt").mkdir(parents=True)
    (tmp_path / "source" / "graphopt" / "deleted.py").touch()
    typecheck.build_farm()
    package = tmp_path / "source" / "graphopt"
    assert (package / "passes" / "cleanup" / "fold_constants.py").is_file()
    assert (package / "targets" / "tvm" / "lowering" / "lower.py").is_file()
    assert (package / "ir" / "graph.py").is_file()
    assert not (package / "deleted.py").exists()


def test_a_module_that_was_not_covered_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Done:
        returncode = 0

    def mypy(command: list[str], **options: object) -> Done:
        report = Path(command[command.index("--linecount-report") + 1])
        report.mkdir(parents=True)
        names = sorted(typecheck.sources() - {"graphopt.passes.cleanup.fold_constants"})
        (report / "linecount.txt").write_text("".join(f"  10  8  2  2 {name}\n" for name in names))
        return Done()

    monkeypatch.setattr(typecheck, "FARM", tmp_path)
    monkeypatch.setattr(typecheck.subprocess, "run", mypy)
    assert typecheck.main() == 1
    assert "graphopt.passes.cleanup.fold_constants" in capsys.readouterr().err
