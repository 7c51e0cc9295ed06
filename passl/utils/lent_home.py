"""A home for libraries that write to the user's, where that is missing, read-only or full."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from typing import Iterator

from passl.utils.system_errors import is_full


def lend_home() -> None:
    """Gives the process a temporary home until its end, unless its own can be written to.

    Paddle writes there what it translates into a static program, and VisualDL makes a folder in it
    when it is imported. A container may have no home, and a cluster's may be read-only.
    """
    home = os.environ.get("HOME")
    if home is not None and not _can_be_written(home):
        os.environ["HOME"] = _lent_home().name


@contextlib.contextmanager
def writable_home() -> Iterator[None]:
    """Lends a home, see ``lend_home``, and takes it back."""
    before = os.environ.get("HOME")
    lend_home()
    try:
        yield
    finally:
        if before is not None:
            os.environ["HOME"] = before


@functools.cache
def _can_be_written(home: str) -> bool:
    places = [place for place in (home, os.path.join(home, ".cache")) if os.path.exists(place)]
    usable = all(os.access(place, os.W_OK | os.X_OK) for place in places)
    return bool(places) and usable and not is_full(home)


@functools.cache
def _lent_home() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="passl-home-")  # removed when the process ends
