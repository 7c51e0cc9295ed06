"""One run at a time writes to a folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Optional

from passl.distributed.processes import Processes
from passl.utils.errors import PasslError
from passl.utils.file_locks import Held, NoLocks, lock_file
from passl.utils.logging import logger
from passl.utils.system_errors import explain_os_error

LOCK = ".lock"


class RunLock:
    """Keeps other runs out of a folder, as a context.

    The first process of the run holds a lock of the operating system on a file in the folder, which
    ends with the process, however that ends. Data workers do not inherit it.

    Args:
        folder: of the run.
        processes: those of the run, all of which must use it.

    Raises:
        PasslError: another run goes on in the folder, or it cannot be written to.
    """

    def __init__(self, folder: Path, processes: Processes):
        self._path, self._processes = folder / LOCK, processes
        self._file: Any = None
        self._settled = False

    def __enter__(self) -> RunLock:
        """Takes the lock if the folder is there; where it is not, no run can be in it."""
        self._take(only_if_there=True)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # the disk is gone, say, which the run has reported
                self._path.unlink()
            self._file.close()
            self._file = None

    def take(self) -> None:
        """Makes the folder where it is missing and takes the lock, unless that has been done."""
        self._take(only_if_there=False)

    def _take(self, only_if_there: bool) -> None:
        problem: Optional[PasslError] = None
        if self._processes.is_first and not self._settled:
            if self._path.parent.is_dir() or not only_if_there:
                try:
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    self._lock()
                    self._settled = True
                except PasslError as error:
                    problem = error
                except OSError as error:
                    problem = explain_os_error(error, self._path.parent)
        if self._processes.sum([problem is not None])[0]:
            raise problem or PasslError(
                f"{self._path.parent}: the first process cannot have the folder; see its message"
            )

    def _lock(self) -> None:
        holder = {"process": os.getpid(), "host": socket.gethostname(), "since": time.ctime()}
        try:
            self._file = lock_file(self._path, json.dumps(holder))
        except Held as held:
            raise PasslError(
                f"{self._path.parent}: a run goes on here ({_in_words(held.said)}); wait for it, "
                "stop it, or choose another --output-dir"
            ) from None
        except NoLocks as error:
            logger.warning(
                "%s: its file system has no locks (%s): see to it that no other run writes there",
                self._path.parent, error,
            )  # fmt: skip


def _in_words(said: str) -> str:
    try:
        held = json.loads(said)
        return f"process {held['process']} on {held['host']}, since {held['since']}"
    except (ValueError, KeyError, TypeError):  # it is about to write it
        return "it has just begun"
