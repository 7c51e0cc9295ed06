"""How fast a run trains, what it waits for, and how much memory it takes."""

from __future__ import annotations

import contextlib
import time
from typing import Dict, Iterator, Optional, TypeVar

from passl.distributed.processes import Processes
from passl.utils.memory import peak_memory

T = TypeVar("T")

# Below it a run is over before anything could be put right. Seconds.
_WORTH_SAYING = 30.0


class Pace:
    """Counts steps and images against a clock that stands still while something else is done.

    Args:
        device: whose memory is looked at; see ``peak_memory``.
    """

    def __init__(self, device: str):
        self._device = device
        self._images = self._steps = 0
        self._waited, self._started = 0.0, time.perf_counter()
        self._has_begun = self._has_said = False
        self._all, self._all_waited = 0.0, 0.0  # seconds, since the first record

    def add(self, images: int) -> None:
        """Notes that this process has made a step, of so many images."""
        self._images += images
        self._steps += 1

    def watched(self, batches: Iterator[T]) -> Iterator[T]:
        """Yields the batches, and notes how long each of them was waited for."""
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self._waited += time.perf_counter() - began
            yield batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time that a block takes out of the count; no batch is waited for in it."""
        paused = time.perf_counter()
        yield
        self._started += time.perf_counter() - paused

    def figures(self, processes: Processes) -> Dict[str, float]:
        """Returns what there is to record of the steps since the last call; all must call this.

        Returns:
            ``images_per_second`` of all processes together; ``step_seconds``, the mean time of an
            optimizer step, the wait for its data included; ``data_seconds``, that wait, in the
            process that waited longest; ``memory_mb``, the most MiB of memory that a process has
            held since it began.
        """
        steps = max(1, self._steps)
        own = (self._waited / steps, peak_memory(self._device))
        mine = [0.0] * 2 * processes.size
        mine[2 * processes.rank : 2 * processes.rank + 2] = own
        images, *others = processes.sum([self._images, *mine])
        now = time.perf_counter()
        seconds, data_seconds = now - self._started, max(others[::2])
        if self._has_begun:  # the first batch waits for the start of the workers
            self._all += seconds
            self._all_waited += data_seconds * steps
        self._images = self._steps = 0
        self._waited, self._started, self._has_begun = 0.0, now, True
        return {
            "images_per_second": images / seconds,
            "step_seconds": seconds / steps,
            "data_seconds": data_seconds,
            "memory_mb": max(others[1::2]),
        }

    def share_to_tell(self) -> Optional[float]:
        """Returns the share of the time in which data is waited for, once, when it is above half.

        None where it is not, while there is too little time to tell, and afterwards.
        """
        if self._has_said or self._all < _WORTH_SAYING or 2 * self._all_waited <= self._all:
            return None
        self._has_said = True
        return self._all_waited / self._all
