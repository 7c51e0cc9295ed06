"""What the system says, as one line with the true cause: no advice that is not true for it."""

import errno
import os

import pytest

from passl.utils import system_errors
from passl.utils.system_errors import explain_os_error, is_full

ROOM = "make room"


def error(code, filename=None):
    return OSError(code, os.strerror(code), filename)


@pytest.mark.parametrize(
    "code, remedy",
    [
        (errno.EMFILE, "ulimit -n"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EACCES, "chmod"),
        (errno.EPERM, "chmod"),
        (errno.EROFS, "another place"),
        (errno.ENOTDIR, "is a file"),
        (errno.EIO, "dmesg"),
        (errno.ESTALE, "network drive"),
        (errno.ELOOP, ""),
    ],
)
def test_only_a_full_disk_asks_for_room(code, remedy, tmp_path):
    text = str(explain_os_error(error(code), tmp_path / "x"))
    assert text.startswith(f"{tmp_path / 'x'}: cannot be written ({os.strerror(code)})")
    assert remedy in text and ROOM not in text and "\n" not in text
    read = str(explain_os_error(error(code, str(tmp_path / "y")), tmp_path, "read"))
    assert read.startswith(f"{tmp_path / 'y'}: cannot be read (")


@pytest.fixture
def full(monkeypatch):
    """Makes the file systems of some folders full: one, all inodes, quota is another error."""

    def these(*folders):
        monkeypatch.setattr(
            system_errors, "is_full", lambda place: any(str(place).startswith(f) for f in folders)
        )
        monkeypatch.setattr(
            system_errors,
            "_file_system",
            lambda place: next((f for f in folders if str(place).startswith(f)), "/other"),
        )

    return these


def test_the_file_system_that_is_full_is_named(full, tmp_path):
    disk = str(tmp_path)
    full(disk)
    assert f"the disk at {disk} is full; make room there" in str(
        explain_os_error(error(errno.ENOSPC), tmp_path / "run" / "x")
    )
    # Semaphores have no name, and the run's disk has room.
    full("/dev/shm")
    text = str(explain_os_error(error(errno.ENOSPC), tmp_path))
    assert "/dev/shm, is full" in text and "--shm-size" in text
    # A file that is named is on the disk it is on; what was half-written is gone again.
    text = str(explain_os_error(error(errno.ENOSPC, str(tmp_path / "x")), tmp_path))
    assert "shm" not in text and "the disk at /other has too little room" in text
    assert "quota on /other" in str(explain_os_error(error(errno.EDQUOT), tmp_path))
    assert "quota" not in str(explain_os_error(error(errno.ENOSPC), tmp_path))
    assert str(explain_os_error(error(errno.ENOSPC))).startswith("the output: cannot be written (")


def test_full_is_without_bytes_or_without_inodes(monkeypatch, tmp_path):
    def statvfs(bavail, files, favail):
        usage = os.statvfs_result((4096, 4096, 1000, bavail, bavail, files, favail, favail, 0, 255))
        monkeypatch.setattr(system_errors.os, "statvfs", lambda path: usage)
        return bool(is_full(tmp_path / "not" / "there"))

    assert not statvfs(1000, 100, 50)
    assert statvfs(0, 100, 50)
    assert statvfs(1000, 100, 0)
    assert not statvfs(1000, 0, 0)  # a file system that does not count them
