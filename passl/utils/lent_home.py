"""A home for libraries that write to the user's, where that is missing, read-only or full."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from typing import Iterator

from passl.utils.system_errors import is_full


@contextlib.contextmanager
def writable_home() -> Iterator[None]:
    """Lends the process a temporary home meanwhile, unless its own can be written to.

    VisualDL makes a folder in it when it is imported, and Paddle writes there what it translates
    into a static program. A container may have none, and a cluster's may be read-only.
    """
    before = os.environ.get("HOME")
    if before is None or _can_be_written(before):
        yield
        return
    os.environ["HOME"] = _lent_home().name
    try:
        yield
    finally:
        os.environ["HOME"] = before


@functools.cache
def _can_be_written(home: str) -> bool:
    places = [place for place in (home, os.path.join(home, ".cache")) if os.path.exists(place)]
    usable = all(os.access(place, os.W_OK | os.X_OK) for place in places)
    return bool(places) and usable and not is_full(home)


@functools.cache
def _lent_home() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="passl-home-")  # removed when the process ends
