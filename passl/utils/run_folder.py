"""The names of the files in the folder of a run."""

from __future__ import annotations

from pathlib import Path

RUN_CONFIG = "config.yaml"
RECORDS = "metrics.jsonl"
LATEST, BEST = "latest.safetensors", "best.safetensors"  # in the folder of the checkpoints


def checkpoint_folder(folder: Path) -> Path:
    """Returns where a run keeps its checkpoints."""
    return folder / "checkpoints"
