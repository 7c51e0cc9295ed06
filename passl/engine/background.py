"""Work beside the training loop: writing a checkpoint while training goes on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Optional

from passl.utils.errors import PasslError
from passl.utils.logging import logger


class Background:
    """Does one piece of work at a time in a thread of its own, as a context.

    An error of the work is raised in the thread that gave it out, by the next call of any method;
    at the latest when the context ends.

    Args:
        enabled: False does the work at once.
    """

    def __init__(self, enabled: bool = True):
        self._executor = ThreadPoolExecutor(1, "passl-saving") if enabled else None
        self._work: Optional[Future] = None

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self.finish()
        except PasslError as failure:
            if kind is None:
                raise
            logger.error("%s", failure)  # the other error is the one to end with
        finally:
            if self._executor is not None:
                self._executor.shutdown()

    def do(self, work: Callable[[], None]) -> None:
        """Begins ``work``, after what was given out before it is done."""
        self.finish()
        if self._executor is None:
            work()
        else:
            self._work = self._executor.submit(work)

    def finish(self, wait: bool = True) -> None:
        """Waits until everything is done; with ``wait=False`` it only sees to errors so far."""
        work = self._work
        if work is not None and (wait or work.done()):
            self._work = None
            work.result()
