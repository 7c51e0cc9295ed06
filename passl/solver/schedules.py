"""Learning-rate schedules: pure functions of the step, so that nothing needs saving."""

from __future__ import annotations

import abc
import math
from typing import Optional, Sequence

from passl.utils.errors import PasslError
from passl.utils.registry import Registry

SCHEDULES = Registry("lr_scheduler")


class Schedule(abc.ABC):
    """Linear warm-up, then a decay.

    ``schedule(step)`` is the learning rate of optimizer step ``step``, counted from 0. During
    warm-up it is ``start_lr + (learning_rate - start_lr) · step / warmup``.

    Args:
        learning_rate: the peak.
        total_steps: optimizer steps of the run.
        steps_per_epoch: optimizer steps an epoch.
        global_batch: images a step.
        warmup_steps, warmup_epochs: length of the warm-up; give at most one.
        start_lr: where the warm-up starts.
        reference_batch_size: the images a step that the rates are given for; None takes the rates
            as they are, whatever the batch.
        scaling: how they change with the images a step, where a reference is given: ``linear``
            (Goyal et al., arXiv 1706.02677, section 2.1) or ``sqrt`` (Krizhevsky, arXiv 1404.5997,
            section 5; used with Adam and LAMB).
    """

    def __init__(
        self,
        learning_rate: float,
        total_steps: int,
        steps_per_epoch: int,
        warmup_steps: Optional[int] = None,
        warmup_epochs: Optional[float] = None,
        start_lr: float = 0.0,
        reference_batch_size: Optional[int] = None,
        scaling: str = "linear",
        global_batch: Optional[int] = None,
    ):
        if scaling not in ("linear", "sqrt"):
            raise PasslError(f"scaling is 'linear' or 'sqrt', not '{scaling}'")
        factor = 1.0
        if reference_batch_size is not None:
            if reference_batch_size < 1:
                raise PasslError(f"reference_batch_size is at least 1, not {reference_batch_size}")
            assert global_batch is not None
            factor = global_batch / reference_batch_size
            factor = math.sqrt(factor) if scaling == "sqrt" else factor
        if learning_rate < 0 or start_lr < 0:
            raise PasslError("learning_rate and start_lr are at least 0")
        if warmup_steps is not None and warmup_epochs is not None:
            raise PasslError("give warmup_steps or warmup_epochs, not both")
        warmup = warmup_steps if warmup_steps is not None else 0
        if warmup_epochs is not None:
            warmup = round(warmup_epochs * steps_per_epoch)
        if not 0 <= warmup < max(total_steps, 1):
            raise PasslError(
                f"a warm-up of {warmup} steps does not fit into a run of {total_steps} steps "
                f"({steps_per_epoch} an epoch); shorten it or train longer"
            )
        self.factor = factor
        self.learning_rate = learning_rate * factor
        self.total_steps = total_steps
        self.steps_per_epoch = steps_per_epoch
        self.warmup = warmup
        self.start_lr = start_lr * factor

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.start_lr + (self.learning_rate - self.start_lr) * step / self.warmup
        return self.decayed(step)

    def progress(self, step: int) -> float:
        """Returns the share, in [0, 1], of the steps after warm-up that lie before ``step``."""
        return min(1.0, (step - self.warmup) / (self.total_steps - self.warmup))

    @abc.abstractmethod
    def decayed(self, step: int) -> float:
        """Returns the learning rate at a step after warm-up."""


@SCHEDULES.register
class Constant(Schedule):
    """The peak, for ever."""

    def decayed(self, step: int) -> float:
        return self.learning_rate


class _ToEnd(Schedule):
    """A decay that reaches ``end_lr`` where the run ends."""

    def __init__(
        self,
        learning_rate: float,
        total_steps: int,
        steps_per_epoch: int,
        warmup_steps: Optional[int] = None,
        warmup_epochs: Optional[float] = None,
        start_lr: float = 0.0,
        end_lr: float = 0.0,
        reference_batch_size: Optional[int] = None,
        scaling: str = "linear",
        global_batch: Optional[int] = None,
    ):
        super().__init__(
            learning_rate,
            total_steps,
            steps_per_epoch,
            warmup_steps,
            warmup_epochs,
            start_lr,
            reference_batch_size,
            scaling,
            global_batch,
        )
        if not 0 <= end_lr <= learning_rate:
            raise PasslError(f"end_lr lies between 0 and learning_rate, not {end_lr}")
        self.end_lr = end_lr * self.factor

    def _between(self, share: float) -> float:
        return self.end_lr + (self.learning_rate - self.end_lr) * share


@SCHEDULES.register
class Linear(_ToEnd):
    """Straight down to ``end_lr`` at the end of the run (MLP-Mixer, table 4)."""

    def decayed(self, step: int) -> float:
        return self._between(1.0 - self.progress(step))


@SCHEDULES.register
class Cosine(_ToEnd):
    """Half a cosine down to ``end_lr`` (Loshchilov and Hutter, arXiv 1608.03983, equation 5)."""

    def decayed(self, step: int) -> float:
        return self._between(0.5 * (1.0 + math.cos(math.pi * self.progress(step))))


@SCHEDULES.register
class Polynomial(_ToEnd):
    """Down to ``end_lr`` as a power of what is left of the run (Liu et al., arXiv 1506.04579).

    Args:
        power: 1 is ``Linear``.
    """

    def __init__(
        self,
        learning_rate: float,
        total_steps: int,
        steps_per_epoch: int,
        power: float = 1.0,
        warmup_steps: Optional[int] = None,
        warmup_epochs: Optional[float] = None,
        start_lr: float = 0.0,
        end_lr: float = 0.0,
        reference_batch_size: Optional[int] = None,
        scaling: str = "linear",
        global_batch: Optional[int] = None,
    ):
        super().__init__(
            learning_rate,
            total_steps,
            steps_per_epoch,
            warmup_steps,
            warmup_epochs,
            start_lr,
            end_lr,
            reference_batch_size,
            scaling,
            global_batch,
        )
        if not 0 < power < math.inf:
            raise PasslError(f"power is above 0, not {power}")
        self.power = power

    def decayed(self, step: int) -> float:
        return self._between((1.0 - self.progress(step)) ** self.power)


@SCHEDULES.register
class Step(Schedule):
    """Multiplied by ``gamma`` at each milestone.

    Args:
        milestone_steps, milestone_epochs: where it drops; give one of them.
        gamma: the factor.
    """

    def __init__(
        self,
        learning_rate: float,
        total_steps: int,
        steps_per_epoch: int,
        milestone_steps: Optional[Sequence[int]] = None,
        milestone_epochs: Optional[Sequence[float]] = None,
        gamma: float = 0.1,
        warmup_steps: Optional[int] = None,
        warmup_epochs: Optional[float] = None,
        start_lr: float = 0.0,
        reference_batch_size: Optional[int] = None,
        scaling: str = "linear",
        global_batch: Optional[int] = None,
    ):
        super().__init__(
            learning_rate,
            total_steps,
            steps_per_epoch,
            warmup_steps,
            warmup_epochs,
            start_lr,
            reference_batch_size,
            scaling,
            global_batch,
        )
        if (milestone_steps is None) == (milestone_epochs is None):
            raise PasslError("give milestone_steps or milestone_epochs, one of them")
        if milestone_epochs is not None:
            milestone_steps = [round(epoch * steps_per_epoch) for epoch in milestone_epochs]
        self.milestones = sorted(milestone_steps)
        self.gamma = gamma

    def decayed(self, step: int) -> float:
        passed = sum(step >= milestone for milestone in self.milestones)
        return self.learning_rate * self.gamma**passed
