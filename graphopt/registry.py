"""The registry of passes, named pipelines, target files and backends, which are found through entry points.

Entry points keep this package independent of them. Groups: `graphopt.passes` (a package, module or Pass class; a
package may contain a `pipelines.toml`), `graphopt.targets` (a package that contains target files), `graphopt.backends`
(a backend class).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import GraphOptError, PassError
from .rewriting.passes import Fidelity, Pass

_loaded: list[type[Pass]] = []


@dataclass(frozen=True)
class NamedPipeline:
    """A pipeline text with a name, and the file that it is from."""

    name: str
    text: str
    summary: str
    source: str = ""


@functools.cache
def _installed_passes() -> dict[str, type[Pass]]:
    return _by_name([cls for point in _entry_points("graphopt.passes") for cls in _classes(_load(point))])


def passes() -> dict[str, type[Pass]]:
    """Return every known pass by name: installed ones, then those added by `load_module` or `register`."""
    return _by_name([*_installed_passes().values(), *_loaded])


@functools.cache
def pipelines() -> dict[str, NamedPipeline]:
    """Return every named pipeline by name, from the `pipelines.toml` of each package that offers passes.

    Raises PassError if two pipelines, or a pipeline and a pass, have the same name: one would hide the other.
    """
    found: dict[str, NamedPipeline] = {}
    owners = {name: _title(cls) for name, cls in _installed_passes().items()} | {"fixpoint": "the pipeline grammar"}
    for point in _entry_points("graphopt.passes"):
        package = importlib.import_module(point.module)
        if not hasattr(package, "__path__"):
            continue
        file = resources.files(package) / "pipelines.toml"
        if file.is_file():
            for name, entry in tomllib.loads(file.read_text()).items():
                if name in owners:
                    raise _taken(f"pipeline '{name}'", str(file), owners[name])
                owners[name] = str(file)
                found[name] = NamedPipeline(name, "".join(entry["passes"].split()), entry["summary"], str(file))
    return found


@functools.cache
def backend(name: str) -> Any:
    """Return an instance of the backend of this name. Raises GraphOptError if there is none."""
    points = {point.name: point for point in _entry_points("graphopt.backends")}
    if name not in points:
        known = ", ".join(points) or "none"
        raise GraphOptError(f"there is no backend '{name}'; installed: {known}")
    return _load(points[name])()


def register(cls: type[Pass]) -> type[Pass]:
    """Make a pass known by its name in this process. Raises PassError if it is malformed or its name is taken."""
    _by_name([*passes().values(), cls])
    if cls.name in pipelines():
        raise _taken(f"pass '{cls.name}'", _title(cls), pipelines()[cls.name].source)
    if cls not in _loaded:
        _loaded.append(cls)
    return cls


def is_loaded(cls: type[Pass]) -> bool:
    """Return whether a pass is known only through `register` or `load_module`, not through an installed package."""
    return cls in _loaded and cls not in _installed_passes().values()


def load_module(name: str) -> list[type[Pass]]:
    """Import a module (or a `.py` file) and register its passes.

    Raises PassError if it cannot be imported or contains no pass.
    """
    try:
        module = _import_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except Exception as error:
        raise PassError(
            f"it could not be imported: {type(error).__name__}: {error}",
            where=f"module '{name}'",
            remedy="name an importable module, or the path of a .py file",
        ) from error
    found = _classes(module)
    if not found:
        raise PassError("it defines no pass", where=f"module '{name}'", remedy="a pass is a subclass of graphopt.Pass")
    return [register(cls) for cls in found]


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    # The prefix keeps a file with the name of an installed module from replacing that module.
    spec = importlib.util.spec_from_file_location(f"graphopt_loaded_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look up their module there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def _entry_points(group: str) -> list[metadata.EntryPoint]:
    # An editable install beside another may list an entry point twice.
    found = sorted(set(metadata.entry_points(group=group)), key=lambda point: (point.name != "builtin", point.name))
    if not any(point.module.partition(".")[0] == "graphopt" for point in found):
        here = Path(__file__).resolve().parent.parent
        raise GraphOptError(
            f"graphopt is not installed for {sys.executable}; it was imported from {here}",
            remedy=f"install it: {sys.executable} -m pip install {here}",
        )
    return found


def _load(point: metadata.EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        raise PassError(
            f"it could not be loaded: {type(error).__name__}: {error}",
            where=f"entry point '{point.name} = {point.value}' of group {point.group}",
            remedy="fix or uninstall the package that provides it",
        ) from error


def _classes(found: Any) -> list[type[Pass]]:
    """Return the passes of an entry point: the class itself, or those defined in the module and its submodules."""
    if inspect.isclass(found):
        return [found]  # type: ignore[list-item]  # whether it is a pass is checked where it gets its name
    if isinstance(found, Pass):
        return [type(found)]
    return [cls for module in _modules(found) for cls in _defined(module)]


def _modules(module: ModuleType) -> Iterator[ModuleType]:
    yield module
    for info in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{module.__name__}."):
        yield importlib.import_module(info.name)


def _defined(module: ModuleType) -> list[type[Pass]]:
    return [
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls)
        and issubclass(cls, Pass)
        and cls.__module__ == module.__name__
        and not inspect.isabstract(cls)
        and not cls.__name__.startswith("_")
    ]


def _by_name(classes: list[type[Pass]]) -> dict[str, type[Pass]]:
    found: dict[str, type[Pass]] = {}
    for cls in classes:
        _check(cls)
        if found.setdefault(cls.name, cls) is not cls:
            raise _taken(f"pass '{cls.name}'", _title(cls), _title(found[cls.name]))
    return found


def _title(cls: type[Pass]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _taken(what: str, where: str, owner: str) -> PassError:
    return PassError(f"the name of {what} is taken", where=where, remedy=f"{owner} already uses it: choose another")


def _check(cls: type[Pass]) -> None:
    wrong = ""
    if not (inspect.isclass(cls) and issubclass(cls, Pass)):
        wrong = "it is not a subclass of graphopt.Pass"
    elif not isinstance(getattr(cls, "name", None), str) or not isinstance(getattr(cls, "fidelity", None), Fidelity):
        wrong = "it needs the class variables `name` and `fidelity`"
    elif "__dataclass_params__" not in vars(cls):  # one that is inherited makes no options
        wrong = "it must be a frozen dataclass"
    elif any(f.default is dataclasses.MISSING for f in dataclasses.fields(cls)):
        wrong = "each of its options needs a default"
    if wrong:
        raise PassError(wrong, where=f"pass {getattr(cls, '__qualname__', cls)}")
