"""What an error of the operating system means: its true cause, and what to do about it."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path
from typing import Optional, Union

from passl.utils.errors import PasslError

try:
    import resource  # now: importing takes a descriptor, and later there may be none
except ImportError:  # Windows
    resource = None

_SHARED_MEMORY = "/dev/shm"
_FULL = 1 << 16  # bytes: with less than this left, nothing worth a name can be written

_RIGHTS = "see with ls -l whose it is; give yourself the right with chmod, or name another place"
_DRIVE = "its disk or network drive fails, or is not there any more; see dmesg and mount"
# Where the cause says what to do.
_REMEDIES = {
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "name another place",
    errno.ENOENT: "is the name right, or was it removed meanwhile?",
    errno.ENOTDIR: "a part of its path is a file; name another place",
    errno.EISDIR: "name a file",
    errno.ENAMETOOLONG: "take a shorter name",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or take another disk",
    errno.ENFILE: "the whole machine may open no more; raise fs.file-max, or end what opens them",
    errno.ENOMEM: "the memory is full; end other programs, or take a machine with more",
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ETIMEDOUT,
         errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNRESET, errno.ECONNREFUSED), _DRIVE,
    ),
}  # fmt: skip


def most_files() -> str:
    """Returns what to do about too many open files."""
    if resource is None:
        return "close what else is open"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = f"up to {hard}" if soft < hard else "the administrator may: it is the most there is"
    return f"this process may have {soft} files open; raise that with ulimit -n ({most})"


def explain_os_error(
    error: OSError, place: Optional[Union[str, os.PathLike]] = None, doing: str = "written"
) -> PasslError:
    """Returns what to tell the user: the file, the cause, and the remedy that is true for it.

    Args:
        error: what the system said; a file that it names counts more than ``place``.
        place: the file or folder that was worked on; None where it may have been the output of the
            command.
        doing: what cannot be done to it, ``written``, ``read`` or both.
    """
    named = error.filename or place
    named = None if named is None else os.fsdecode(named)
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy: Optional[str] = _room(error, named)
    elif error.errno == errno.EMFILE:
        remedy = most_files()
    else:
        remedy = _REMEDIES.get(error.errno)
    return PasslError(
        f"{named or 'the output'}: cannot be {doing} ({reason})" + (f"; {remedy}" if remedy else "")
    )


def is_full(place: Union[str, os.PathLike]) -> bool:
    """Tells whether the file system of a path has no room left, or can take no more files."""
    with contextlib.suppress(OSError, AttributeError):  # Windows has no statvfs
        usage = os.statvfs(_existing(place))
        return usage.f_bavail * usage.f_frsize < _FULL or (usage.f_files and not usage.f_favail)
    return False


def _room(error: OSError, named: Optional[str]) -> str:
    """Says which file system is full, and what to do."""
    if named is not None and error.errno == errno.EDQUOT:
        return f"your quota on {_file_system(named)} is used up; make room there"
    # What has no name in the error may be somewhere else: semaphores, temporary files.
    places = [named or os.curdir]
    if not error.filename:
        places += [_SHARED_MEMORY, tempfile.gettempdir()]
    full = [_file_system(place) for place in places if is_full(place)]
    if _SHARED_MEMORY in full[:1]:
        return (
            f"the shared memory, {_SHARED_MEMORY}, is full; make room there or make it larger "
            "(docker run --shm-size)"
        )
    if full:
        return f"the disk at {full[0]} is full; make room there"
    if named is None:
        return "make room on the disk that it goes to"
    # What was written so far has been taken away again.
    return f"the disk at {_file_system(named)} has too little room for it; make room there"


def _existing(place: Union[str, os.PathLike]) -> Path:
    """Returns the path, or the nearest folder above it that is there."""
    path = Path(place).absolute()
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path


def _file_system(place: Union[str, os.PathLike]) -> str:
    """Returns where the file system of a path is mounted."""
    path = _existing(place).resolve()
    while not os.path.ismount(path) and path != path.parent:
        path = path.parent
    return str(path)
