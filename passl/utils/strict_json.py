"""JSON that every program reads: text is Unicode, and numbers that are none are null."""

from __future__ import annotations

import json
import math
from typing import Any, Mapping

from passl.utils.text import as_text


def to_json(value: Any, **options: Any) -> str:
    """Returns JSON in which letters of all languages stand as themselves.

    Args:
        value: mappings, lists and scalars. Names in it are written as ``as_text`` gives them, and
            numbers that are not finite, which JSON does not have, as null.
        options: of ``json.dumps``.
    """
    return json.dumps(_strict(value), ensure_ascii=False, allow_nan=False, **options)


def _strict(value: Any) -> Any:
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {_strict(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return value
