"""``~`` at the beginning of a path, which a shell expands in some places and YAML nowhere."""

from __future__ import annotations

import os
import re

from passl.utils.errors import PasslError

_HOME = re.compile(r"~([\w.-]*)(?=/|$)")


def expanded(path: str) -> str:
    """Returns a path with ``~`` or ``~user`` at its beginning replaced by that home folder.

    Raises:
        PasslError: nobody knows that folder. Left as it is, the path would make a folder called
            ``~``, and whoever then removes it in a shell removes a home.
    """
    begin = _HOME.match(path)
    if begin is None:
        return path
    whole = os.path.expanduser(path)
    if whole != path or (begin[1] and os.path.lexists(path)):
        return whole
    why = f"there is no user '{begin[1]}'" if begin[1] else "HOME is not set"
    raise PasslError(
        f"{path}: begins with {begin[0]}, and {why}; write the folder out, or ./{path} if that is "
        "its name"
    )
