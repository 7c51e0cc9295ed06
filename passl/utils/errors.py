"""The one exception for everything a user can get wrong."""

from __future__ import annotations

import difflib
from typing import Iterable, Sequence

from passl.utils.text import as_text


class PasslError(ValueError):
    """A mistake in a config, a file, the data or the command line.

    Its text names what is wrong, where, and the remedy. The command lines print it and exit; only
    ``--debug`` shows a traceback. Programming errors of our own are not of this type.

    Args:
        message: what is wrong and what to do.
        place: where a config says so (``"configs/x.yaml:12: "``); filled in by the builder
            that knows the config, so that parts need not.

    Attributes:
        exit_code: what a command exits with.
    """

    exit_code = 2

    def __init__(self, message: str, place: str = ""):
        super().__init__(message)
        self.place = place

    def __str__(self) -> str:
        return f"{self.place}{self.args[0]}"


def suggest(word: object, known: Iterable[object]) -> str:
    """Returns `` (did you mean 'x'?)``, or an empty string when nothing known is near."""
    near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean '{near[0]}'?)" if near else ""


def listing(names: Iterable[object]) -> str:
    """Returns the names sorted and joined with commas."""
    return ", ".join(sorted(str(name) for name in names))


def first_of(names: Sequence[str], most: int) -> str:
    """Returns the first names joined with commas, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shown(text: str) -> str:
    r"""Returns a text as a message shows it: with escapes where it holds what cannot be seen.

    Bytes of a name that are no UTF-8 stand as everywhere, as ``\xc6``.
    """
    text = as_text(text)
    return text if text.isprintable() else repr(text)
