"""Where the project keeps what it can make again: ``$PASSL_CACHE``, or the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Optional

from passl.utils.errors import PasslError
from passl.utils.home import expanded


def cache_folder(name: str) -> Optional[Path]:
    """Returns a folder of the cache, which may not be there yet; None without a home for it.

    Args:
        name: of what it keeps (``index``).
    """
    base = os.environ.get("PASSL_CACHE")
    try:
        base = expanded(
            base or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "passl")
        )
    except PasslError:
        return None
    return Path(base, name)


def cache_file(name: str, root: str, kind: str) -> Optional[Path]:
    """Returns where something is kept that was made from a folder; None without a home for it.

    Args:
        name: of what it is, see ``cache_folder``.
        root: the folder that it was made from, by whatever path.
        kind: what tells it apart from others that were made from the same folder.

    Returns:
        the path of an ``.npz`` file.
    """
    folder = cache_folder(name)
    if folder is None:
        return None
    key = hashlib.sha256(os.fsencode(f"{os.path.realpath(root)}\0{kind}")).hexdigest()[:16]
    # The name is there for people, and may be as long as names can be.
    own = os.fsencode(os.path.basename(os.path.normpath(root)))[:200]
    return folder / f"{os.fsdecode(own)}-{key}.npz"


def forget_the_oldest(folder: Path, pattern: str, most: int) -> None:
    """Removes those files of a folder that were not used for longest, by the time of their change.

    Args:
        folder: of the cache.
        pattern: of the files' names.
        most: how many stay.
    """
    with contextlib.suppress(OSError):
        kept = sorted(folder.glob(pattern), key=lambda file: file.stat().st_mtime)
        for file in kept[:-most]:
            file.unlink()
