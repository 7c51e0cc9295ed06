"""Files that appear whole or not at all, and what tells that one is whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import Iterator, Union

from passl.utils.system_errors import explain_os_error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to; what was written takes its place at the end.

    After an exception nothing is left of it, and ``path`` is as it was. The folder is made where
    it is missing. A link stays, and what it points to is replaced. What no other file can take the
    place of is given as it is: a pipe, a device, a file in a folder that cannot be written to.

    Raises:
        OSError: of what was written, with the name of ``path``.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not (place.is_file() and os.access(place.parent, os.W_OK | os.X_OK)):
        yield path
        return
    # Short, because the name may be as long as names can be; by chance, because machines that share
    # a disk may give two processes the same number.
    aside = place.with_name(f".partial-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with contextlib.suppress(OSError):  # it is new, or another user's
            shutil.copymode(place, aside)
        os.replace(aside, place)
    except OSError as error:
        if error.filename in (None, str(aside)):
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Makes a folder that a command writes to, with what it is in.

    Raises:
        PasslError: the folder cannot be made, or something cannot be written meanwhile.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise explain_os_error(error, folder) from None


def sha256_of(path: Union[str, os.PathLike]) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
