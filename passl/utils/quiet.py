"""Silence for what a library prints past Python."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Iterator


@contextlib.contextmanager
def quiet(output: bool = False) -> Iterator[None]:
    """Discards what the process writes to its error stream meanwhile, C++ code included.

    Args:
        output: also what it writes to its output.
    """
    streams = {2: sys.stderr, **({1: sys.stdout} if output else {})}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    kept = {}
    try:
        for number, stream in streams.items():
            stream.flush()
            kept[number] = os.dup(number)
            os.dup2(nowhere, number)
        yield
    finally:
        for number, copy in kept.items():
            streams[number].flush()
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)
