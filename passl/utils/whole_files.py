"""Files that appear whole or not at all, and what tells that one is whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Iterator, Union

from passl.utils.system_errors import explain_os_error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to; what was written takes its place at the end.

    After an exception nothing is left of it, and ``path`` is as it was. The folder is made where
    it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield aside
        os.replace(aside, path)
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
