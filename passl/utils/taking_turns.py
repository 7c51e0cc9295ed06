"""One process at a time, also where they are on several machines that share a disk."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

from passl.utils.errors import PasslError
from passl.utils.logging import logger

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_PATIENCE, _POLL = 900.0, 0.2  # seconds
_HELD = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
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


def _locked(lock: Path, progress: Callable[[], Any], doing: str) -> Any:
    if fcntl is None:
        return None
    seen, since = None, 0.0
    while True:
        file = open(lock, "a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(file)
            file.close()
            if error.errno in _NO_LOCKS:
                lock.unlink(missing_ok=True)
                return None
            if error.errno not in _HELD:
                raise
            if seen is None:
                logger.info("%s: %s is %s; waiting for it", lock, holder, doing)
            now = (progress(), holder)
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > _PATIENCE:
                raise PasslError(
                    f"{lock}: is held by {holder}, which has got no further for "
                    f"{_PATIENCE / 60:.0f} minutes; end it, or remove this file if it is gone"
                ) from None
            time.sleep(_POLL)
            continue
        # The process before may have removed the file between our opening and locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                break
        file.close()
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def _holder(file: Any) -> str:
    with contextlib.suppress(OSError, ValueError):
        file.seek(0)
        return file.readline(200).strip() or "another process"
    return "another process"
