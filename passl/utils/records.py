"""Files of records, one JSON object a line: ``metrics.jsonl`` is a run's account of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, TextIO

from passl.utils.errors import PasslError
from passl.utils.strict_json import to_json
from passl.utils.whole_files import replacing

Record = Dict[str, Any]


def read_metrics(path: Path) -> Iterator[Record]:
    """Yields the records of such a file; a last line cut off by a kill is left out."""
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


def open_records(path: Path, until: int, evaluated: bool = True) -> TextIO:
    """Opens a file of records to add to it, after taking out what a run is going to do anew.

    Args:
        path: the file.
        until: the step that the run begins after; what lies beyond is taken out.
        evaluated: whether that step's evaluations are not going to be done anew.
    """
    kept = [
        record
        for record in read_metrics(path)
        if "stopped" not in record  # which is told of the last step
        and (
            record["step"] < until
            or (record["step"] == until and (evaluated or "split" not in record))
        )
    ]
    with replacing(path) as aside:
        with open(aside, "w", encoding="utf-8") as file:
            for record in kept:
                write_record(file, record)
    return open(path, "a", encoding="utf-8")


def write_record(file: TextIO, record: Record) -> None:
    """Adds a record; it is in the file when this returns. What is no number becomes null."""
    file.write(to_json(record) + "\n")
    file.flush()
