"""When checkpoints are written, and which are kept."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

from passl.hooks.base import HOOKS, Hook, Record, Run
from passl.utils.logging import logger
from passl.utils.run_folder import BEST, LATEST, checkpoint_folder


@HOOKS.register
class Checkpoint(Hook):
    """Keeps ``latest``, ``best`` (on the validation split, by the evaluator) and the last few.

    The config's ``checkpoint`` section says when: every ``interval_steps`` and at the end of
    every ``interval_epochs``, before the evaluation that may be due there, besides at the end, at a
    new best and on a request to stop.
    """

    in_every_process = True  # the state is put together from all of them

    def __init__(self):
        self._best_is_new = False
        self._saved_best: Optional[Record] = None
        self._saved = (-1, -1)  # the step, and the one that was evaluated last
        self._refused_step = -1

    def on_start(self, run: Run) -> None:
        self._saved_best = run.progress.best

    def before_evaluation(self, run: Run) -> None:
        # What cannot be evaluated (an image that cannot be read, a full memory) shall not cost the
        # epoch: a resume from here begins with the evaluation.
        if self._due(run):
            self._save(run)

    def on_evaluation(self, run: Run, record: Record) -> None:
        self._best_is_new = run.progress.best is record

    def on_step(self, run: Run) -> None:
        step = run.progress.step
        finished = step == run.total_steps and not self._is_saved(run)
        if self._best_is_new or finished or (self._due(run) and self._saved[0] != step):
            self._save(run)

    @staticmethod
    def _due(run: Run) -> bool:
        """Whether the step is one after which the config wants a checkpoint."""
        step, every = run.progress.step, run.cfg.checkpoint
        due = step == run.total_steps
        if every.interval_steps:
            due = due or step % every.interval_steps == 0
        if every.interval_epochs:
            due = due or (run.at_epoch_end and run.epoch % every.interval_epochs == 0)
        return due

    def _is_saved(self, run: Run) -> bool:
        return self._saved == (run.progress.step, run.progress.evaluated_step)

    def on_stop(self, run: Run) -> None:
        if not self._is_saved(run):
            self._save(run)
        if not self._is_saved(run):
            return
        if run.stopped is not None:  # its end waits for what is being written, and tells
            return
        run.finish_saving()
        logger.info(
            "saved at step %d in %s; continue with --resume auto",
            run.progress.step,
            checkpoint_folder(run.folder) / LATEST,
        )

    def _save(self, run: Run) -> None:
        folder, keep = checkpoint_folder(run.folder), run.cfg.checkpoint.keep
        paths: List[Path] = []
        if self._best_is_new:
            paths.append(folder / BEST)
        if keep:
            paths.append(folder / f"step-{run.progress.step:08d}.safetensors")
        # Last, because a resume starts from it: all that it speaks of is then in place.
        paths.append(folder / LATEST)

        def remove_old() -> None:
            for old in sorted(folder.glob("step-*.safetensors"))[:-keep] if keep else ():
                old.unlink()

        step = run.progress.step
        if self._refused_step != step and run.save(paths, remove_old):
            self._saved = step, run.progress.evaluated_step
            if self._best_is_new:
                self._saved_best = run.progress.best
        else:  # has been said; what was not saved cannot be the best that there is
            self._refused_step = step
            run.progress.best = self._saved_best
        self._best_is_new = False
