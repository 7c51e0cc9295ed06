"""The package's logger: clean lines on the console, dated ones in a run's log file."""

from __future__ import annotations

import logging
import os
import sys
from logging.handlers import MemoryHandler

from tqdm import tqdm

from passl.utils.text import as_text

logger = logging.getLogger("passl")

_MOST_HELD = 10_000  # messages


class _Lines(logging.Formatter):
    """Messages whose names are text, whatever the files they name are called."""

    def format(self, record: logging.LogRecord) -> str:
        return as_text(super().format(record))


class _ConsoleHandler(logging.Handler):
    """Writes above a progress bar instead of through it."""

    to_errors = False

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if self.to_errors else sys.stdout
        tqdm.write(self.format(record), file=stream)
        stream.flush()


def log_to_console(to_errors: bool = False) -> None:
    """Shows the package's messages on standard output, or on the error stream."""
    handlers = [handler for handler in logger.handlers if isinstance(handler, _ConsoleHandler)]
    if not handlers:
        handlers = [_ConsoleHandler()]
        handlers[0].setFormatter(_Lines())
        logger.addHandler(handlers[0])
    handlers[0].to_errors = to_errors
    logger.setLevel(logging.INFO)
    logger.propagate = False


def quiet_console() -> None:
    """Keeps all but warnings off the standard output; log files get the rest as before."""
    for handler in logger.handlers:
        if isinstance(handler, _ConsoleHandler):
            handler.setLevel(logging.WARNING)


def hold_for_file() -> None:
    """Keeps the package's messages from here on for the file that ``log_to_file`` opens."""
    logger.addHandler(MemoryHandler(_MOST_HELD, flushLevel=logging.CRITICAL + 1))


def log_to_file(path: str) -> None:
    """Appends the package's messages, with time and level, to a file; those held come first."""
    handler = logging.FileHandler(path, encoding="utf-8")
    # On a full disk the log goes without; what cannot do without the space reports it.
    handler.handleError = lambda record: None
    handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
    for held in [h for h in logger.handlers if isinstance(h, MemoryHandler)]:
        held.setTarget(handler)
        logger.removeHandler(held)
        held.close()  # which hands on what it has
    logger.addHandler(handler)


def stop_logging_to_files() -> None:
    """Closes the log files, so that a second run in the same process starts clean."""
    ours = (logging.FileHandler, MemoryHandler)
    for handler in [h for h in logger.handlers if isinstance(h, ours)]:
        logger.removeHandler(handler)
        handler.close()


def interactive() -> bool:
    """Tells whether progress bars make sense: the error stream is a terminal."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
