"""Batches from workers to the main process through memory that both have.

Paddle's own way copies a batch three times, into files in /dev/shm that are made anew for each; a
container has 64 MB there. Here every worker has a few slots in anonymous shared memory, which
exists before the workers are forked, is not counted against /dev/shm, and is used again and again:
a sample is copied once, into its place in the batch. Through Paddle's queue goes a note that says
where.
"""

from __future__ import annotations

import json
import math
import mmap
import time
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

# A worker has two batches under way (Paddle's default); one more is with the main process, and one
# can be filled meanwhile.
_SLOTS = 4
_FREE, _TAKEN = 0, 1
_ALIGNMENT = 64


def bytes_of(fields: Iterable[Tuple[np.dtype, Sequence[int]]]) -> int:
    """Returns how much of a slot a batch takes, by the type and the shape of each field."""
    return sum(_aligned(math.prod(shape) * dtype.itemsize) for dtype, shape in fields)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class Handover:
    """The slots of one iteration over a loader.

    Args:
        num_workers: processes that fill slots.
        slot_bytes: the largest batch that a slot takes; larger ones go through the queue.
    """

    def __init__(self, num_workers: int, slot_bytes: int):
        self._slot_bytes = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        count = num_workers * _SLOTS
        # Pages that are never written cost nothing.
        self._memory = mmap.mmap(-1, max(1, count * self._slot_bytes))
        self._flags = mmap.mmap(-1, max(1, count))

    # ------------------------------------------------ in a worker

    def put(self, worker: int, samples: List[Dict[str, Any]]) -> Optional[str]:
        """Stacks samples in a slot of this worker.

        Args:
            worker: its number.
            samples: with the same fields, of the same shapes; types are promoted.

        Returns:
            the note for ``take``; None where the batch does not fit.
        """
        fields, size = [], 0
        for name, value in samples[0].items():
            dtype = np.result_type(*{np.asarray(sample[name]).dtype for sample in samples})
            shape = (len(samples), *np.shape(value))
            fields.append((name, dtype.str, shape, size))
            size += bytes_of([(dtype, shape)])
        if size > self._slot_bytes:
            return None
        slot = self._free_slot(worker)
        for name, dtype, shape, offset in fields:
            batch = self._view(slot, dtype, shape, offset)
            for row, sample in enumerate(samples):
                batch[row] = sample[name]
        self._flags[slot] = _TAKEN
        return json.dumps([slot, fields])

    def _free_slot(self, worker: int) -> int:
        own = range(worker * _SLOTS, (worker + 1) * _SLOTS)
        while True:
            for slot in own:
                if self._flags[slot] == _FREE:
                    return slot
            time.sleep(0.0005)

    # ------------------------------------------------ in the main process

    def take(self, note: str) -> Dict[str, np.ndarray]:
        """Returns a copy of the batch that a note speaks of, and frees its slot."""
        slot, fields = json.loads(note)
        batch = {
            name: self._view(slot, dtype, shape, offset).copy()
            for name, dtype, shape, offset in fields
        }
        self._flags[slot] = _FREE
        return batch

    def _view(self, slot: int, dtype: str, shape: Tuple[int, ...], offset: int) -> np.ndarray:
        start = slot * self._slot_bytes + offset
        return np.frombuffer(self._memory, dtype, math.prod(shape), start).reshape(shape)
