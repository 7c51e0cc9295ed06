"""A lock of the operating system on a file, which ends with the process, however that ends."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_HELD = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Held(Exception):
    """Another process has the lock.

    Args:
        said: the line that it wrote into the file; empty where it is about to.
    """

    def __init__(self, said: str):
        super().__init__(said)
        self.said = said


class NoLocks(Exception):
    """The system, or the file system, has no locks; its argument says why."""


def lock_file(path: Path, line: str) -> TextIO:
    """Returns a file that is locked for as long as it is open.

    Args:
        path: of the file, which is made. Whoever is done with it removes it, then closes it.
        line: what others are told of this process.

    Raises:
        Held: another process has it.
        NoLocks: nobody can have it; there is no file then.
        OSError: the file cannot be written.
    """
    if fcntl is None:
        raise NoLocks("there are none on this system")
    while True:
        file = open(path, "a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            held = Held(_first_line(file)) if error.errno in _HELD else None
            file.close()
            if held is not None:
                raise held from None
            if error.errno not in _NO_LOCKS:
                raise
            path.unlink(missing_ok=True)
            raise NoLocks(error.strerror) from None
        # The process before may have removed the file between our opening and locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()
    file.truncate(0)
    file.write(f"{line}\n")
    file.flush()
    return file


def _first_line(file: TextIO) -> str:
    with contextlib.suppress(OSError, ValueError):
        file.seek(0)
        return file.readline(200).strip()
    return ""
