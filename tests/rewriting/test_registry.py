"""Names of passes and pipelines: each means one thing, whoever brings it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import pytest

from graphopt import registry
from graphopt.errors import PassError
from graphopt.ir import Graph
from graphopt.rewriting.passes import Fidelity, Pass, PassContext


@dataclass(frozen=True)
class _Named(Pass):
    name: ClassVar[str] = "clean"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: Graph, context: PassContext) -> None: ...


def package(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> dict[str, registry.NamedPipeline]:
    """The pipelines if a package with a pipeline of that name is installed too."""
    (folder / "somebodys_passes").mkdir()
    (folder / "somebodys_passes" / "__init__.py").touch()
    text = f'[{name}]\nsummary = "mine"\npasses = "fold-constants"\n'
    (folder / "somebodys_passes" / "pipelines.toml").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "somebodys_passes", raising=False)  # of another test
    own = registry._entry_points
    mine = metadata.EntryPoint("mine", "somebodys_passes", "graphopt.passes")
    monkeypatch.setattr(registry, "_entry_points", lambda group: [*own(group), mine])
    return registry.pipelines.__wrapped__()


def test_pipelines_of_other_packages_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = package(tmp_path, monkeypatch, "mine")
    assert found["mine"].text == "fold-constants"
    assert found["mine"].source.endswith("somebodys_passes/pipelines.toml")
    assert "default" in found


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("fold-constants", r"graphopt\.passes\.cleanup\.fold_constants\.FoldConstants"),
        ("default", r"passes/pipelines\.toml"),
        ("fixpoint", "the pipeline grammar"),
    ],
)
def test_a_pipeline_named_like_something_else(
    name: str, owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PassError, match=f"the name of pipeline '{name}' is taken") as caught:
        package(tmp_path, monkeypatch, name)
    assert "somebodys_passes/pipelines.toml" in str(caught.value)
    assert caught.match(owner)


def test_a_pass_named_like_a_pipeline() -> None:
    with pytest.raises(PassError, match="the name of pass 'clean' is taken") as caught:
        registry.register(_Named)
    assert caught.match(r"passes/pipelines\.toml")
    assert "clean" not in registry.passes()
