"""The backend in a child process, where a crash of the compiler becomes an error message instead of ending the caller.

The parent writes `job.json`, which names the optimized model, starts `python -m graphopt.driver.worker FOLDER`, reads
one JSON line for each step of progress, and reads the answer from `result.json`. The child exits when its standard
input is closed, so that it does not outlive a parent that was killed. Its temporary files, and those of its own child
processes, are in the parent's folder and are removed with it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import graphopt
from graphopt import errors, io
from graphopt.compression.latency import LayerSizes
from graphopt.errors import CompileError, GraphOptError
from graphopt.hardware.target import Target
from graphopt.util.codec import decode, encode
from graphopt.util.scratch import scratch

from .backend import Built, Progress
from .backend import load as load_backend
from .deadline import Deadline
from .layer_models import maker
from .tuning import Tuned, Tuning

_LOG = logging.getLogger(__name__)
_TAIL = 2000  # characters of the child's own messages that an error repeats
_REPORT = "this is a bug in graphopt or in TVM: report it with the model; other passes (--passes) may avoid it"
ROOM = "free some space in the folder for temporary files, or set TMPDIR to one that has room"
_JOB = "job.json"
_RESULT = "result.json"


def build(
    model: Path, target: Target, folder: Path, progress: Progress, tuning: Tuning, deadline: Deadline | None = None
) -> Built:
    """Build the model in the file `model` for `target`, into `folder`.

    Raises graphopt's own errors as the backend raised them, and CompileError if the child exited in any other way or
    did not finish by the `deadline`; it is then killed together with its child processes.
    """
    answer = _run_job(
        _job("build", model, target, tuning, folder), progress, (str(folder), str(model.parent)), deadline
    )
    return decode(Built, answer["built"])


def tune(
    model: Path, target: Target, progress: Progress, tuning: Tuning, deadline: Deadline | None = None
) -> list[Tuned]:
    """Measure which kernels are fastest for the model in the file `model` on `target`. Raises what `build` raises."""
    answer = _run_job(_job("tune", model, target, tuning, model.parent), progress, (str(model.parent),), deadline)
    return decode(list[Tuned], answer["tuned"])


def measure(
    layers: Sequence[LayerSizes],
    target: Target,
    progress: Progress,
    tuning: Tuning,
    deadline: Deadline | None = None,
) -> int:
    """Measure layers in floats and in integers on `target`; return how many. Raises what `tune` raises."""
    plain = {"target": encode(target), "tuning": encode(tuning), "layers": encode(layers)}
    answer = _run_job({"do": "measure", **plain}, progress, (), deadline)
    return int(answer["measured"])


def _job(what: str, model: Path, target: Target, tuning: Tuning, folder: Path) -> dict[str, Any]:
    paths = {"model": str(model), "folder": str(folder)}
    return {"do": what, **paths, "target": encode(target), "tuning": encode(tuning)}


def _run_job(
    job: dict[str, Any], progress: Progress, hidden: tuple[str, ...], deadline: Deadline | None
) -> dict[str, Any]:
    """Run a job and return the child's answer; log its warnings, and remove the folders `hidden` from errors."""
    with scratch("job") as work:
        (work / _JOB).write_text(json.dumps(job), encoding="utf-8")
        status, messages = _run(work, progress, deadline or Deadline(None))
        try:
            answer: dict[str, Any] = json.loads((work / _RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise _crash(status, messages) from None
    for message in answer.get("warnings", ()):
        _LOG.warning("%s", message)
    if "error" in answer:
        raise _rebuilt(answer["error"], (*hidden, str(work)))
    return answer


def _run(work: Path, progress: Progress, deadline: Deadline) -> tuple[int, str]:
    """Run the child; return its exit status and the end of its standard error."""
    # PYTHONHASHSEED is fixed because the compiler iterates over sets, whose order must not vary. With the safe path, a
    # file
    # in the current folder that has the name of a module does not replace it. Both apply to the child's own children
    # too.
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONSAFEPATH": "1", "TMPDIR": str(work), **_same_code()}
    command = [sys.executable, "-m", "graphopt.driver.worker", str(work)]
    with (work / "stderr.txt").open("w+b") as messages:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches only the parent, which then stops the child and all its children
        )
        try:
            assert process.stdout is not None
            with _killed_after(deadline, process):
                doing = _follow(process.stdout, progress)
            deadline.check(doing)
            # Until somebody asks for its status, the number of its process group cannot be reused.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        finally:
            status = _end(process)
        size = messages.seek(0, os.SEEK_END)
        messages.seek(max(0, size - 4 * _TAIL))
        return status, messages.read().decode(errors="replace")


def _same_code() -> dict[str, str]:
    """Return the environment that makes the child import the same graphopt as this process, even a checkout."""
    places = [*graphopt.__path__[1:], os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, places))} if any(places) else {}


@contextlib.contextmanager
def _killed_after(deadline: Deadline, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill the child and its children once the time is over; they have not been waited for yet."""
    left = deadline.left()
    if left is None:
        yield
        return
    timer = threading.Timer(left, os.killpg, (process.pid, signal.SIGKILL))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _follow(lines: IO[bytes], progress: Progress) -> str:
    """Pass on the child's steps until there are no more; return the last one."""
    what = "starting"
    for line in lines:
        try:
            step = json.loads(line)
            what, done = str(step["step"]), float(step["done"])
        except (ValueError, KeyError, TypeError):
            continue  # something that the compiler printed
        progress(what, done)
    return what


def _end(process: subprocess.Popen[bytes]) -> int:
    """Stop the child and whatever it started, which may have outlived it; return its status."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    return process.wait()


def _crash(status: int, messages: str) -> CompileError:
    if status < 0:
        try:
            how = f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            how = f"was ended by signal {-status}"
    else:
        how = f"ended with status {status}"
    text = messages.strip()[-_TAIL:]
    said = f"; its last messages:\n{text}" if text else " and said nothing"
    remedy = _REPORT
    if status == -signal.SIGKILL:
        remedy = "the system may have run out of memory: close other programs, or fix smaller shapes with --input"
    return CompileError(f"the compiling process {how}{said}", remedy=remedy)


def _rebuilt(table: dict[str, str], folders: tuple[str, ...]) -> GraphOptError:
    """Return the error that the child raised, of the same class, without folders that the caller does not know."""
    kind = getattr(errors, table["class"], CompileError)
    where = "" if table["where"].startswith(folders) else table["where"]
    made: GraphOptError = kind(table["message"], where=where, remedy=table["remedy"])
    made.add_note(f"in the compiling process:\n{table['traceback']}")
    return made


def main(work: Path) -> None:
    """Do a job: the main function of the child."""
    threading.Thread(target=_watch_parent, args=(work,), daemon=True).start()
    # Standard output is reserved for progress; what libraries print goes to standard error.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def progress(what: str, done: float) -> None:
        channel.write(json.dumps({"step": what, "done": done}) + "\n")
        channel.flush()

    heard = _WarningCollector()
    logging.getLogger("graphopt").addHandler(heard)
    job = json.loads((work / _JOB).read_text(encoding="utf-8"))
    folder = Path(job.get("folder", work))
    answer: dict[str, Any]
    try:
        answer = _do(job, progress)
    except GraphOptError as error:
        answer = {"error": _encoded_error(error)}
    except OSError as error:
        told = CompileError(f"cannot write {error.filename or folder}: {error.strerror}", remedy=ROOM)
        answer = {"error": _encoded_error(told)}
    except Exception as error:  # TVM raises exceptions of all kinds; the caller gets one message for any of them
        lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or ["no message"]
        summary = " ".join(dict.fromkeys([lines[0], lines[-1]]))[:_TAIL]
        answer = {"error": _encoded_error(CompileError(f"{type(error).__name__}: {summary}", remedy=_REPORT))}
    (work / _RESULT).write_text(json.dumps({**answer, "warnings": list(heard.messages)}), encoding="utf-8")


def _do(job: dict[str, Any], progress: Progress) -> dict[str, Any]:
    backend, target, tuning = load_backend(), decode(Target, job["target"]), decode(Tuning, job["tuning"])
    if job["do"] == "measure":
        layers = decode(list[LayerSizes], job["layers"])
        return {"measured": backend.measure(layers, maker(target), target, tuning, progress)}
    if job["do"] == "tune":
        return {"tuned": encode(backend.tune(io.load(Path(job["model"])), target, tuning, progress))}
    model = io.load(Path(job["model"]))
    return {"built": encode(backend.build(model, target, Path(job["folder"]), progress, tuning))}


class _WarningCollector(logging.Handler):
    """A handler that collects the warnings of graphopt's loggers, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.messages[record.getMessage()] = None


def _encoded_error(error: GraphOptError) -> dict[str, str]:
    """Encode an error for the parent, with the child's traceback for those who ask for one."""
    return {
        "class": type(error).__name__,
        "message": error.message,
        "where": error.where,
        "remedy": error.remedy,
        "traceback": traceback.format_exc(),
    }


def _watch_parent(work: Path) -> None:
    """Kill this process and its children once the parent is gone, which closes their standard input."""
    while os.read(0, 4096):
        pass
    shutil.rmtree(work, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
