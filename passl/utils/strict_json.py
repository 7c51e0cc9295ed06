"""JSON that every program reads: numbers that are none (NaN, infinity) are null."""

from __future__ import annotations

import json
import math
from typing import Any, Mapping


def jsonable(value: Any) -> Any:
    """Returns mappings, lists and scalars with None in the place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(value: Any, **options: Any) -> str:
    """Returns JSON text; ``options`` are those of ``json.dumps``."""
    return json.dumps(jsonable(value), allow_nan=False, **options)
