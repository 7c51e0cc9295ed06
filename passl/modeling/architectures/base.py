"""What every architecture shares."""

from __future__ import annotations

from paddle import nn


class Architecture(nn.Layer):
    """Base of all architectures.

    ``forward(batch)`` takes named fields and returns named outputs, ``loss`` among them when
    the batch holds what the loss needs. Everything that takes part in training happens inside
    ``forward``, because data parallelism synchronises gradients through it alone.
    """

    def before_step(self, step: int, total_steps: int) -> None:
        """Called before the forward pass of step ``step`` (from 0) of ``total_steps``."""

    def after_step(self, step: int, total_steps: int) -> None:
        """Called after the optimizer's update of that step: momentum encoders, queues."""
