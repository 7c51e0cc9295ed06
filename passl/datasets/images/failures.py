"""Whose fault it is that something cannot be read: the image's, or the machine's."""

from __future__ import annotations

import errno

from passl.utils.errors import PasslError
from passl.utils.system_errors import explain_os_error, most_files


class UnreadableImage(PasslError):
    """An image file that is missing, truncated, too large or not an image; others may be good."""


# What the system says of a file itself. Everything else says something of the machine, and would
# come again with the next file.
_OF_THE_FILE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)


def reading_failed(error: OSError, path: str) -> PasslError:
    """Returns what to tell the user where a file cannot be opened or read.

    Args:
        error: the system's.
        path: what to call the file.

    Returns:
        An ``UnreadableImage`` where it is the file's fault; a plain PasslError where the machine
        refused, which says nothing of the image.
    """
    reason = error.strerror or str(error)
    if error.errno in _OF_THE_FILE:
        if error.errno == errno.ENOENT:
            reason = "there is no such file"
        return UnreadableImage(
            f"{path}: cannot be read as an image ({reason}); repair or remove it"
        )
    return explain_os_error(error, path, "read")


def starting_failed(error: BaseException, workers: int) -> PasslError:
    """Returns what to tell the user where the processes that read cannot be started.

    Args:
        error: an OSError, or what Python raises where it gets no thread.
        workers: how many there were to be.
    """
    number = getattr(error, "errno", None)
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, RuntimeError) or number == errno.EAGAIN:
        cause = "the limit of processes is reached (ulimit -u, or that of the container)"
    elif number == errno.EMFILE:
        cause = most_files()
    elif number in (errno.ENOSPC, errno.EDQUOT):
        cause = (
            "/dev/shm, where their semaphores are, is full: see df /dev/shm (docker: --shm-size)"
        )
    elif number == errno.ENOMEM or isinstance(error, MemoryError):
        cause = "the memory is full"
    else:
        cause = "see whether /dev/shm is there and can be written to"
    return PasslError(
        f"{workers} data workers cannot be started ({reason}): {cause}; or lower "
        "loader.num_workers: 0 needs none"
    )
