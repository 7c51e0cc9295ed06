"""JSON that every program reads: text is Unicode, and numbers that are none are null."""

from __future__ import annotations

import json
import math
from typing import Any, Callable, Mapping

import numpy as np

from passl.utils.text import as_text


def to_json(value: Any, names_come_back: bool = False, **options: Any) -> str:
    """Returns JSON in which letters of all languages stand as themselves.

    Args:
        value: mappings, lists and scalars, those of NumPy included. Numbers that are not finite,
            which JSON does not have, become null.
        names_come_back: whether ``json.loads`` is to give a name that is not UTF-8 back as it is,
            so that it opens its file. Other programs may refuse the escapes that this takes;
            otherwise such names are written as ``as_text`` gives them.
        options: of ``json.dumps``.
    """
    text = str if names_come_back else as_text
    strict = _strict(value, text)
    return json.dumps(strict, ensure_ascii=names_come_back, allow_nan=False, **options)


def _strict(value: Any, text: Callable[[str], str]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {_strict(key, text): _strict(item, text) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item, text) for item in value]
    return value
