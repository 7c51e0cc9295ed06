"""Solver: optimizers with their parameter groups, schedules, the average of the weights."""

from __future__ import annotations

from typing import Any, Mapping

from paddle import nn

from passl.solver.averaging import WeightAverage
from passl.solver.loss_scaling import LossScaling
from passl.solver.optimizer import Optimizer
from passl.solver.optimizers import OPTIMIZERS
from passl.solver.schedules import SCHEDULES, Schedule, held


def build_optimizer(cfg: Mapping[str, Any], model: nn.Layer) -> Optimizer:
    """Builds the optimizer that ``cfg`` describes over the trainable parameters of ``model``."""
    return OPTIMIZERS.build(cfg, model=model)


def build_schedule(
    cfg: Mapping[str, Any], total_steps: int, steps_per_epoch: int, global_batch: int
) -> Schedule:
    """Builds the learning-rate schedule that ``cfg`` describes, for a run of ``total_steps``."""
    return SCHEDULES.build(
        cfg, total_steps=total_steps, steps_per_epoch=steps_per_epoch, global_batch=global_batch
    )


__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "LossScaling",
    "Optimizer",
    "Schedule",
    "WeightAverage",
    "build_optimizer",
    "build_schedule",
    "held",
]
