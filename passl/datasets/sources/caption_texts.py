"""Which values of tables and JSON are captions."""

from __future__ import annotations

import math
from typing import Any, List


def texts_of(value: Any) -> List[str]:
    """Returns the captions that a value holds, without spaces around them and without empty ones.

    Text stays as it is, "NA" and "None" too. What says that there is none (null, and the NaN that
    pandas writes for it) is none.

    Args:
        value: a text, a number, nothing, or a list of them.

    Raises:
        ValueError: it is something else; the message continues ``it is``.
    """
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, (list, tuple)) for item in value):
            raise ValueError("a list of lists, and no list of texts")
        return [text for item in value for text in texts_of(item)]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    if isinstance(value, dict):
        keys = ", ".join(str(key) for key in list(value)[:4])
        raise ValueError(f"an object with {keys or 'no keys'}, and no text")
    if isinstance(value, bytes):
        raise ValueError("bytes, and no text")
    text = str(value).strip()
    return [text] if text else []
