"""How many threads kernels run on, and where.

TVM keeps one pool of workers for each thread that calls kernels: it is made in that thread's first run on more than
one thread, holds a worker for each CPU that the process may use (of which a run wakes as many as its session has
threads, less the caller, which takes part), and ends with that thread. Kernels of sessions with one thread run in the
caller, and no pool is made.
"""

from __future__ import annotations

import ctypes
import os
import threading

import tvm_ffi

from graphopt.errors import InputError
from graphopt.hardware import processor as cpu

_SHARE_ALL_CPUS = -3  # TVM's mode in which no thread is pinned to one CPU
_SET_MAX_CONCURRENCY = (
    "_ZN3tvm7runtime9threading17SetMaxConcurrencyEi"  # of the calling thread; exported, not registered
)
_SPIN = "TVM_THREAD_POOL_SPIN_COUNT"
_YIELDS = "5000"
_pool = threading.local()


def choose(asked: int | None) -> int:
    """The number of threads for a session: what was asked for, and never more than the CPUs this process may use.

    None takes the environment's TVM_NUM_THREADS, and without it one for each physical core. Raises InputError for
    what is not a whole number of at least 1.
    """
    if asked is None:
        text = os.environ.get("TVM_NUM_THREADS", "")
        asked = int(text) if text.isdigit() and int(text) > 0 else cpu.current().cores
    elif isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise InputError(f"threads must be a whole number of at least 1, not {asked!r}")
    return min(asked, len(cpu.allowed()))


def use(count: int) -> None:
    """Let the kernels that the calling thread runs from now on use `count` threads, itself among them.

    Every thread may run on every CPU that this process may use. TVM's default would pin the caller to the first.
    """
    if getattr(_pool, "threads", None) != count:
        if count > 1 or not _use_no_pool():
            # Idle workers wait for the next kernel by giving their time slice away again and again before they sleep.
            # TVM's 300,000 times take a quarter of a second of CPU time after every run; these some milliseconds.
            os.environ.setdefault(_SPIN, _YIELDS)
            cpus = [str(index) for index in cpu.allowed()]
            tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CPUS, count, cpus)
        _pool.threads = count


def _use_no_pool() -> bool:
    """Run parallel loops in the calling thread; False where the runtime library does not offer that."""
    try:
        set_max_concurrency = ctypes.CDLL(None)[_SET_MAX_CONCURRENCY]
    except AttributeError:
        return False
    set_max_concurrency(1)
    return True
