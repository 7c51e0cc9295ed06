"""What every evaluator shares: a pass over a set by all processes, and what its figures mean."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import math
import time
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

import paddle
from tqdm import tqdm

from passl.datasets import EvaluationBatches, ImageDataset, Loader, section_loader
from passl.datasets.transforms.base import Transform, last_stated
from passl.distributed.processes import Processes
from passl.modeling.architectures import Architecture
from passl.utils.config import Config
from passl.utils.errors import PasslError
from passl.utils.logging import interactive
from passl.utils.records import Record

ALONE = Processes()
T = TypeVar("T")
Look = Callable[[Dict[str, Any], Dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Figure:
    """How a number of a record is shown.

    Attributes:
        title: its name in text (``Top-1``).
        form: a format string (``{:.2f} %``).
    """

    title: str
    form: str

    def show(self, value: float) -> str:
        """Returns the value as text."""
        return self.form.format(value)


class Evaluator(abc.ABC):
    """Measures how good a network is on a set.

    An evaluator is named in the config's ``evaluate.evaluator``; without that, the architecture's
    own choice is taken. It computes figures, and says which of them decides and in which direction:
    ``best``, the console, the board and the report follow it.

    Attributes:
        figures: the numbers of its records that are shown, in this order; the first is the main
            one, by which checkpoints are compared.
        more_is_better: whether a larger main number is better.
        also_reads: sections of ``dataloader`` that it needs beside the one that is evaluated.
        needs_labels: whether every image that it reads must have a label.
        classifies: whether the architecture's outputs are ``logits`` over the classes of the set,
            so that a report can show each answer.
        names: what the classes are called that the evaluator has given the network, if it has.
    """

    figures: Mapping[str, Figure] = {}
    more_is_better = True
    also_reads: Sequence[str] = ()
    needs_labels = True
    classifies = False
    names: Sequence[str] = ()

    @abc.abstractmethod
    def measure(
        self, evaluation: Evaluation, loader: Loader, also: Mapping[str, Loader]
    ) -> Dict[str, Any]:
        """Returns the figures, the same in all processes.

        Args:
            evaluation: gives the network's outputs and sums over the processes.
            loader: the set, see ``evaluation_loader``.
            also: loaders of the sections in ``also_reads``.
        """

    def evaluate(
        self,
        architecture: Architecture,
        loader: Loader,
        also: Optional[Mapping[str, Loader]] = None,
        name: str = "evaluate",
        stop: Callable[[], bool] = lambda: False,
        processes: Processes = ALONE,
        look: Look = lambda outputs, batch: None,
        learning: bool = False,
    ) -> Record:
        """Evaluates a network; every process gets the result over the samples of all.

        Args:
            architecture: the network; it is put into evaluation mode meanwhile.
            loader: the set, see ``evaluation_loader``.
            also: loaders of the sections in ``also_reads``, by name.
            name: what the progress bar says.
            stop: asked before every batch; a true answer abandons the evaluation, in all processes.
            processes: those that evaluate together; all must call this.
            look: gets the outputs and the batch, of each batch of the set in this process.
            learning: whether the network is in training, so that the next evaluation finds others
                of its weights.

        Returns:
            The figures, ``samples``, ``seconds`` and ``images_per_second``, and what else the
            evaluator records; an empty dict when it was abandoned.
        """
        for one in (loader, *((also or {})[section] for section in self.also_reads)):
            self.check(one.dataset)
        evaluation = Evaluation(architecture, name, stop, processes, look, learning)
        was_training = architecture.training
        architecture.eval()
        started = time.perf_counter()
        try:
            with paddle.no_grad():
                measured = self.measure(evaluation, loader, also or {})
        except _Abandoned:
            return {}
        finally:
            if was_training:
                architecture.train()
        seconds, samples = time.perf_counter() - started, len(loader.dataset)
        shown = {key: measured.pop(key) for key in self.figures if key in measured}
        return {
            **shown,
            "samples": samples,
            "seconds": seconds,
            "images_per_second": samples / seconds,
            **measured,
        }

    def check(self, dataset: ImageDataset) -> None:
        """Raises PasslError where a set lacks what the evaluator needs."""
        if self.needs_labels and dataset.labels is None:
            raise PasslError(
                f"{dataset.where(0)}: has no label, which the evaluator {type(self).__name__} "
                "needs of every image; give the set labels, or choose another evaluate.evaluator"
            )

    @property
    def main(self) -> str:
        """The name of the number by which checkpoints are compared."""
        return next(iter(self.figures))

    def is_better(self, record: Record, best: Record) -> bool:
        """Tells whether a record is better than the best so far.

        On a small set ties are common; the lower loss decides, where there is one.
        """
        sign = 1 if self.more_is_better else -1

        def rank(one: Record) -> Tuple[float, float]:
            return sign * one[self.main], -one.get("loss", 0.0)

        return rank(record) > rank(best)

    def not_finite(self, record: Record) -> List[str]:
        """Returns the titles of figures that are not finite; such a record is never the best."""
        return [
            figure.title
            for key, figure in self.figures.items()
            if key in record and not math.isfinite(record[key])
        ]

    def problem(self, record: Record) -> Optional[str]:
        """Returns why a record says nothing of how good the network is; None where it does."""
        return None

    def describe(self, record: Record) -> str:
        """Returns the figures as text: ``Top-1 76.60 %  Top-5 92.23 %  loss 0.9876``."""
        return "  ".join(f"{title} {text}" for title, text in self.shown(record).items())

    def headline(self, record: Record) -> str:
        """Returns what decides between records as text: ``Top-1 76.60 %, loss 0.9876``."""
        shown = self.shown({k: v for k, v in record.items() if k in (self.main, "loss")})
        return ", ".join(f"{title} {text}" for title, text in shown.items())

    def shown(self, record: Record) -> Dict[str, str]:
        """Returns the figures of a record as text, by their titles."""
        return {
            figure.title: figure.show(record[key])
            for key, figure in self.figures.items()
            if key in record
        }


class Evaluation:
    """An evaluation under way, as an evaluator uses it.

    Args:
        architecture: the network, in evaluation mode.
        name, stop, processes, look, learning: see ``Evaluator.evaluate``.

    Attributes:
        architecture, processes, learning: as given.
    """

    def __init__(
        self,
        architecture: Architecture,
        name: str,
        stop: Callable[[], bool],
        processes: Processes,
        look: Look,
        learning: bool,
    ):
        self.processes, self.learning = processes, learning
        self.architecture, self._name = architecture, name
        self._stop, self._look = stop, look
        self._stopped = False

    def outputs(
        self, loader: Loader, what: str = "", fields: Optional[Sequence[str]] = None
    ) -> Iterator[Tuple[Dict[str, Any], Dict[str, Any]]]:
        """Yields the outputs and the batch, of each batch of this process.

        It ends early where the evaluation is to be abandoned, which the next ``sum`` finds.

        Args:
            loader: see ``evaluation_loader``.
            what: of what set it is, for the progress bar; without it, it is the evaluated one.
            fields: of a batch, those that the network gets; None for all.
        """

        def count(batch: Dict[str, Any]) -> int:
            return next(iter(batch.values())).shape[0]

        for batch in self.each(loader, count, len(loader.dataset), what, "image"):
            outputs = self.architecture(
                batch if fields is None else {name: batch[name] for name in fields}
            )
            if not what:
                self._look(outputs, batch)
            yield outputs, batch

    def each(
        self, parts: Iterable[T], count: Callable[[T], int], total: int, what: str, unit: str
    ) -> Iterator[T]:
        """Yields this process's parts of a work, and shows how far all processes are with it.

        It ends early where the evaluation is to be abandoned, which the next ``sum`` finds.

        Args:
            parts: those of this process; all processes have about as many.
            count: how much a part is.
            total: how much all parts of all processes are.
            what: the work, for the progress bar.
            unit: of what it counts.
        """
        with tqdm(
            total=total, desc=f"{self._name} {what}".rstrip(), unit=unit,
            leave=False, disable=not interactive() or not self.processes.is_first,
        ) as bar:  # fmt: skip
            for part in parts:
                if self._stop():
                    self._stopped = True
                    return
                yield part
                bar.update(min(count(part) * self.processes.size, bar.total - bar.n))

    @contextlib.contextmanager
    def also_looking(self, look: Look) -> Iterator[None]:
        """Gives the outputs and batches of the evaluated set to ``look`` as well for a while."""
        before = self._look

        def both(outputs: Dict[str, Any], batch: Dict[str, Any]) -> None:
            before(outputs, batch)
            look(outputs, batch)

        self._look = both
        try:
            yield
        finally:
            self._look = before

    def sum(self, values: Sequence[float]) -> List[float]:
        """Returns the sums of numbers over all processes, in float64; all must call this.

        To be called after each pass over a set: where a process was asked to stop, it ends the
        evaluation in all of them.
        """
        self.processes.wait()  # one may have had far more to read
        *sums, stopped = self.processes.sum([*values, self._stopped])
        if stopped:
            raise _Abandoned
        return sums


class _Abandoned(Exception):
    """A process was asked to stop."""


def evaluation_loader(
    dataset: ImageDataset, section: Config, processes: Processes = ALONE
) -> Loader:
    """Returns a loader that yields every sample of ``dataset`` once, over all processes.

    Args:
        dataset: the set.
        section: ``dataloader.val`` or another one of a config.
        processes: among which the batches are dealt in turn.
    """
    size = section.sampler.batch_size
    batches = EvaluationBatches(len(dataset), size, processes.rank, processes.size)
    return section_loader(section, dataset, batches)


def crop_ratio(dataset: ImageDataset) -> Any:
    """Returns the crop ratio of a set's evaluation view, or None where nothing crops."""
    return last_stated(dataset.transforms, Transform, "crop_ratio")
