"""Ctrl-C and SIGTERM as a wish that the training loop grants at the next step."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, Dict, Optional

from passl.utils.logging import logger


class Interrupted(Exception):
    """The run stopped on a signal, with its state saved.

    Attributes:
        exit_code: 128 + the signal's number, as a shell reports it.
    """

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Interrupts:
    """While active, notes SIGINT and SIGTERM instead of dying; a second Ctrl-C dies at once.

    A process that SIGTERM has asked to stop, itself or among others, does not die of another one
    afterwards either: Paddle's launcher sends it again to those that end later than the first.

    Attributes:
        signum: the signal received, or None.
    """

    def __init__(self) -> None:
        self.signum: Optional[int] = None
        self._before: Dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *error: Any) -> None:
        # Also where another process of the run received the signal.
        if any(isinstance(part, Interrupted) for part in error):
            self.signum = self.signum or signal.SIGTERM
        for signum, handler in self._before.items():
            if not self.signum == signum == signal.SIGTERM:
                signal.signal(signum, handler)

    def __call__(self) -> bool:
        return self.signum is not None

    def _note(self, signum: int, frame: Optional[FrameType]) -> None:
        if self.signum is not None:
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            return  # launchers repeat SIGTERM
        self.signum = signum
        logger.info(
            "%s: stopping after this step, saving first%s",
            signal.Signals(signum).name,
            " (again to stop at once, unsaved)" if signum == signal.SIGINT else "",
        )
