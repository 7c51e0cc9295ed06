"""Ending a run that gets no better."""

from __future__ import annotations

import math
from typing import Optional

from passl.evaluation import Evaluator
from passl.hooks.base import HOOKS, Hook, Record, Run
from passl.utils.config import Config
from passl.utils.errors import PasslError, listing, suggest
from passl.utils.records import read_metrics
from passl.utils.run_folder import RECORDS


@HOOKS.register
class EarlyStopping(Hook):
    """Ends a run when so many evaluations in a row are no better than the best one before them.

    It counts evaluations of ``dataloader.val``, one in every ``evaluate.interval_epochs`` epochs.
    By default one is better where it becomes the run's best: by the evaluator's main figure, and of
    equal ones by the lower loss. With any of the other arguments it is where ``figure`` alone
    surpasses the best one before by more than ``min_delta``. What is not finite is never better.
    The run ends as at its last step: the state is saved and the test split evaluated with the best
    weights.

    It counts by the run's own records, so a run that was interrupted stops where it would have
    stopped. A run that has been stopped says so when it is resumed, and does nothing more, unless
    ``patience`` has been raised or the hook been taken out.

    Args:
        patience: how many evaluations are waited for a better one.
        min_delta: by how much more than nothing one has to be better, in the figure's own unit.
        figure: which number of the evaluations; default: the evaluator's main one.
        more_is_better: whether larger is better; default: of ``loss`` it is not, of any other
            figure as the evaluator says of its main one.

    Raises:
        PasslError: a number out of bounds, no ``dataloader.val``, or no such figure.
    """

    def __init__(
        self,
        patience: int,
        min_delta: float = 0.0,
        figure: Optional[str] = None,
        more_is_better: Optional[bool] = None,
    ):
        if patience < 1:
            raise PasslError(f"patience is at least 1, not {patience}")
        if not 0 <= min_delta < math.inf:
            raise PasslError(f"min_delta is finite and at least 0, not {min_delta}")
        self.patience, self.min_delta = patience, min_delta
        self.figure, self.more_is_better = figure, more_is_better
        self._best: Optional[Record] = None
        self._waited = 0

    def check(self, cfg: Config, evaluator: Evaluator) -> None:
        if cfg.dataloader.val is None:
            raise PasslError(
                "EarlyStopping goes by evaluations of dataloader.val, which the config has not; "
                "add that section, or take EarlyStopping out of hooks"
            )
        if self.figure is not None and self.figure not in evaluator.figures:
            raise PasslError(
                f"figure '{self.figure}' of EarlyStopping is none of {type(evaluator).__name__}"
                f"{suggest(self.figure, evaluator.figures)}; it has {listing(evaluator.figures)}"
            )

    def on_start(self, run: Run) -> None:
        for record in read_metrics(run.folder / RECORDS):
            self._count(run, record)
        self._stop_in_time(run)

    def on_evaluation(self, run: Run, record: Record) -> None:
        self._count(run, record)
        self._stop_in_time(run)

    def _count(self, run: Run, record: Record) -> None:
        if record.get("split") != "val":
            return
        if self._is_better(run, record):
            self._best, self._waited = record, 0
        else:
            self._waited += 1

    def _is_better(self, run: Run, record: Record) -> bool:
        evaluator, best = run.evaluator, self._best
        name = self.figure or evaluator.main
        by_default = self.figure is None and self.more_is_better is None and not self.min_delta
        values = [
            record[key] for key in (evaluator.figures if by_default else [name]) if key in record
        ]
        # In a file null stands for what is no number.
        if any(value is None or not math.isfinite(value) for value in values):
            return False
        if best is None:
            return True
        if by_default:
            return evaluator.is_better(record, best)
        more = self.more_is_better
        if more is None:
            more = name != "loss" and evaluator.more_is_better
        gain = record[name] - best[name] if more else best[name] - record[name]
        return gain > self.min_delta

    def _stop_in_time(self, run: Run) -> None:
        if self._waited < self.patience:
            return
        figure = run.evaluator.figures[self.figure or run.evaluator.main]
        by = f" by more than {self.min_delta:g}" if self.min_delta else ""
        best = "none had a finite one"
        if self._best is not None:
            value = figure.show(self._best[self.figure or run.evaluator.main])
            best = f"the best was {value} after epoch {self._best['epoch']}"
        run.stop(
            f"EarlyStopping: {self._waited} evaluations in a row without a better "
            f"{figure.title}{by}; {best}; to go on, raise its patience or take it out of hooks, "
            "and resume"
        )
