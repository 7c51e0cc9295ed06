"""``metrics.jsonl``: one JSON object per record, the run's own account of itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Iterator, Optional, TextIO

from passl.hooks.base import HOOKS, Hook, Record, Run
from passl.utils.errors import PasslError


def read_metrics(path: Path) -> Iterator[Record]:
    """Yields the records of a ``metrics.jsonl``; a last line cut off by a kill is left out."""
    if not path.exists():
        return
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except ValueError:
                raise PasslError(f"{path}:{number}: is not a JSON record; repair it") from None


@HOOKS.register
class MetricsFile(Hook):
    """Appends records, after taking back what came after the step the run starts from.

    So the file of a resumed run reads as if it had never been interrupted.
    """

    def __init__(self):
        self._file: Optional[TextIO] = None

    def on_start(self, run: Run) -> None:
        path = run.folder / "metrics.jsonl"
        kept = [r for r in read_metrics(path) if r["step"] <= run.resumed_at]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(_line(record) for record in kept), encoding="utf-8")
        os.replace(partial, path)
        self._file = open(path, "a", encoding="utf-8")

    def on_record(self, run: Run, record: Record) -> None:
        self._file.write(_line(record))
        self._file.flush()

    on_evaluation = on_record

    def on_end(self, run: Run) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"
