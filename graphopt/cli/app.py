"""The application: registers every command, and turns every error into a message and an exit status.

Exit status 0: done. 1: a requested check failed. 2: the request was invalid or was interrupted.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from graphopt import __version__
from graphopt.errors import GraphOptError, ModelWarning

from . import bench, bisect, compile, demo, diff, inspect, optimize, passes, quantize, run, stats, targets, tune, verify

_TYPER_INTERRUPTED = 130
"""Typer's exit status for an interrupted command."""
TRACEBACK_VARIABLE = "GRAPHOPT_TRACEBACK"

HELP = """
Make a trained network smaller and faster, verify that it still computes the same, and compile it.

\b
    graphopt demo                                        try it on a network that ships with graphopt
    graphopt compile model.onnx -o model.gopt            compile for this machine
    graphopt compile model.onnx --target arm --verify    compile for ARM, checking every step
    graphopt bench model.gopt                            measure it against ONNX Runtime
    graphopt optimize model.onnx -o smaller.onnx         only rewrite the graph, and write ONNX again

Exit status: 0 done, 1 a requested check failed, 2 the request was invalid or was interrupted.
"""

app = typer.Typer(
    name="graphopt",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "compile": compile.compile_,
    "tune": tune.tune,
    "optimize": optimize.optimize,
    "quantize": quantize.quantize,
    "run": run.run,
    "bench": bench.bench,
    "verify": verify.verify,
    "inspect": inspect.inspect,
    "stats": stats.stats,
    "diff": diff.diff,
    "bisect": bisect.bisect,
    "passes": passes.passes,
    "targets": targets.targets,
    "demo": demo.demo,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)


def _show_version(wanted: bool) -> None:
    """Print what a bug report should contain: the versions of what generates code, and the processor."""
    if not wanted:
        return
    from importlib import metadata

    from graphopt.hardware import target

    typer.echo(f"graphopt {__version__}")
    for package in ("apache-tvm", "apache-tvm-ffi"):
        try:
            typer.echo(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            typer.echo(f"{package} is not installed")
    try:
        typer.echo(target.host().summary)
    except GraphOptError as error:
        typer.echo(f"this machine: {error.message}")
    raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option(
        "--version",
        help="Print the versions of graphopt and TVM and the detected processor, and exit.",
        callback=_show_version,
        is_eager=True,
    ),
]
ShowTracebackOption = Annotated[
    bool,
    typer.Option("--traceback", help="Print the Python traceback of errors.", envvar=TRACEBACK_VARIABLE),
]


@app.callback()
def common(
    version: VersionOption = False,
    show_traceback: ShowTracebackOption = False,
) -> None:
    if show_traceback:
        os.environ[TRACEBACK_VARIABLE] = "1"


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line on `args` (those of the process by default) and exit with its status."""
    signal.signal(signal.SIGTERM, _end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # names may contain characters that the terminal cannot encode
    sys.exit(run_command(args))


def _end(number: int, frame: object) -> None:
    """Exit through SystemExit, so that temporary folders are removed and child processes stopped."""
    sys.exit(128 + number)


def run_command(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; print any error as a single message on stderr."""
    with warnings.catch_warnings():
        _show_model_warnings()
        return _run_command(args)


def _show_model_warnings() -> None:
    """Print warnings about a model on stderr, each one once, however often the model is loaded."""
    shown: set[str] = set()
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        if not issubclass(category, ModelWarning):
            others(message, category, filename, lineno, *rest)
        elif str(message) not in shown:
            shown.add(str(message))
            print(f"warning: {message}", file=sys.stderr)

    warnings.simplefilter("always", ModelWarning)
    warnings.showwarning = show  # type: ignore[assignment]  # the rest is optional


def _run_command(args: Sequence[str] | None) -> int:
    try:
        status = app(args=args, prog_name="graphopt", standalone_mode=False)
        if status == _TYPER_INTERRUPTED:
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except KeyboardInterrupt:
        print("\nerror: interrupted; nothing was written", file=sys.stderr)
        return 2
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        message, status = explain(error)
        print(message, file=sys.stderr)
        return status


def explain(error: Exception) -> tuple[str, int]:
    """Return the message for an error, and the exit status it means."""
    if isinstance(error, GraphOptError):
        return f"error: {error}", error.exit_status
    if hasattr(error, "format_message"):  # a usage error of typer, which has no public base class for them
        return _explain_usage(error), 2
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"error: {where}{error.strerror}", 2
    if isinstance(error, MemoryError):
        return (
            "error: out of memory\n  Use a machine with more memory, or specify smaller shapes with --input.",
            2,
        )
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"error: this is a bug in graphopt, or in a loaded pass: {type(error).__name__}: {error}\n"
        f"  at {last.filename}:{last.lineno}\n"
        "  Run it again as `graphopt --traceback ...`, and report the output together with the model.",
        2,
    )


def _explain_usage(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "graphopt"
    message = error.format_message()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        return message
    return f"error: {message}\n  `{command} --help` lists its arguments and options."
