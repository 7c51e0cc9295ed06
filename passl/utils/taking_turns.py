"""One process at a time, also where they are on several machines that share a disk."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, TextIO

from passl.utils.errors import PasslError
from passl.utils.file_locks import Held, NoLocks, lock_file
from passl.utils.logging import logger

_PATIENCE, _POLL = 900.0, 0.2  # seconds
# A lock of the operating system is the process's: all its threads would have it.
_THREADS = threading.Lock()


@contextlib.contextmanager
def taking_turns(lock: Path, progress: Callable[[], Any], doing: str) -> Iterator[bool]:
    """Waits until no other process is in a context of the same lock, and keeps others out.

    The lock ends with the process, however that ends. Only where a machine has died and the file
    server does not notice would it stay for ever; so whoever waits looks for progress.

    Args:
        lock: a file for it, which is made and removed.
        progress: returns what changes while the other process is at work.
        doing: what it does, for messages.

    Returns:
        Whether there is a lock; False where the file system has none.

    Raises:
        PasslError: another process has the lock, and has done nothing for a quarter of an hour.
        OSError: the file cannot be written.
    """
    with _THREADS:
        file = _locked(lock, progress, doing)
        try:
            yield file is not None
        finally:
            if file is not None:
                with contextlib.suppress(OSError):
                    lock.unlink()
                file.close()


def _locked(lock: Path, progress: Callable[[], Any], doing: str) -> Optional[TextIO]:
    seen, since = None, 0.0
    while True:
        try:
            return lock_file(lock, f"process {os.getpid()} on {socket.gethostname()}")
        except NoLocks:
            return None
        except Held as held:
            holder = held.said or "another process"
        if seen is None:
            logger.info("%s: %s is %s; waiting for it", lock, holder, doing)
        now = (progress(), holder)
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > _PATIENCE:
            raise PasslError(
                f"{lock}: is held by {holder}, which has got no further for "
                f"{_PATIENCE / 60:.0f} minutes; end it, or remove this file if it is gone"
            )
        time.sleep(_POLL)
