"""Where the project keeps what it can make again: ``$PASSL_CACHE``, or the user's cache folder."""

from __future__ import annotations

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
