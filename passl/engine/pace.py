"""How many images a second a run trains on."""

from __future__ import annotations

import contextlib
import time
from typing import Iterator

from passl.distributed.processes import Processes


class Pace:
    """Counts images against a clock that stands still while something else is done."""

    def __init__(self):
        self._images, self._started = 0, time.perf_counter()

    def add(self, images: int) -> None:
        """Notes that this process has trained on so many images more."""
        self._images += images

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time that a block takes out of the count."""
        paused = time.perf_counter()
        yield
        self._started += time.perf_counter() - paused

    def images_per_second(self, processes: Processes) -> float:
        """Returns the pace of all processes together since the last call; all must call this."""
        images = processes.sum([self._images])[0]
        now = time.perf_counter()
        rate = images / (now - self._started)
        self._images, self._started = 0, now
        return rate
