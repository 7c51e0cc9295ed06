"""What the board of a run asks of a library that draws it."""

from __future__ import annotations

import abc
import importlib.util
from pathlib import Path
from typing import Callable, Mapping, Sequence, Union

from passl.modeling.graph import Graph
from passl.utils.errors import PasslError
from passl.utils.registry import Registry

BOARDS = Registry("board")


class Writer(abc.ABC):
    """Draws a board with one library; knows nothing of runs.

    Tags have their section before a slash (``train/loss``).

    Attributes:
        folder: the name of its folder in that of a run.
        module: the one that it needs.
        package: what installs it.
    """

    folder = ""
    module = ""
    package = ""

    def check(self) -> None:
        """Raises PasslError where the library is not installed."""
        name = type(self).__name__
        if importlib.util.find_spec(self.module) is None:
            raise PasslError(
                f"the board {name} needs a package that is not installed: pip install "
                f"{self.package}; or take {name} out of log_config.boards"
            )

    @abc.abstractmethod
    def open(self, folder: Path) -> None:
        """Begins a board in a folder; one that an earlier process has drawn there goes."""

    @abc.abstractmethod
    def add_settings(
        self, settings: Mapping[str, Union[int, float, str]], figures: Sequence[str]
    ) -> None:
        """Shows what runs are compared by.

        Args:
            settings: of this run.
            figures: the tags whose latest values stand beside them.
        """

    @abc.abstractmethod
    def add_text(self, tag: str, text: str) -> None:
        """Shows a text as it is."""

    @abc.abstractmethod
    def add_number(self, tag: str, value: float, step: int) -> None:
        """Adds a finite number to a curve."""

    @abc.abstractmethod
    def add_picture(self, tag: str, path: Path) -> None:
        """Shows a PNG file of three channels."""

    @abc.abstractmethod
    def add_histogram(
        self, tag: str, counts: Sequence[int], edges: Sequence[float], step: int
    ) -> None:
        """Adds numbers that have been counted: ``counts[i]`` from ``edges[i]`` to its next."""

    def add_graph(self, trace: Callable[[], Graph]) -> None:
        """Shows the network, if the library can.

        Args:
            trace: gives its graph; takes a while, and may fail in any way.
        """
        return

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the board, which need not have been opened."""
