"""A training run: what it is made of, and its steps from the first to the last."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

import paddle

from passl.datasets import ImageDataset, Loader, StandIn
from passl.distributed.collectives import all_gather_object, broadcast
from passl.distributed.interrupts import Interrupted, Interrupts
from passl.distributed.peers import Peers
from passl.distributed.processes import Processes
from passl.engine.background import Background
from passl.engine.checkpoint import training_state, write_checkpoint
from passl.engine.execution import Execution
from passl.engine.pace import Pace
from passl.engine.plan import Plan
from passl.engine.running_statistics import share_running_statistics
from passl.engine.start import Start
from passl.engine.step import StepResult, TrainingStep
from passl.engine.tally import Tally
from passl.hooks import Hook, Run
from passl.hooks.base import Record
from passl.solver import Optimizer, WeightAverage, held
from passl.utils.commands import command
from passl.utils.config import plain
from passl.utils.environment import available_cores
from passl.utils.errors import PasslError
from passl.utils.logging import logger
from passl.utils.records import open_records, read_metrics, write_record
from passl.utils.run_folder import BEST, LATEST, RECORDS, checkpoint_folder
from passl.weights import load_weights


@dataclasses.dataclass
class TrainingRun(Run):
    """A run with all that it is made of; ``train`` takes it from its first step to its last.

    Attributes:
        start: where it begins.
        plan: what the config makes.
        processes: those that train together.
        peers: watches over them.
        hooks: look on, in this order.
        average: the moving average of the weights, which is evaluated in their place; or None.
        execution: runs the network.
        step: makes the optimizer steps.
        evaluation_loaders: of the splits that are evaluated and of what the evaluator also reads.
        training_set: digest and class counts of the training set.
    """

    start: Start
    plan: Plan
    processes: Processes
    peers: Peers
    hooks: List[Hook]
    average: Optional[WeightAverage]
    execution: Execution
    step: TrainingStep
    evaluation_loaders: Dict[str, Loader]
    training_set: Dict[str, Any]

    def __post_init__(self):
        self._saving = Background(self.cfg.checkpoint.background)
        self._tally = Tally(self.progress)
        self._schedule = held(self.plan.schedule)
        self._shown_first_batch = self._has_begun = self._warned = False
        self._wish: Optional[str] = None  # of a hook in this process: why the run is to stop

    @property
    def optimizer(self) -> Optimizer:
        """Steps on the architecture's parameters."""
        return self.plan.optimizer

    @property
    def datasets(self) -> Mapping[str, ImageDataset]:
        """The sets by the names of their sections."""
        return self.plan.datasets

    # ------------------------------------------------ from the first step to the last

    def train(self) -> None:
        """Makes the steps that are left, with what they make due, and tests the best weights.

        Raises:
            Interrupted: a signal; the state was saved.
            PasslError: the run cannot go on.
        """
        with self._saving, Interrupts() as interrupts, self.peers.heeding(interrupts):
            with self._recording():
                self._call("on_start")
                with contextlib.closing(iter(self.loader)) as batches:
                    self._make_steps(batches)
                self._saving.finish()
                self.processes.wait()
                if "test" in self.evaluation_loaders:
                    self._test_once()
                if self.stopped is not None and self.is_first:
                    # Last, and not in a checkpoint: a run that is resumed may go on all the same.
                    record = {"step": self.progress.step, "epoch": self.epoch}
                    write_record(self._records, {**record, "stopped": self.stopped})
            if self.is_first and not (checkpoint_folder(self.folder) / LATEST).exists():
                raise PasslError(
                    f"{self.folder}: the run has ended without a checkpoint, because its last "
                    "gradients were not finite; lower learning_rate, lengthen the warm-up or set "
                    "optimizer.grad_clip"
                )

    def _make_steps(self, batches: Iterator[Dict[str, Any]]) -> None:
        """Steps until the run's end; what a step makes due happens before the next one."""
        self.architecture.train()
        self._pace = Pace(str(self.environment["device"]))
        batches = self._pace.watched(batches)
        stepped = False
        while True:
            if self.evaluation_due and self._validate():
                stepped = True
            if stepped:
                self._call("on_step")
            if self._stops(starting=not stepped):
                self._call("on_stop")
                return
            if not self.peers.may_begin(self.progress.step):
                self._call("on_stop")
                self.processes.wait()  # Paddle's launcher ends all others 3 s after the first
                raise Interrupted(self.peers.signum)
            if self.progress.step == self.total_steps:
                return
            self._make_step(self._showing_first(batches))
            stepped = True

    def stop(self, reason: str) -> None:
        self._wish = self._wish or reason

    def _stops(self, starting: bool) -> bool:
        """Tells whether a hook of any process has stopped the run; the same in all of them."""
        step = self.progress.step
        # Elsewhere the processes do not wait for one another, nor for their devices.
        if self.processes.size > 1 and not (starting or self.at_epoch_end or self._recorded(step)):
            return False
        self.processes.wait()  # for the first one, whose hooks may have had more to do
        if step == self.total_steps or not self.processes.sum([self._wish is not None])[0]:
            return False
        wishes = [wish for wish in all_gather_object(self._wish) if wish is not None]
        self.stopped = wishes[0]
        logger.info("stopped after step %d of %d: %s", step, self.total_steps, self.stopped)
        return True

    def _recorded(self, step: int) -> bool:
        """Tells whether a record is made after so many steps."""
        return step % self.cfg.log_config.interval == 0 or step == self.total_steps

    def _make_step(self, batches: Iterator[Dict[str, Any]]) -> None:
        step, progress = self.progress.step, self.progress
        due = self._recorded(step + 1)
        rate = self._schedule(step)
        result = self.step(step, batches, rate, with_norm=due)
        self._tally.add(result)
        self._pace.add(sum(result.counts))
        progress.step += 1
        if due:
            self._record(rate, result)

    def _showing_first(self, batches: Iterator[Dict[str, Any]]) -> Iterator[Dict[str, Any]]:
        """Returns the batches, after the hooks have seen the first that is none of stand-ins."""
        if self._shown_first_batch:
            return batches
        batch = next(batches)
        with self._pace.paused():
            if not isinstance(batch, StandIn):
                self._shown_first_batch = True
                self._call("on_first_batch", batch)
            if not self._has_begun:  # once in all processes, whatever their first batches are
                self._has_begun = True
                self.processes.wait()
        return itertools.chain([batch], batches)

    def _record(self, rate: float, result: StepResult) -> None:
        """Tells the hooks what the steps since the last record have given."""
        means = self._tally.means(self.processes)
        self._tally.report_skipped(self.cfg.max_bad_steps)
        self.finish_saving(wait=False)
        pace = self._pace.figures(self.processes)
        norm = result.gradient_norm.item()
        record = {
            "step": self.progress.step,
            "epoch": self.epoch,
            "loss": means.get("loss"),
            "lr": rate,
            "grad_norm": norm,
            **pace,
            **{name: value for name, value in means.items() if name != "loss"},
        }
        if not math.isfinite(norm):  # not a number that JSON has
            del record["grad_norm"]
        if record["loss"] is not None:  # else there is nothing to tell that has not been said
            self._tell("on_record", record)
        self._warn(means)
        self._say_if_data_is_slow()

    def _warn(self, means: Mapping[str, float]) -> None:
        """Says what the architecture makes of the means, once until it has nothing more to say."""
        text = self.architecture.warning(means, self.progress.step / self.total_steps)
        if self.is_first and text is not None and not self._warned:
            logger.warning("step %d: %s", self.progress.step, text)
        self._warned = text is not None

    def _say_if_data_is_slow(self) -> None:
        share = self._pace.share_to_tell()
        if share is not None and self.is_first:
            logger.warning(
                "step %d: %.0f %% of the time is spent waiting for data: raise dataloader.train."
                "loader.num_workers (it is %d; this machine has %d cores), pack the images with "
                "%s, or take cheaper transforms",
                self.progress.step,
                100 * share,
                self.loader.num_workers,
                available_cores(),
                command("pack"),
            )

    @contextlib.contextmanager
    def _recording(self) -> Iterator[None]:
        """Opens the file of the records, without what is going to be recorded anew.

        So the file of a resumed run reads as if it had never been interrupted.
        """
        if not self.is_first:
            yield
            return
        path = self.folder / RECORDS
        with open_records(path, self.resumed_at, not self.evaluation_due) as self._records:
            yield

    def _tell(self, moment: str, record: Record) -> None:
        """Writes a record down, before the checkpoint that promises it, and tells the hooks."""
        if self.is_first:
            write_record(self._records, record)
        self._call(moment, record)

    def _call(self, moment: str, *arguments: Any) -> None:
        for hook in self.hooks:
            getattr(hook, moment)(self, *arguments)

    # ------------------------------------------------ evaluation

    def _validate(self) -> bool:
        """Evaluates the validation split; returns False where a request to stop broke it off."""
        progress = self.progress
        with self._pace.paused():
            self._call("before_evaluation")
            with self._evaluated_weights():
                record = self._evaluate("val", f"evaluate epoch {self.epoch}")
        if not record:  # after a resume it is evaluated anew
            self.peers.stop_before(progress.step)
            return False
        progress.evaluated_step, progress.evaluation = progress.step, record
        odd = self.evaluator.not_finite(record)
        if odd:
            logger.warning(
                "step %d: the %s on the validation images is not finite",
                progress.step,
                " and the ".join(odd),
            )
        elif progress.best is None or self.evaluator.is_better(record, progress.best):
            progress.best = record
        self._tell("on_evaluation", record)
        return True

    def _test_once(self) -> None:
        """Evaluates the test split, with the best weights, once in the life of a run."""
        records = read_metrics(self.folder / RECORDS) if self.is_first else []
        done = [r.get("split") == "test" and r["step"] == self.progress.step for r in records]
        if self.processes.sum([any(done)])[0]:
            return
        with self._evaluated_weights():
            self._load_best()
            record = self._evaluate("test", "test")
        if not record:
            raise Interrupted(self.peers.signum)
        self._tell("on_evaluation", record)

    def _load_best(self) -> None:
        """Takes the best weights, averages where there are any, or leaves the last where none are.

        The first process reads them for all: for a while another host may see a shared folder as it
        was before.
        """
        best = checkpoint_folder(self.folder) / BEST
        found = self.is_first and best.exists()
        if self.processes.sum([found])[0]:
            if found:
                load_weights(self.architecture, best)
            self.processes.wait()
            with paddle.no_grad():
                for tensor in self.architecture.state_dict().values():
                    broadcast(tensor)

    @contextlib.contextmanager
    def _evaluated_weights(self) -> Iterator[None]:
        """Gives the network the weights to evaluate for a while: float32, averaged where asked."""
        average = contextlib.nullcontext() if self.average is None else self.average.applied()
        with self.execution.evaluating(), average:
            yield

    def _evaluate(self, split: str, name: str) -> Record:
        """Returns the record of a split; an empty one where a process was asked to stop."""
        self.processes.wait()  # for the first one, whose hooks may have had more to do
        share_running_statistics(self.architecture, self.processes)
        figures = self.evaluator.evaluate(
            self.architecture,
            self.evaluation_loaders[split],
            self.evaluation_loaders,
            name,
            self.peers.stopping,
            self.processes,
            learning=True,
        )
        if not figures:
            return {}
        return {"step": self.progress.step, "epoch": self.epoch, "split": split, **figures}

    def last_evaluation(self) -> Record:
        """Returns the last record of a split, also of an earlier process; empty without one."""
        records = [r for r in read_metrics(self.folder / RECORDS) if "split" in r]
        return records[-1] if records else {}

    # ------------------------------------------------ saving

    def save(self, paths: List[Path], after: Callable[[], None]) -> bool:
        self.processes.wait()  # for the first one, whose hooks may have had more to do
        self._tally.settle()
        progress, optimizer = self.progress, self.optimizer
        # It may be the weights that are wrong. A loss scale that moves is too large now and then.
        if progress.bad_in_a_row > int(optimizer.loss_scaling.moves):
            logger.warning(
                "step %d: not saved: the last %d gradients were not finite",
                progress.step,
                progress.bad_in_a_row,
            )
            return False
        share_running_statistics(self.architecture, self.processes)
        self._tally.share(self.processes)
        if self.is_first or optimizer.shards is not None:
            tensors = training_state(self.architecture, optimizer, self.average)
        if self.is_first:
            metadata = copy.deepcopy({"progress": vars(progress), **self._metadata()})

            def write() -> None:
                write_checkpoint(paths, tensors, metadata)
                after()

            self._saving.do(write)
        self.processes.wait()  # for the first one again, which may have written it at once
        return True

    def finish_saving(self, wait: bool = True) -> None:
        self._saving.finish(wait)

    def _metadata(self) -> Dict[str, Any]:
        """Returns what a checkpoint says of the run, beside how far it is."""
        return {
            "samples": self.plan.samples,
            "global_batch": self.global_batch,
            "samples_seen": self.progress.step * self.global_batch,
            "class_names": self.datasets["train"].class_names,
            "training_set": self.training_set,
            "pretrained": self.start.pretrained,
            "pretrained_source": self.start.source,
            "schedule_epochs": self.plan.schedule_epochs,
            "config": plain(self.cfg),
            "environment": self.environment,
        }
