"""The board: a run's curves, first images, network, weights and settings, for people to look at."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, Optional, Sequence, TextIO, Union

import numpy as np

from passl.datasets.batch_cells import batch_cells
from passl.datasets.dataset import image_fields
from passl.evaluation import Evaluator
from passl.hooks.base import HOOKS, Hook, Record, Run
from passl.hooks.boards import Writer
from passl.modeling.graph import trace
from passl.utils.arrays import own_array
from passl.utils.config import Config, origin_of, plain
from passl.utils.contact_sheet import contact_sheet, in_rows
from passl.utils.errors import PasslError
from passl.utils.logging import logger
from passl.utils.records import open_records, read_metrics, write_record
from passl.utils.run_folder import RECORDS
from passl.utils.text import as_text
from passl.utils.whole_files import replacing

_NO_CURVES = ("step", "epoch", "split", "samples", "seconds")
_BINS = 30  # of a histogram


@HOOKS.register
class Board(Hook):
    """Keeps a board of the run, by each of the libraries that ``log_config.boards`` names.

    It shows every number of every record against the step; the first batch as the network got it,
    with its labels; the graph of the network; the settings of the run with its latest figures, so
    that a board over several folders compares them; and, with ``log_config.histograms``, how the
    weights are distributed.

    Files of the run are the truth and the board a view of them: a resumed run draws the board anew
    from ``metrics.jsonl``, ``histograms.jsonl`` and ``first_batch.png``, so that no curve doubles
    back on itself.

    Args:
        boards: what draws it.
    """

    def __init__(self, boards: Sequence[Writer] = ()):
        self._boards = boards
        self._histograms: Optional[TextIO] = None

    def check(self, cfg: Config, evaluator: Evaluator) -> None:
        for board in self._boards:
            try:
                board.check()
            except PasslError as error:
                error.place = origin_of(cfg.log_config, "boards")
                raise

    def on_start(self, run: Run) -> None:
        evaluated = run.cfg.dataloader.val is not None
        figures = [f"val/{name}" for name in run.evaluator.figures] if evaluated else []
        settings = {**hyper_parameters(run.cfg), "global_batch_size": run.global_batch}
        for board in self._boards:
            board.open(run.folder / board.folder)
            board.add_settings(settings, [*figures, "train/loss"])
            board.add_text("config", run.cfg.to_yaml())
        for record in read_metrics(run.folder / RECORDS):
            self.on_record(run, record)
        if run.cfg.log_config.histograms is not None:
            path = run.folder / "histograms.jsonl"
            # Those of the step itself are noted anew at the beginning, and after an evaluation.
            anew = run.progress.step == 0 or run.evaluation_due
            self._histograms = open_records(path, run.resumed_at - int(anew))
            for record in read_metrics(path):
                self._add_histogram(record)
            if run.progress.step == 0:
                self._note_weights(run)

    def on_first_batch(self, run: Run, batch: Dict[str, Any]) -> None:
        if "image" not in batch:
            return
        picture = run.folder / "first_batch.png"
        if not picture.exists():
            rows = in_rows(batch_cells(batch, run.loader), len(image_fields(batch)))
            with replacing(picture) as aside:
                contact_sheet(rows).save(aside, format="PNG")
        for board in self._boards:
            board.add_picture("first batch", picture)
            try:
                board.add_graph(lambda: trace(run.cfg.model, batch["image"].shape[1:]))
            except OSError:
                raise
            except Exception as error:  # a network of the user's own may do what Paddle cannot
                reason = str(error).strip().splitlines() or [type(error).__name__]
                logger.warning("the board has no graph of the network: %s", reason[-1])

    def on_record(self, run: Run, record: Record) -> None:
        section = record.get("split", "train")
        for key, value in record.items():
            number = isinstance(value, (int, float)) and math.isfinite(value)
            if key not in _NO_CURVES and number:
                for board in self._boards:
                    board.add_number(f"{section}/{key}", value, record["step"])

    on_evaluation = on_record

    def on_step(self, run: Run) -> None:
        every = run.cfg.log_config.histograms
        if every is not None and run.at_epoch_end:
            if run.epoch % every == 0 or run.progress.step == run.total_steps:
                self._note_weights(run)

    def on_end(self, run: Run) -> None:
        for board in self._boards:
            board.close()
        if self._histograms is not None:
            self._histograms.close()
            self._histograms = None

    def _note_weights(self, run: Run) -> None:
        for name, parameter in run.architecture.named_parameters():
            numbers = own_array(parameter.astype("float32"))
            # A run that diverges has others as well, which have no place between two edges.
            counts, edges = np.histogram(numbers[np.isfinite(numbers)], bins=_BINS)
            record = {
                "step": run.progress.step,
                "name": name,
                "counts": counts.tolist(),
                "edges": edges.tolist(),
            }
            write_record(self._histograms, record)
            self._add_histogram(record)

    def _add_histogram(self, record: Record) -> None:
        for board in self._boards:
            board.add_histogram(record["name"], record["counts"], record["edges"], record["step"])


def hyper_parameters(cfg: Config) -> Dict[str, Union[int, float, str]]:
    """Returns what of a config one compares runs by.

    Keys are joined by spaces: VisualDL's table takes a dot for a path and shows nothing.
    """
    chosen: Dict[str, Any] = {"epochs": cfg.epochs, "seed": cfg.seed}
    model = {key: value for key, value in cfg.model.items() if value not in (None, [])}
    parts = {key: model.pop(key) for key in list(model) if isinstance(model[key], Mapping)}
    sections: Dict[str, Any] = {
        "lr_scheduler": cfg.lr_scheduler,
        "optimizer": cfg.optimizer,
        "backbone": parts.pop("architecture", None),
        **parts,  # head, projector, probe, …
        "model": model,  # what a method has besides: a temperature, the length of a queue, …
        "ema": cfg.ema,
        "amp": cfg.amp,
    }
    for name, section in sections.items():
        if isinstance(section, Mapping):
            chosen.update({f"{name} {key}": value for key, value in plain(section).items()})
    train = cfg.dataloader.train
    transforms: List[Any] = [*train.dataset.get("transforms", ()), *train.batch_transforms]
    chosen["transforms"] = ", ".join(part["name"] for part in transforms)
    return {
        key: value
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        else as_text(str(value))
        for key, value in chosen.items()
    }
