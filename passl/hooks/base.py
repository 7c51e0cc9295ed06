"""The hook interface, and the state of a run as hooks see it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from passl.datasets import Loader
from passl.evaluation import Evaluator
from passl.modeling.architectures import Architecture
from passl.utils.config import Config
from passl.utils.records import Record
from passl.utils.registry import Registry

HOOKS = Registry("hook")


@dataclasses.dataclass
class Progress:
    """What, beside weights and optimizer, makes a run go on as if it had never stopped.

    Attributes:
        step: optimizer steps done.
        loss_sum: the losses of the images since the last record, summed over those of this process.
        loss_images: over how many images; in a checkpoint, both are means over the processes.
        scalar_sums: of each further scalar of the architecture the same two numbers.
        bad_steps: how many steps were skipped because a gradient was not finite.
        bad_in_a_row: how many of them the last ones are.
        evaluated_step: the step of the last evaluation on the validation split, -1 for none.
        best: the best evaluation record so far, by the run's evaluator.
        evaluation: the last one.
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_images: float = 0.0
    scalar_sums: Dict[str, List[float]] = dataclasses.field(default_factory=dict)
    bad_steps: int = 0
    bad_in_a_row: int = 0
    evaluated_step: int = -1
    best: Optional[Record] = None
    evaluation: Optional[Record] = None


@dataclasses.dataclass
class Run:
    """A training run, as hooks see it.

    Attributes:
        cfg: the resolved config.
        folder: where the run writes.
        total_steps, steps_per_epoch, global_batch: the plan, in optimizer steps and images.
        progress: how far the run is.
        environment: versions, commit, threads; see ``describe_environment``.
        architecture: what learns.
        loader: what the batches of training come from.
        evaluator: measures how good the network is, and says what its records mean.
        is_first: whether this is the first process, the one that writes.
        resumed_at: the step of the checkpoint that the run goes on from, 0 without one; not that of
            ``progress`` where a step has another number of images now.
        stopped: why a hook has stopped the run, once all processes know; None while it goes on.
    """

    cfg: Config
    folder: Path
    total_steps: int
    steps_per_epoch: int
    global_batch: int
    progress: Progress
    environment: Record
    architecture: Architecture
    loader: Loader
    evaluator: Evaluator
    is_first: bool
    resumed_at: int
    stopped: Optional[str] = dataclasses.field(init=False, default=None)

    @property
    def epoch(self) -> int:
        """The epoch, from 1, that the last finished step belongs to."""
        return max(0, self.progress.step - 1) // self.steps_per_epoch + 1

    @property
    def at_epoch_end(self) -> bool:
        """Whether the last finished step was the last of its epoch."""
        return self.progress.step > 0 and self.progress.step % self.steps_per_epoch == 0

    @property
    def evaluation_due(self) -> bool:
        """Whether the validation split is to be evaluated before the next step.

        It is at the end of every so many epochs and of the run, unless that has been done.
        """
        progress, every = self.progress, self.cfg.evaluate.interval_epochs
        due = self.at_epoch_end and (self.epoch % every == 0 or progress.step == self.total_steps)
        return (
            due and progress.evaluated_step != progress.step and self.cfg.dataloader.val is not None
        )

    def stop(self, reason: str) -> None:
        """Ends the run after the step that it is at, as if that were its last one.

        What the step makes due happens; then the state is saved, the test split is evaluated with
        the best weights, and the command exits with 0. The reason is logged and stands in the last
        record (``stopped``). Resumed, the run goes on, unless a hook stops it again, in
        ``on_start`` perhaps.

        Any hook may call it, at any moment but the last two, in one process or in several. With
        several processes all stop after the same step: the next one that makes a record, ends an
        epoch or is followed by an evaluation, where they speak to one another anyway; the one that
        the hook was called after, if it is such a step.

        Args:
            reason: for the user; beginning with the name of the hook. The first one counts.
        """
        raise NotImplementedError

    def save(self, paths: List[Path], after: Callable[[], None]) -> bool:
        """Takes the state down and writes it, atomically, to each of the paths.

        Every process calls it and the first one writes, perhaps while training goes on.

        Args:
            paths: of the checkpoint files.
            after: called when they are written.

        Returns:
            False where nothing is saved, because the last gradients were not finite.
        """
        raise NotImplementedError

    def finish_saving(self, wait: bool = True) -> None:
        """Waits until what was saved is on the disk, and raises the error of a save that failed.

        Args:
            wait: False only raises, where the failure is known by now.
        """
        raise NotImplementedError


class Hook:
    """Looks on; every method does nothing unless overridden.

    Attributes:
        in_every_process: whether it looks on in all processes of a run, or in the first alone.
    """

    in_every_process = False

    def check(self, cfg: Config, evaluator: Evaluator) -> None:
        """Before anything runs or is written, in every process.

        Args:
            cfg: the whole config.
            evaluator: the run's.

        Raises:
            PasslError: it cannot look on at such a run, and what to change.
        """

    def on_start(self, run: Run) -> None:
        """Before the first step of this process."""

    def on_first_batch(self, run: Run, batch: Dict[str, Any]) -> None:
        """The first batch of this process, as the architecture is about to get it."""

    def on_step(self, run: Run) -> None:
        """After every optimizer step, and after what the step made due (record, evaluation)."""

    def on_record(self, run: Run, record: Record) -> None:
        """A record of the training loss, every ``log_config.interval`` steps."""

    def before_evaluation(self, run: Run) -> None:
        """The validation split is about to be evaluated, which may fail."""

    def on_evaluation(self, run: Run, record: Record) -> None:
        """An evaluation of a split is done."""

    def on_stop(self, run: Run) -> None:
        """The run stops before its last step; ``run.stopped`` says why, where a hook wanted it.

        Otherwise the user or the system did, and the run ends after this.
        """

    def on_end(self, run: Run) -> None:
        """Always last, also after an error."""
