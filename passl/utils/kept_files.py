"""Where what was worked out of a folder is kept for the next time: the user's cache folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Optional

from passl.utils.errors import PasslError
from passl.utils.home import expanded


def kept_file(room: str, root: str, kind: str) -> Optional[Path]:
    """Returns where something is kept: below ``$PASSL_CACHE``, or else the user's cache folder.

    Args:
        room: the folder for what is of this sort.
        root: the folder that it was made from, by whatever path.
        kind: what tells it apart from others that were made from the same folder.

    Returns:
        The path of an ``.npz`` file; None where there is no home to keep it in.
    """
    base = os.environ.get("PASSL_CACHE")
    try:
        base = expanded(
            base or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "passl")
        )
    except PasslError:
        return None
    key = hashlib.sha256(os.fsencode(f"{os.path.realpath(root)}\0{kind}")).hexdigest()[:16]
    # The name is there for people, and may be as long as names can be.
    name = os.fsencode(os.path.basename(os.path.normpath(root)))[:200]
    return Path(base, room, f"{os.fsdecode(name)}-{key}.npz")
