"""Whose fault it is that something cannot be read: the image's, or the machine's."""

from __future__ import annotations

import errno
from typing import Dict

from passl.utils.errors import PasslError

try:
    import resource  # now: importing takes a descriptor, and later there may be none
except ImportError:  # Windows
    resource = None


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
    errno.ENXIO,
)
_DRIVE = "its disk or network drive fails, or is not there any more; see dmesg and mount"
_RIGHTS = "see with ls -l who may read it and its folders, and change that with chmod"
_REMEDIES: Dict[int, str] = {
    errno.ENFILE: "the whole machine may open no more; raise fs.file-max, or end what opens them",
    errno.ENOMEM: "the memory is full; lower loader.num_workers, or end what else uses it",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN,
         errno.EHOSTUNREACH, errno.ECONNRESET, errno.ECONNREFUSED), _DRIVE,
    ),
}  # fmt: skip


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
    if error.errno == errno.EMFILE:
        remedy = most_files()
    else:
        remedy = _REMEDIES.get(
            error.errno or 0, "that is the system's answer, and no damaged image"
        )
    return PasslError(f"{path}: cannot be read ({reason}): {remedy}")


def most_files() -> str:
    """Returns what to do about too many open files."""
    if resource is None:
        return "close what else is open"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = f"up to {hard}" if soft < hard else "the administrator may: it is the most there is"
    return f"this process may have {soft} files open; raise that with ulimit -n ({most})"


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


__all__ = ["UnreadableImage", "most_files", "reading_failed", "starting_failed"]
