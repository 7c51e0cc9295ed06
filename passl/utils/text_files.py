"""Text files that people write: lists of images, names of classes."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Iterator, Tuple

from passl.utils.errors import PasslError
from passl.utils.system_errors import explain_os_error

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(file: Path) -> Iterator[Tuple[int, str]]:
    """Yields number, from 1, and content of every line, without its end; of an empty one too.

    The text is UTF-8, with or without the mark that Windows puts before it. A byte that is no UTF-8
    comes as ``os.fsdecode`` has it, because it may stand in the name of a file; see ``not_utf8``.

    Raises:
        PasslError: the file cannot be read, or is UTF-16 or no text.
    """
    try:
        with open(file, "rb") as content:
            wide = content.read(2) in _UTF_16
        if wide:
            raise PasslError(f"{file}: is UTF-16; save it as UTF-8")
        with open(file, encoding="utf-8-sig", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, start=1):
                if "\0" in line:
                    raise PasslError(f"{file}:{number}: is no text in UTF-8; save it as UTF-8")
                yield number, line.rstrip("\n")
    except OSError as error:
        raise explain_os_error(error, file, "read") from None


def is_utf8(line: str) -> bool:
    """Tells whether a line of ``read_lines`` is UTF-8 throughout."""
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def not_utf8(file: Path, number: int) -> PasslError:
    """Returns the error for a line that is not."""
    return PasslError(
        f"{file}:{number}: is not UTF-8 but another encoding (GBK, Latin-1, …); save it as UTF-8"
    )
