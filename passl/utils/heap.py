"""Whether memory that is freed goes back to the system at once, or is kept for the next request.

On a processor every operation of a network asks for the memory of its output and frees it again.
By itself the GNU C library maps large blocks anew each time, and the system then fills every page
of them with zeros. A quarter of a training step may go into that
(``benchmarks/cpu_environment.py``, ``benchmarks/training_step.py``).
"""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 128 * 1024, 65536


def keep_freed_memory() -> str:
    """Lets this process keep memory that was freed: it holds what its largest step needed.

    Does nothing where the user has set one of the C library's own variables for it, nor without the
    GNU C library.

    Returns:
        What was done, for a log; empty where nothing was.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return ""
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return ""
    if not _set(_M_TRIM_THRESHOLD, _NEVER) or not _set(_M_MMAP_MAX, 0):
        return ""
    return "mallopt: freed memory is kept"


def give_freed_memory_back() -> None:
    """Lets a forked process, a data worker, give memory back as if nothing had been set."""
    _set(_M_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD)
    _set(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)


def _set(parameter: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and bool(mallopt(parameter, value))
