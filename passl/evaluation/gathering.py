"""What the processes of an evaluation have each computed a part of, put together again."""

from __future__ import annotations

from typing import List

import numpy as np

from passl.datasets import Loader
from passl.distributed.collectives import gather_rows


def indices(loader: Loader) -> np.ndarray:
    """Returns the places in the set of the images that this process reads, in their order."""
    return np.array([key.index for keys in loader.batches for key in keys], np.int64)


def in_order(parts: List[np.ndarray], own: np.ndarray) -> np.ndarray:
    """Returns the rows of all processes in the order of the places that they are for.

    Args:
        parts: rows ``[…, C]`` of this process, of one dtype; none where it had nothing to do.
        own: the place of each row, int64.

    Returns:
        ``[sum of all rows, C]``, the same in all processes, which all must call this.
    """
    if not gather_rows(np.array([len(own)], np.int64)).any():
        return np.zeros((0, 0), np.float32)
    # Who has no rows learns from the others how wide they are, and of what type.
    kind = np.array([(part.shape[1], part.dtype.str) for part in parts[:1]], "i8,S8")
    width, dtype = gather_rows(kind)[0].tolist()
    rows = np.concatenate([np.zeros((0, width), dtype.decode()), *parts])
    return gather_rows(rows)[np.argsort(gather_rows(own))]
