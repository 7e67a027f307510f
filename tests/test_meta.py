"""Rules for the code as a whole: the public API, the direction of imports, properties of every pass."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

import graphopt
from graphopt import registry

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CODE = sorted(
    path
    for folder in ("graphopt", "passes", "targets", "tools", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)
MAPPED = ("passes", "targets")
FILE_LINES, TEST_LINES = 390, 430
BODY_LINES = 40

PUBLIC = [
    "load",
    "save",
    "optimize",
    "compile",
    "Model",
    "Graph",
    "Node",
    "Value",
    "Tensor",
    "Pass",
    "RewritePass",
    "Rewriter",
    "Fidelity",
    "Pipeline",
    "Target",
    "Artifact",
    "Report",
    "Tolerance",
    "GraphOptError",
]


def test_the_public_face_is_this() -> None:
    assert sorted(graphopt.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(graphopt, name) is not None
        assert name in dir(graphopt)
    assert callable(graphopt.compile)
    assert callable(graphopt.optimize)
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        graphopt.optimise  # noqa: B018


def test_submodules_do_not_hide_public_names() -> None:
    for name in PUBLIC:
        assert not (ROOT / "graphopt" / f"{name}.py").exists(), (
            f"importing graphopt.{name} would replace the public name"
        )


def modules_after(code: str) -> set[str]:
    """The top-level modules that are loaded once `code` has run in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_graphopt_imports_nothing_large() -> None:
    assert not modules_after("import graphopt; graphopt.GraphOptError") & {"numpy", "onnx", "tvm", "rich", "typer"}


def test_the_help_needs_no_onnx() -> None:
    assert not modules_after("import graphopt.cli.app") & {"numpy", "onnx", "onnxruntime", "tvm"}


def test_the_runtime_needs_numpy_and_tvm_ffi_alone() -> None:
    heavy = {"onnx", "onnxruntime", "onnx_graphsurgeon", "networkx", "tvm", "typer", "rich", "google"}
    loaded = modules_after("import graphopt.runtime; graphopt.runtime.load")
    assert {"numpy", "tvm_ffi"} <= loaded
    assert not loaded & heavy


@pytest.mark.parametrize(
    ("old", "new", "until"),
    [
        ("graphopt.rewrite", "graphopt.rewriting.passes", "0.3"),
        ("graphopt.pipeline", "graphopt.rewriting.pipeline", "0.3"),
    ],
)
def test_a_deprecated_module_names_its_successor_and_goes_in_time(old: str, new: str, until: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(
        DeprecationWarning, match=re.escape(f"{old} is deprecated and goes in {until}: import from {new}")
    ):
        module = importlib.import_module(old)
    successor = importlib.import_module(new)
    assert module.__all__
    assert all(getattr(module, name) is getattr(successor, name) for name in module.__all__)
    version = tuple(int(part) for part in graphopt.__version__.split(".")[:2])
    assert version < tuple(int(part) for part in until.split(".")), f"{old} was to go in {until}: delete it"


def test_version() -> None:
    assert graphopt.__version__ == PROJECT["project"]["version"]


def imports(path: Path) -> Iterator[str]:
    """The absolute names of the modules that a file imports, relative imports resolved."""
    tree = ast.parse(path.read_text())
    yield from imported_names(tree, path)


def imports_when_run(path: Path) -> Iterator[str]:
    """Yield those of `imports` that running the file may execute: all except those for type checkers only."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    yield from imported_names(tree, path)


def imported_names(tree: ast.Module, path: Path) -> Iterator[str]:
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join((*(["graphopt"] if parts[0] in ("passes", "targets") else []), *parts)).removesuffix(".__init__")


def is_inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize(
    ("folder", "banned"),
    [
        ("graphopt", ["graphopt.passes", "graphopt.targets", "tvm", "passes", "targets"]),
        ("passes", ["graphopt.targets", "tvm", "onnxruntime", "passes", "targets"]),
        ("targets", ["graphopt.passes", "passes", "targets"]),
    ],
)
def test_imports_point_one_way(folder: str, banned: list[str]) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in CODE
        if path.relative_to(ROOT).parts[0] == folder
        for name in imports(path)
        if any(is_inside(name, module) for module in banned)
    ]
    assert not wrong


def test_no_files_import_each_other_in_a_circle() -> None:
    files = {module_name(path): path for path in CODE if path.relative_to(ROOT).parts[0] in ("graphopt", *MAPPED)}
    graph = nx.DiGraph()
    for name, path in files.items():
        names = set(imports_when_run(path)) & files.keys()
        # `from package import module` is an import of the module: that its package is loaded too is no arrow.
        graph.add_edges_from((name, found) for found in names if not any(is_inside(o, found) for o in names - {found}))
    circles = [sorted(found) for found in nx.strongly_connected_components(graph) if len(found) > 1]
    assert not circles


def test_graphsurgeon_is_imported_in_one_place() -> None:
    users = {str(p.relative_to(ROOT)) for p in CODE for name in imports(p) if is_inside(name, "onnx_graphsurgeon")}
    assert {user for user in users if not user.startswith("tests/")} <= {"graphopt/io/files.py"}


COMPAT = ROOT / "targets" / "tvm" / "compat.py"
BACKEND = [path for path in CODE if is_inside(".".join(path.relative_to(ROOT).parts[:2]), "targets.tvm")]
USUAL_DUNDERS = {*dir(object), *dir(dict), "__name__", "__module__", "__file__", "__qualname__"}


def own_private_names(tree: ast.Module) -> set[str]:
    """The names with a leading underscore that a file defines itself: functions, attributes of `self`, of classes."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                found.add(node.attr)
        elif isinstance(node, ast.ClassDef):
            fields = (item.target for item in node.body if isinstance(item, ast.AnnAssign))
            found |= {target.id for target in fields if isinstance(target, ast.Name)}
    return found


def private_names_of_others(path: Path) -> list[str]:
    """Return the names of other packages that a file uses although they are private or undocumented."""
    tree = ast.parse(path.read_text())
    own = own_private_names(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            is_dunder = node.attr.startswith("__") and node.attr.endswith("__")
            known = USUAL_DUNDERS if is_dunder else own
            if (node.attr.startswith("_") and node.attr not in known) or node.attr == "get_global_func":
                found.append(node.attr)
    modules = [name for name in imports(path) if is_inside(name, "tvm") or is_inside(name, "tvm_ffi")]
    return found + [name for name in modules if any(part.startswith("_") for part in name.split("."))]


def test_private_names_of_tvm_are_used_in_one_file() -> None:
    assert len(BACKEND) > 100
    found = {str(path.relative_to(ROOT)): private_names_of_others(path) for path in BACKEND}
    expected = {
        "__init_handle_by_constructor__",
        "_begin_binding_block",
        "_collect_dso_modules",
        "_vmcodegen",
        "_worker_map",
        "get_global_func",
        "tvm.s_tir.meta_schedule._ffi_api",
    }
    assert expected <= set(found.pop(str(COMPAT.relative_to(ROOT)))), "the test no longer sees what it looks for"
    assert not {path: names for path, names in found.items() if names}


def builtin_passes() -> list[type[graphopt.Pass]]:
    return [cls for cls in registry.passes().values() if cls.__module__.startswith("graphopt.passes.")]


def test_every_pass_has_a_summary_and_a_kebab_case_name() -> None:
    found = builtin_passes()
    assert len(found) > 20
    for cls in found:
        summary = cls.summary()
        assert summary.endswith("."), cls
        assert 20 <= len(summary) <= 120, cls
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", cls.name), cls


def test_every_pass_is_tested() -> None:
    tested = "\n".join(path.read_text() for path in (ROOT / "tests" / "passes").rglob("test_*.py"))
    assert not [cls.__name__ for cls in builtin_passes() if not re.search(rf"\b{cls.__name__}\b", tested)]


def test_every_pass_is_in_a_named_pipeline() -> None:
    text = " ".join(pipeline.text for pipeline in registry.pipelines().values())
    names = set(re.findall(r"[a-z0-9-]+", text))
    assert not [cls.name for cls in builtin_passes() if cls.name not in names]


def test_every_named_pipeline_parses() -> None:
    for name, pipeline in registry.pipelines().items():
        assert pipeline.summary
        parsed = graphopt.Pipeline.parse(name)
        assert graphopt.Pipeline.parse(str(parsed)) == parsed
        assert parsed.passes


def test_all_packages_are_listed() -> None:
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for folder in ("graphopt", "passes", "targets")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    expected = {name if name.startswith("graphopt") else f"graphopt.{name}" for name in found}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == expected
    folders = {path.parent for path in CODE if path.relative_to(ROOT).parts[0] in ("graphopt", "passes", "targets")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_small_and_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    is_test = path.relative_to(ROOT).parts[0] == "tests"
    if not is_test:
        assert ast.get_docstring(tree), "the module has no docstring"
    assert text.count("\n") <= (TEST_LINES if is_test else FILE_LINES)
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text) or path == Path(__file__)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = node.end_lineno - body[0].lineno + 1 if body and node.end_lineno else 0
            assert lines <= BODY_LINES or is_test, f"{node.name} has {lines} lines"
