"""Temporary folders that are cleaned up even if the process that created them was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NEW = 60.0
"""Seconds for which a new folder may not be locked yet by the process that creates it."""


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Yield a temporary folder that is removed at the end; first remove folders of that name that killed processes
    left.

    A folder is locked as long as the process that created it lives, whatever happens to its child processes.
    """
    prefix = f"graphopt-{name}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        _remove_if_left(left)
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Path(folder)
        finally:
            os.close(lock)


def _remove_if_left(folder: Path) -> None:
    """Remove a folder that no living process has locked; folders of other users are left alone."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        info = os.fstat(lock)
        if info.st_uid == os.getuid() and time.time() - info.st_mtime > _NEW:
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)
