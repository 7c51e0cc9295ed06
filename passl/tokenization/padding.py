"""Ids of texts without what only fills them up."""

from __future__ import annotations

import numpy as np


def without_padding(ids: np.ndarray, end: int) -> np.ndarray:
    """Returns the ids of texts without the columns that are filling in all of them.

    Args:
        ids: ``[n, L]``.
        end: the id that ends a text, and stands nowhere before. What follows it is filling, and
            cannot be told by its value: 0 is also the id of an exclamation mark.
    """
    return ids[:, : int((ids == end).argmax(axis=1).max()) + 1]
