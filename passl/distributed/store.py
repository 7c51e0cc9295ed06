"""The run's store of named numbers and texts, by which processes meet without waiting in vain.

Paddle keeps one in process 0, to set its collective operations up. A collective operation is no
place to wait for a process that works alone: gloo gives up after 30 seconds. Here processes wait
as long as it takes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import socket
import stat
import threading
import time
from concurrent.futures import Future
from typing import Any, Callable, Iterator, Tuple

from paddle.base import core

from passl.utils.errors import PasslError

FAILED = "passl/failed"  # a process that adds to it comes to no meeting any more
_MEETINGS = itertools.count(1)  # of this process
_LONGEST_SLEEP = 0.05  # seconds between two looks at the store


class LostProcess(PasslError):
    """Another process of the run has ended, or its host can no longer be reached."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: the same command may do better


def lost(rank: int, why: str) -> LostProcess:
    """Returns what process ``rank`` tells the user of another one, which it cannot name."""
    return LostProcess(
        f"process {rank} on {socket.gethostname()}: another process of the run has ended, or its "
        "host cannot be reached; look for the error in the other processes' logs, then go on with "
        f"--resume auto ({why[:200]})"
    )


def connect() -> Any:
    """Returns a connection to the store, for one thread: Paddle's stores have no lock.

    Raises:
        RuntimeError, ValueError, OSError: as all its methods do when process 0 has ended.
    """
    host, port = _address()
    before = set(_sockets_to(port))
    store = core.TCPStore(host, port, is_master=False, world_size=0)
    # Paddle sends a request in three pieces, of which Nagle's algorithm holds the second until the
    # first is acknowledged: 44 ms an answer, where it takes 0.1. Not its own connection: without
    # that delay gloo's groups find the addresses of the group before them.
    for descriptor in set(_sockets_to(port)) - before:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            copy.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return store


def _address() -> Tuple[str, int]:
    """Returns where Paddle has put its store, by the environment as Paddle reads it."""
    first = os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")[0]
    host, _, port = os.environ.get("PADDLE_MASTER", first).partition(":")
    return host, int(port)


def _sockets_to(port: int) -> Iterator[int]:
    """Yields this process's sockets that are connected to a port, on Linux."""
    with contextlib.suppress(OSError):  # no /proc
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):  # closed by now, or connected to nothing
                if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    with socket.socket(fileno=os.dup(descriptor)) as copy:
                        if copy.family == socket.AF_INET and copy.getpeername()[1] == port:
                            yield descriptor


def start_undisturbed(work: Callable[[], Any]) -> threading.Thread:
    """Starts a thread that gets no signals: Paddle takes one for the end of a connection.

    Returns:
        The thread, which the process does not wait for when it ends.
    """
    thread = threading.Thread(target=work, daemon=True)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()  # it inherits what is blocked
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return thread


def undisturbed(work: Callable[[], Any]) -> Any:
    """Does work with the store as ``start_undisturbed`` has it; returns or raises what it does."""
    done: Future = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    start_undisturbed(run)
    return done.result()


# The connection by which the process meets others.
_own = functools.lru_cache(maxsize=None)(connect)


def meet(rank: int, size: int) -> None:
    """Returns when all ``size`` processes have called it; ``rank`` is this one's number.

    Raises:
        LostProcess: one of them has told of its failure, or process 0 has ended. Who dies without
            a word is found by ``Peers``.
    """
    try:
        undisturbed(lambda: _meet(next(_MEETINGS), rank, size))
    except LostProcess:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        raise lost(rank, str(error).strip().splitlines()[-1]) from error


def _meet(meeting: int, rank: int, size: int) -> None:
    _own().add("passl/arrived", 1)
    _wait_for("passl/arrived", meeting * size, rank)
    _own().add("passl/seen", 1)
    if rank == 0:  # the store may end with it, but not before all have looked
        _wait_for("passl/seen", meeting * size, rank)


def _wait_for(key: str, number: int, rank: int) -> None:
    """Returns when a number of the store has reached another."""
    sleep = 0.0005
    while _own().add(key, 0) < number:
        if _own().add(FAILED, 0):
            raise lost(rank, "it has failed")
        time.sleep(sleep)
        sleep = min(1.5 * sleep, _LONGEST_SLEEP)
