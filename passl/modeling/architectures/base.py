"""What every architecture shares."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Sequence

import paddle
from paddle import nn

from passl.modeling.layers import freeze, keep_frozen
from passl.utils.errors import PasslError, listing, suggest


class Architecture(nn.Layer):
    """Base of all architectures.

    ``forward(batch)`` takes named fields and returns named outputs. In training ``loss`` is among
    them, a scalar, and ``scalars`` may be: a dict of further scalars (an accuracy, a temperature)
    that take no part in the gradient and are recorded beside the loss, as means over the images of
    the interval. In evaluation it returns what its evaluator needs: ``logits``, or ``features``.

    Everything that takes part in training happens inside ``forward``, because data parallelism
    synchronises gradients through it alone.

    Attributes:
        evaluator: the name of the evaluator that a config gets which names none.
        additive: whether the loss of a batch is the mean of losses that belong to one sample each.
            Where it is not, as in contrastive learning, gradients cannot be accumulated over
            micro-batches: the result would be another one than that of the whole batch.
        two_pass: whether its gradient of a batch can be computed in two passes over parts of it all
            the same, see ``Contrastive``.
        equal_batches: whether all processes must have equally many samples in every step, because
            they gather each other's. An image that cannot be read is then replaced by another one,
            where it would otherwise be left out.
        views: how many views of each image it learns from (``image``, ``image_1``, …), which the
            transform ``Views`` makes.
        least_batch: the fewest images that a process can learn from at a time.
        training_parts: of its sub-networks those that evaluation does without, so that weights
            are complete without them.
        excludes: settings of a config that it cannot be trained with (``to_static``).
    """

    evaluator = "Classification"
    additive = True
    two_pass = False
    equal_batches = False
    views = 1
    least_batch = 1
    training_parts: Sequence[str] = ()
    excludes: Sequence[str] = ()

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

    def after_step(
        self,
        step: int,
        total_steps: int,
        weights: Dict[str, paddle.Tensor],
        finite: paddle.Tensor,
    ) -> None:
        """Called after the optimizer's update of that step: momentum encoders, queues.

        Args:
            step: which step it was, from 0.
            total_steps: of the run.
            weights: what the optimizer steps on, by the names of the trainable parameters:
                float32 where the network itself has 16 bits. A change for good is made here.
            finite: whether the step was made; bool ``[]``, on the device. A step is skipped when
                the loss or a gradient is not finite.
        """

    def after_loading(self, report: Any) -> None:
        """Called when weights have been loaded that another run, or somebody else, has made.

        Args:
            report: a ``passl.weights.LoadReport``.
        """

    def check_batches(self, images: int, per_process: int, processes: int) -> None:
        """Makes sure that it can be trained with the batches of a run.

        Args:
            images: of the training set.
            per_process: images that a process takes at a time.
            processes: how many there are.

        Raises:
            PasslError: it cannot, and what to change.
        """

    def warning(self, means: Mapping[str, float], progress: float) -> Optional[str]:
        """Returns what a person should be told of how a run goes; None for nothing.

        Args:
            means: ``loss`` and ``scalars``, over the images of the last interval.
            progress: the share of the run's steps that have been made, in [0, 1].
        """
        return None
