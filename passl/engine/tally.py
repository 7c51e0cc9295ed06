"""The losses and the skipped steps of a run, counted without waiting for the device."""

from __future__ import annotations

import math
from typing import List

import paddle

from passl.hooks.base import Progress


class Tally:
    """Notes what steps have given, and works it out when it is asked for.

    Until then only references to tensors are kept. Numbers are added up in the order of the steps,
    so that the sums do not depend on how often they were asked for: a resumed run has the same.

    Args:
        progress: where the sums go.
    """

    def __init__(self, progress: Progress):
        self._progress = progress
        self._losses: List[paddle.Tensor] = []
        self._counts: List[int] = []
        self._finite: List[paddle.Tensor] = []

    def add_loss(self, loss: paddle.Tensor, images: int) -> None:
        """Notes the mean loss of a batch, a scalar."""
        self._losses.append(loss)
        self._counts.append(images)

    def add_step(self, finite: paddle.Tensor) -> None:
        """Notes whether the gradients of a step were finite, bool ``[]``."""
        self._finite.append(finite)

    def settle(self) -> None:
        """Brings ``progress`` up to date; waits for the device."""
        progress = self._progress
        losses = (
            paddle.stack(self._losses).astype("float64").numpy().tolist() if self._losses else []
        )
        for loss, images in zip(losses, self._counts):
            if math.isfinite(loss):
                progress.loss_sum += loss * images
                progress.loss_images += images
        flags = paddle.stack(self._finite).numpy().tolist() if self._finite else []
        for finite in flags:
            progress.bad_steps += not finite
            progress.bad_in_a_row = 0 if finite else progress.bad_in_a_row + 1
        self._losses, self._counts, self._finite = [], [], []
