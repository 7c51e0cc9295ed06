"""One optimizer step, as training, the dry run and the benchmarks make it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Dict, Iterator, List, Optional, Tuple

import paddle

from passl.datasets import StandIn
from passl.distributed.processes import Processes
from passl.engine.execution import Execution
from passl.engine.precision import Precision
from passl.engine.running_statistics import running_statistics, take_back
from passl.modeling.architectures import Architecture
from passl.solver import Optimizer, WeightAverage
from passl.utils.config import Config
from passl.utils.seeding import step_seed


@dataclasses.dataclass
class StepResult:
    """What a step has given; nothing in it has waited for the device.

    Attributes:
        losses: of each micro-batch, scalars.
        scalars: what else the architecture tells of each micro-batch, scalars by name.
        counts: the images of each micro-batch, 0 for a stand-in.
        finite: whether the step was made, bool ``[]``.
        gradient_norm: see ``Optimizer.gradient_norm``; None where it was not asked for.
    """

    losses: List[paddle.Tensor]
    scalars: List[Dict[str, paddle.Tensor]]
    counts: List[int]
    finite: paddle.Tensor
    gradient_norm: Optional[paddle.Tensor]


class TrainingStep:
    """Makes optimizer steps: gradients of micro-batches, update, moving average.

    Dropout and stochastic depth draw by (seed, step, process): nothing of it needs saving.

    Args:
        architecture: what learns; in training mode.
        optimizer: over its parameters.
        execution: runs it.
        average: follows its weights; None for none.
        images: of a whole step in this process. An image that could not be read weighs nothing, in
            whichever process it is missing, so that all of them divide by the same number.
        accumulation: micro-batches of a step.
        total_steps: of the run.
        seed: of the run.
        rank: which of the processes this is.
    """

    def __init__(
        self,
        architecture: Architecture,
        optimizer: Optimizer,
        execution: Execution,
        average: Optional[WeightAverage],
        images: int,
        accumulation: int,
        total_steps: int,
        seed: int,
        rank: int = 0,
    ):
        self.accumulation = accumulation
        self._architecture, self._optimizer = architecture, optimizer
        self._execution, self._average = execution, average
        self._images, self._total_steps = images, total_steps
        self._seed, self._rank = seed, rank
        self._statistics = running_statistics(architecture)

    def __call__(
        self,
        step: int,
        batches: Iterator[Dict[str, Any]],
        learning_rate: float,
        with_norm: bool = False,
    ) -> StepResult:
        """Makes step ``step``, from 0, on the next micro-batches of ``batches``."""
        paddle.seed(step_seed(self._seed, step, self._rank))
        self._architecture.before_step(step, self._total_steps)
        statistics_before = [tensor.clone() for tensor in self._statistics]
        losses, scalars, counts = map(list, zip(*self._backward(batches)))
        norm = self._optimizer.gradient_norm() if with_norm else None
        finite = self._optimizer.step(learning_rate)
        take_back(self._statistics, statistics_before, finite)
        weights = self._optimizer.weights()
        self._architecture.after_step(step, self._total_steps, weights, finite)
        if self._average is not None:
            self._average.update(step + 1, weights)
        return StepResult(losses, scalars, counts, finite, norm)

    def _backward(
        self, batches: Iterator[Dict[str, Any]]
    ) -> Iterator[Tuple[paddle.Tensor, Dict[str, paddle.Tensor], int]]:
        """Adds the gradients of a step; yields loss, scalars and images of what is one in it."""
        micro_batches = itertools.islice(batches, self.accumulation)
        if self.accumulation > 1 and self._architecture.two_pass:
            together = list(micro_batches)
            loss, scalars = self._execution.backward_together(together)
            yield loss, scalars, sum(map(_images_of, together))
            return
        for position, batch in enumerate(micro_batches, start=1):
            count = _images_of(batch)
            # Gradients are exchanged once, with the last micro-batch.
            loss, scalars = self._execution.backward(
                batch, count / self._images, exchange=position == self.accumulation
            )
            yield loss, scalars, count


def _images_of(batch: Dict[str, Any]) -> int:
    return 0 if isinstance(batch, StandIn) else next(iter(batch.values())).shape[0]


def trial_step(
    cfg: Config,
    architecture: Architecture,
    optimizer: Optimizer,
    precision: Precision,
    images: int,
    accumulation: int,
    average: Optional[WeightAverage] = None,
) -> TrainingStep:
    """Returns the step of a run as this process makes it alone, to try it or to time it.

    Static program and recomputation are the config's; ``parallel`` plays no part.

    Args:
        cfg: the whole config.
        architecture, optimizer, average: they change as in a run.
        precision: what is computed in 16 bits, see ``Precision.where_possible``.
        images, accumulation: see ``TrainingStep``.
    """
    execution = Execution(cfg, architecture, optimizer, precision, Processes())
    architecture.train()
    return TrainingStep(
        architecture, optimizer, execution, average, images, accumulation, 1, cfg.seed
    )
