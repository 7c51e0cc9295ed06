"""What every architecture shares."""

from __future__ import annotations

from typing import Sequence

from paddle import nn

from passl.modeling.layers import freeze, keep_frozen
from passl.utils.errors import PasslError, listing, suggest


class Architecture(nn.Layer):
    """Base of all architectures.

    ``forward(batch)`` takes named fields and returns named outputs, ``loss`` among them when
    the batch holds what the loss needs. Everything that takes part in training happens inside
    ``forward``, because data parallelism synchronises gradients through it alone.
    """

    def freeze(self, names: Sequence[str]) -> None:
        """Keeps the named sub-networks (``backbone``) as they are while the rest learns.

        Raises:
            PasslError: there is no such part, or nothing is left to learn.
        """
        parts = dict(self.named_children())
        for name in names:
            if name not in parts:
                raise PasslError(
                    f"cannot freeze '{name}'{suggest(name, parts)}; the model's parts are: "
                    f"{listing(parts)}"
                )
            freeze(parts[name])
        if all(parameter.stop_gradient for parameter in self.parameters()):
            raise PasslError("with everything frozen there is nothing to train")

    def train(self):
        super().train()
        keep_frozen(self)

    def before_step(self, step: int, total_steps: int) -> None:
        """Called before the forward pass of step ``step`` (from 0) of ``total_steps``."""

    def after_step(self, step: int, total_steps: int) -> None:
        """Called after the optimizer's update of that step: momentum encoders, queues."""
