"""Staying in touch with the other processes of a run, beside the training loop.

A process that hangs in a collective operation cannot find out why, and one that is asked to stop
cannot just stop: the others would wait for it for ever. So a thread of every process exchanges
small numbers with the others, through a connection of its own to the run's store.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, Dict, Iterator, List, Optional

from paddle import distributed

from passl.distributed.interrupts import Interrupted, Interrupts
from passl.distributed.processes import LostProcess, Processes
from passl.distributed.store import FAILED, connect, start_undisturbed, undisturbed
from passl.utils.logging import logger

_SECONDS_BETWEEN_BEATS = 0.5
_HAS_LEFT = 1 << 40  # more beats than there can be: a process that has ended as it should
# Seconds. gloo gives up on a process after 30 by itself, and cannot say on whom. NCCL waits for
# half an hour; a process that waits for its data, for loader.timeout (600 s by default), may keep
# others inside a copy to the GPU that lets no thread of Python beat.
_LOST_AFTER = {"GLOO": 28.0, "NCCL": 900.0}
_RUNS = itertools.count()  # of this process; the store keeps what earlier ones have left there


class Peers:
    """Watches over the processes of a run while it is open, as a context.

    - Each process beats; one that has not been heard of for ``lost_after`` seconds ends all others
      with a message that names it, whatever they hang in.
    - A signal to any process makes all of them stop before the same step: each tells which step it
      has begun and begins no other until all have told; they go on to the furthest.
    - It closes when all processes close it, or this one fails, which the others then know.

    Args:
        processes: this process among the others; alone, only its own signals count.
        lost_after: seconds; None for 28 with gloo (on processors) and 900 with NCCL.
    """

    def __init__(self, processes: Processes, lost_after: Optional[float]):
        self._processes, self._lost_after = processes, lost_after
        self._interrupts = Interrupts()  # none, so far
        self._run = 0
        self._changed = threading.Condition()
        self._begun = 0  # steps that the training loop has begun
        self._frozen = False
        self._stop_at: Optional[int] = None
        self._closed = threading.Event()
        self._answered = time.monotonic()
        self._hosts: List[str] = []
        self._store: Any = None
        self._threads: List[threading.Thread] = []

    def __enter__(self) -> Peers:
        if self._processes.size > 1:
            self._run = next(_RUNS)
            if self._lost_after is None:
                self._lost_after = _LOST_AFTER[distributed.get_backend()]
            self._store = connect()
            self._hosts = undisturbed(self._all_hosts)
            self._answered = time.monotonic()
            self._threads = [start_undisturbed(do) for do in (self._beat, self._watch_store)]
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        failed = error is not None and not isinstance(error, Interrupted)
        if not failed:
            with contextlib.suppress(LostProcess):  # this one has done its part
                self._processes.wait()
        self._closed.set()
        for thread in self._threads:  # none may be in the store when the process ends
            thread.join(10 * _SECONDS_BETWEEN_BEATS)
        if self._store is None or any(thread.is_alive() for thread in self._threads):
            return
        with contextlib.suppress(Exception):  # the first process may have ended already
            undisturbed(lambda: self._leave(failed))

    def _all_hosts(self) -> List[str]:
        self._store.set(self._key("host", self._processes.rank), socket.gethostname())
        everyone = range(self._processes.size)
        return [self._store.get(self._key("host", rank)).decode() for rank in everyone]

    def _leave(self, failed: bool) -> None:
        self._count("beat", self._processes.rank, _HAS_LEFT)
        if failed:
            self._store.add(FAILED, 1)

    @contextlib.contextmanager
    def heeding(self, interrupts: Interrupts) -> Iterator[None]:
        """Lets the signals that this process receives count, for a while."""
        before, self._interrupts = self._interrupts, interrupts
        try:
            yield
        finally:
            self._interrupts = before

    def stopping(self) -> bool:
        """Tells whether this process or, as far as it knows, another one was asked to stop."""
        return self._interrupts() or self._frozen

    @property
    def signum(self) -> int:
        """The signal that this process stops for; SIGTERM where another one received it."""
        return self._interrupts.signum or signal.SIGTERM

    def may_begin(self, step: int) -> bool:
        """Tells whether step ``step`` (from 0) is to be done; all processes get the same answer.

        Waits for the others where one was asked to stop.
        """
        if self._processes.size == 1:
            return not self._interrupts()
        with self._changed:
            # With a signal of its own it begins nothing before the others have been told.
            while self.stopping() and self._stop_at is None:
                self._changed.wait(_SECONDS_BETWEEN_BEATS)
            if self._stop_at is not None and step >= self._stop_at:
                return False
            self._begun = step + 1
            return True

    def stop_before(self, step: int) -> None:
        """Settles where all stop, where every process has come to know of it in another way."""
        with self._changed:
            self._stop_at = step

    # ------------------------------------------------ the threads

    def _key(self, what: str, rank: int) -> str:
        return f"passl/{self._run}/{what}/{rank}"

    def _count(self, what: str, rank: int = 0, increment: int = 0) -> int:
        """Adds to a number that all processes see, and returns it."""
        value = self._store.add(self._key(what, rank), increment)
        self._answered = time.monotonic()
        return value

    def _beat(self) -> None:
        rank, announced = self._processes.rank, False
        seen: Dict[int, Any] = {}
        try:
            while not self._closed.wait(_SECONDS_BETWEEN_BEATS):
                self._count("beat", rank, 1)
                if self._interrupts() and not announced:
                    announced = True
                    self._count("stop", increment=1)
                if self._stop_at is None and self._count("stop"):
                    self._agree_to_stop()
                # One process looks at all others, and they look at what it found.
                lost = self._find_lost(seen) if rank == 0 else self._count("lost") - 1
                if lost >= 0:
                    self._end(self._unheard(lost))
        except Exception as error:  # the store's own, whose types differ between versions
            if not self._closed.wait(_SECONDS_BETWEEN_BEATS):
                logger.debug("the store: %s", error)
                self._end(f"process 0 on {self._hosts[0]} has ended, or is cut off")

    def _find_lost(self, seen: Dict[int, Any]) -> int:
        """Returns a process that has not been heard of for too long, or -1."""
        for rank in range(1, self._processes.size):
            beats, now = self._count("beat", rank), time.monotonic()
            if beats >= _HAS_LEFT:
                continue
            if rank not in seen or seen[rank][0] != beats:
                seen[rank] = (beats, now)
            elif now - seen[rank][1] > self._lost_after:
                self._count("lost", increment=rank + 1)
                time.sleep(4 * _SECONDS_BETWEEN_BEATS)  # for the others to read it
                return rank
        return -1

    def _agree_to_stop(self) -> None:
        with self._changed:
            self._frozen = True
            begun = self._begun
        self._count("begun", self._processes.rank, begun + 1)
        everyone = range(self._processes.size)
        while not self._closed.is_set() and self._stop_at is None:
            told = [self._count("begun", rank) for rank in everyone]
            if all(told):
                with self._changed:
                    self._stop_at = max(told) - 1
                    self._changed.notify_all()
                return
            self._count("beat", self._processes.rank, 1)

    def _watch_store(self) -> None:
        """Ends this process should the store, which is in the first one, no longer answer."""
        while not self._closed.wait(_SECONDS_BETWEEN_BEATS):
            if time.monotonic() - self._answered > self._lost_after:
                self._end(self._unheard(0))

    def _unheard(self, rank: int) -> str:
        seconds = f"{self._lost_after:.0f} s (parallel.lost_after)"
        return f"process {rank} on {self._hosts[rank]} has not been heard of for {seconds}"

    def _end(self, what: str) -> None:
        """Ends this process, whatever its training loop hangs in."""
        print(
            f"error: process {self._processes.rank} on {socket.gethostname()}: {what}; is its host "
            "down or its network gone? See its log; then go on with --resume auto",
            file=sys.stderr,
            flush=True,
        )
        os._exit(LostProcess.exit_code)
