"""What main process and workers know of one another: who is at what, and who is still there."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import signal
import struct
import sys
import threading
import time
from types import FrameType
from typing import Any, Iterator, List, Optional, Sequence

from paddle.io import multiprocess_utils

from passl.utils.errors import PasslError
from passl.utils.heap import give_freed_memory_back
from passl.utils.logging import logger

# How long a worker goes on after SIGTERM, so that the main process can finish its step and save.
_GRACE_SECONDS = 20.0
# How long after it was killed a worker may keep the main process waiting.
_LAST_SECONDS = 30.0
_SLOT = struct.Struct("qd")  # sample (-1: none), since when


class Watch:
    """Watches the workers of one iteration over a loader.

    Args:
        dataset: tells what a sample is called (``where``).
        num_workers: 0 watches nothing.
        timeout: seconds without a batch after which the workers are killed; a tenth of it brings
            a warning.

    Attributes:
        verdict: what to tell the user, once the workers have been killed.
        worker: the number of the worker that this process is; None in the main process.
    """

    def __init__(self, dataset: Any, num_workers: int, timeout: float):
        self._dataset, self._timeout = dataset, timeout
        self._processes: Sequence[Any] = ()
        self._since: Optional[float] = None
        self._stopped = threading.Event()
        self.verdict: Optional[PasslError] = None
        # Shared with the workers that are forked later; each writes its own slot.
        self._memory = mmap.mmap(-1, max(1, num_workers) * _SLOT.size)
        self.worker: Optional[int] = None

    # ------------------------------------------------ in a worker

    def prepare_worker(self, worker_id: int) -> None:
        """Runs first in every worker: it leaves signals to the main process, and dies with it."""
        gc.freeze()  # what was inherited is never collected here
        gc.enable()
        give_freed_memory_back()  # one image may be a thousand times as large as the others
        self.worker = worker_id
        # Ctrl-C, and SIGTERM from a batch system, reach every process of the group; the main
        # process decides what they mean.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _leave_later)
        threading.Thread(target=leave_with_parent, args=(os.getppid(),), daemon=True).start()

    @contextlib.contextmanager
    def working_on(self, index: int) -> Iterator[None]:
        """Notes which sample this worker is at."""
        if self.worker is None:
            yield
            return
        place = self.worker * _SLOT.size
        _SLOT.pack_into(self._memory, place, index, time.monotonic())
        try:
            yield
        finally:
            _SLOT.pack_into(self._memory, place, -1, time.monotonic())

    # ------------------------------------------------ in the main process

    def start(self, processes: Sequence[Any]) -> None:
        """Begins to watch the workers."""
        self._processes = processes
        if processes:
            threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Ends the watch."""
        self._stopped.set()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Surrounds the wait for a batch."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def _run(self) -> None:
        warned: Optional[float] = None
        while not self._stopped.wait(min(1.0, self._timeout / 20)):
            since = self._since
            waited = 0.0 if since is None else time.monotonic() - since
            if waited > self._timeout:
                self._give_up(waited)
                return
            if waited > self._timeout / 10 and warned != since:
                warned = since
                logger.warning("no batch for %.0f s: %s", waited, self._account())

    def _give_up(self, waited: float) -> None:
        self.verdict = PasslError(
            f"no batch for {waited:.0f} s (loader.timeout): {self._account()}; is a disk or a "
            "network drive gone? Then run it again (--resume auto)"
        )
        for process in self._processes:
            with contextlib.suppress(OSError):
                os.kill(process.pid, signal.SIGKILL)
        # The death of a worker wakes the main process, unless the kernel itself does not let go
        # of it (a network drive that hangs).
        if not self._stopped.wait(_LAST_SECONDS) and self._since is not None:
            print(f"error: {self.verdict}", file=sys.stderr, flush=True)
            os._exit(2)

    def casualties(self) -> str:
        """Says which workers have died, of what, and at what; an empty text where none has."""
        said: List[str] = []
        for worker, process in enumerate(self._processes):
            process.join(0.1)  # it may be about to
            code = process.exitcode
            if code:
                index, _ = _SLOT.unpack_from(self._memory, worker * _SLOT.size)
                known = -code in {number.value for number in signal.Signals}
                how = signal.Signals(-code).name if known else f"exit code {code}"
                at = f", reading {self._dataset.where(index)}" if index >= 0 else ""
                said.append(f"worker {worker} ({how}{at})")
        return "; ".join(said[:4])

    def _account(self) -> str:
        """Says what each worker is at."""
        said: List[str] = []
        for worker, process in enumerate(self._processes):
            index, since = _SLOT.unpack_from(self._memory, worker * _SLOT.size)
            if not process.is_alive():
                said.append(f"worker {worker} is dead")
            elif index >= 0 and since:
                seconds = time.monotonic() - since
                said.append(
                    f"worker {worker} has been reading {self._dataset.where(index)} for "
                    f"{seconds:.0f} s"
                )
            else:
                said.append(f"worker {worker} is waiting or handing a batch over")
        return "; ".join(said[:4]) + ("; …" if len(said) > 4 else "")


def leave_with_parent(parent: int) -> None:
    """Ends a worker whose main process was killed.

    Paddle's own watch looks only between two requests, and a worker waits for the next one for
    ever: it would stay behind with its memory.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    _leave()


def _leave_later(signum: int, frame: Optional[FrameType]) -> None:
    timer = threading.Timer(_GRACE_SECONDS, _leave)
    timer.daemon = True
    timer.start()


def _leave() -> None:
    with contextlib.suppress(Exception):
        multiprocess_utils._cleanup_mmap()  # its share of /dev/shm
    os._exit(1)
