"""Curves for VisualDL."""

from __future__ import annotations

from typing import Any

from passl.hooks.base import HOOKS, Hook, Record, Run
from passl.hooks.metrics_file import read_metrics

_POSITION = ("step", "epoch", "split")


@HOOKS.register
class VisualDL(Hook):
    """Draws every number of every record against the step, in ``<folder>/visualdl``.

    ``metrics.jsonl`` is the truth and the board a view of it: a resumed run draws the board
    anew from the file, so that no curve doubles back on itself.
    """

    def __init__(self):
        self._writer: Any = None

    def on_start(self, run: Run) -> None:
        # Imported late: it takes a second that an evaluation or --help should not.
        from visualdl import LogWriter

        folder = run.folder / "visualdl"
        for file in folder.glob("vdlrecords.*"):
            file.unlink()
        self._writer = LogWriter(logdir=str(folder))
        for record in read_metrics(run.folder / "metrics.jsonl"):
            self.on_record(run, record)

    def on_record(self, run: Run, record: Record) -> None:
        section = record.get("split", "train")
        for key, value in record.items():
            if key not in _POSITION and isinstance(value, (int, float)):
                self._writer.add_scalar(f"{section}/{key}", value, record["step"])

    on_evaluation = on_record

    def on_end(self, run: Run) -> None:
        if self._writer is not None:
            self._writer.close()
