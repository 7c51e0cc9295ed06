"""Learning-rate schedules: pure functions of the step, so that nothing needs saving."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Callable, List, Optional, Sequence

from passl.utils.errors import PasslError
from passl.utils.registry import Registry

SCHEDULES = Registry("lr_scheduler")


@dataclasses.dataclass
class Schedule(abc.ABC):
    """Linear warm-up, then a decay.

    ``schedule(step)`` is the learning rate of optimizer step ``step``, counted from 0. During
    warm-up it is ``start_lr + (learning_rate - start_lr) · step / warmup``.

    Args:
        learning_rate: the peak.
        total_steps: optimizer steps of the run.
        steps_per_epoch: optimizer steps an epoch.
        warmup_steps, warmup_epochs: length of the warm-up; give at most one.
        start_lr: where the warm-up starts.
        reference_batch_size: the images a step that the rates are given for; None takes the rates
            as they are, whatever the batch.
        scaling: how they change with the images a step, where a reference is given: ``linear``
            (Goyal et al., arXiv 1706.02677, section 2.1) or ``sqrt`` (Krizhevsky, arXiv 1404.5997,
            section 5; used with Adam and LAMB).
        global_batch: images a step.
        decay_from_start: whether the decay counts from the first step of the run, so that it is
            under way where the warm-up ends, and the peak is never reached (timm's schedulers
            without ``warmup_prefix``, which DeiT, Swin and their kin were trained with).
        per_epoch: whether all steps of an epoch have the rate of its first one.
        cooldown_epochs: epochs at the end of the run that have the last rate of the decay.

    Attributes:
        warmup: its length in steps.
    """

    learning_rate: float
    total_steps: int
    steps_per_epoch: int
    warmup_steps: Optional[int] = None
    warmup_epochs: Optional[float] = None
    start_lr: float = 0.0
    reference_batch_size: Optional[int] = None
    scaling: str = "linear"
    global_batch: Optional[int] = None
    decay_from_start: bool = False
    per_epoch: bool = False
    cooldown_epochs: float = 0.0

    def __post_init__(self) -> None:
        if self.scaling not in ("linear", "sqrt"):
            raise PasslError(f"scaling is 'linear' or 'sqrt', not '{self.scaling}'")
        for name in ("learning_rate", "start_lr"):
            if not 0 <= getattr(self, name) < math.inf:
                raise PasslError(f"{name} is a number from 0 on, not {getattr(self, name)}")
        if self.warmup_steps is not None and self.warmup_epochs is not None:
            raise PasslError("give warmup_steps or warmup_epochs, not both")
        self.warmup = self.warmup_steps if self.warmup_steps is not None else 0
        if self.warmup_epochs is not None:
            self.warmup = round(self.warmup_epochs * self.steps_per_epoch)
        if not 0 <= self.warmup < max(self.total_steps, 1):
            raise PasslError(
                f"a warm-up of {self.warmup} steps does not fit into a run of {self.total_steps} "
                f"steps ({self.steps_per_epoch} an epoch); shorten it or train longer"
            )
        begin = 0 if self.decay_from_start else self.warmup
        self._decay = begin, self.total_steps - round(self.cooldown_epochs * self.steps_per_epoch)
        if self.cooldown_epochs and not (self._decay[1] > self.warmup and self.cooldown_epochs > 0):
            raise PasslError(
                f"cooldown_epochs of {self.cooldown_epochs:g} leave no decay in a run of "
                f"{self.total_steps} steps ({self.steps_per_epoch} an epoch) after its warm-up of "
                f"{self.warmup}; shorten them or train longer"
            )
        factor = self._factor()
        self.learning_rate *= factor
        self.start_lr *= factor

    def _factor(self) -> float:
        """Returns what all rates are multiplied by for the images that a step takes."""
        if self.reference_batch_size is None:
            return 1.0
        if self.reference_batch_size < 1:
            raise PasslError(f"reference_batch_size is at least 1, not {self.reference_batch_size}")
        assert self.global_batch is not None
        ratio = self.global_batch / self.reference_batch_size
        return math.sqrt(ratio) if self.scaling == "sqrt" else ratio

    def __call__(self, step: int) -> float:
        if self.per_epoch:
            step -= step % self.steps_per_epoch
        if step < self.warmup:
            return self.start_lr + (self.learning_rate - self.start_lr) * step / self.warmup
        return self.decayed(step)

    def progress(self, step: int) -> float:
        """Returns the share, in [0, 1], of the steps of the decay that lie before ``step``."""
        begin, end = self._decay
        return min(1.0, (step - begin) / (end - begin))

    @abc.abstractmethod
    def decayed(self, step: int) -> float:
        """Returns the learning rate at a step after warm-up."""


def held(schedule: Schedule) -> Callable[[int], float]:
    """Returns the schedule for a run that may be longer: beyond its end its last rate stays."""
    last = schedule.total_steps - 1
    return lambda step: schedule(min(step, last))


@SCHEDULES.register
class Constant(Schedule):
    """The peak, for ever."""

    def decayed(self, step: int) -> float:
        return self.learning_rate


@dataclasses.dataclass
class _ToEnd(Schedule):
    """A decay that reaches ``end_lr`` where the run ends."""

    end_lr: float = 0.0

    def __post_init__(self) -> None:
        right = 0 <= self.learning_rate < math.inf  # else that is what is to be said
        if right and not 0 <= self.end_lr <= self.learning_rate:
            raise PasslError(f"end_lr lies between 0 and learning_rate, not {self.end_lr}")
        super().__post_init__()
        self.end_lr *= self._factor()

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
@dataclasses.dataclass
class Polynomial(_ToEnd):
    """Down to ``end_lr`` as a power of what is left of the run (Liu et al., arXiv 1506.04579).

    Args:
        power: 1 is ``Linear``.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.power < math.inf:
            raise PasslError(f"power is above 0, not {self.power}")
        super().__post_init__()

    def decayed(self, step: int) -> float:
        return self._between((1.0 - self.progress(step)) ** self.power)


@SCHEDULES.register
@dataclasses.dataclass
class Step(Schedule):
    """Multiplied by ``gamma`` at each milestone.

    Args:
        milestone_steps, milestone_epochs: where it drops; give one of them.
        gamma: the factor.
    """

    milestone_steps: Optional[Sequence[int]] = None
    milestone_epochs: Optional[Sequence[float]] = None
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if (self.milestone_steps is None) == (self.milestone_epochs is None):
            raise PasslError("give milestone_steps or milestone_epochs, one of them")
        super().__post_init__()
        if self.milestone_epochs is None:
            self.milestones: List[int] = sorted(self.milestone_steps)
        else:
            epochs = sorted(self.milestone_epochs)
            self.milestones = [round(epoch * self.steps_per_epoch) for epoch in epochs]

    def decayed(self, step: int) -> float:
        passed = sum(step >= milestone for milestone in self.milestones)
        return self.learning_rate * self.gamma**passed
