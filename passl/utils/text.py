"""Names as text, whatever bytes they are on the disk.

A file's name need not be UTF-8: an archive packed on a Chinese Windows holds names in GBK. Python
keeps each odd byte of such a name as half of a surrogate pair, which opens the file and which no
text file, console or font can take.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Iterator, Tuple


def as_text(name: str) -> str:
    r"""Returns a name as text that can be written everywhere; bytes that are no UTF-8 as ``\xc6``.

    Text comes back as it is.
    """
    try:
        data = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair that stands for no byte
        return name.encode("utf-8", "backslashreplace").decode("utf-8")
    return data.decode("utf-8", "backslashreplace")


def visible(message: str) -> str:
    r"""Returns a message with what cannot be seen in it written out: ``\r``, ``\ufeff``, ``\x1b``.

    Line breaks stay: some messages have several lines.
    """
    return "".join(
        letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1]
        for letter in as_text(message)
    )


@contextlib.contextmanager
def path_in_text(folder: Path) -> Iterator[Path]:
    """Gives a path of a folder that is text, for libraries that take no other.

    It is the folder's own one where that is text, and a link to it elsewhere.
    """
    if as_text(str(folder)) == str(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="passl-") as place:
        link = Path(place, "folder")
        link.symlink_to(folder.resolve(), target_is_directory=True)
        yield link


def _written_out(error: UnicodeError) -> Tuple[str, int]:
    """Like ``backslashreplace``, but with bytes that are no UTF-8 as ``as_text`` gives them."""
    assert isinstance(error, UnicodeEncodeError)
    name = as_text(error.object[error.start : error.end])
    return name.encode("ascii", "backslashreplace").decode("ascii"), error.end


def accept_all_text() -> None:
    r"""Lets the standard streams take and give every text, whatever the locale says.

    What the console has no letters for is written as ``\u82f9``; paths that come in are read as
    the file system's names are.
    """
    codecs.register_error("passl", _written_out)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a program has put something else there
            stream.reconfigure(errors="passl")
    if hasattr(sys.stdin, "reconfigure"):
        with contextlib.suppress(io.UnsupportedOperation):  # somebody has begun to read
            sys.stdin.reconfigure(
                encoding=sys.getfilesystemencoding(), errors=sys.getfilesystemencodeerrors()
            )
