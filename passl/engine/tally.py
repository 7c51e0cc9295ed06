"""What the steps of a run have given, counted without waiting for the device."""

from __future__ import annotations

import itertools
import math
from typing import Dict, List

import paddle

from passl.distributed.processes import Processes
from passl.engine.step import StepResult
from passl.hooks.base import Progress
from passl.utils.errors import PasslError, listing
from passl.utils.logging import logger


class Tally:
    """Notes what steps have given, and works it out when it is asked for.

    Until then only references to tensors are kept. Numbers are added up in the order of the steps,
    so that the sums do not depend on how often they were asked for: a resumed run has the same.

    Args:
        progress: where the sums go.
    """

    def __init__(self, progress: Progress):
        self._progress = progress
        self._results: List[StepResult] = []
        self._told = progress.bad_steps  # of how many skipped steps the user knows

    def add(self, result: StepResult) -> None:
        """Notes the result of a step."""
        self._results.append(result)

    def settle(self) -> None:
        """Brings ``progress`` up to date; waits for the device."""
        if not self._results:
            return
        progress = self._progress
        counts = [count for result in self._results for count in result.counts]
        losses = _numbers([loss for result in self._results for loss in result.losses])
        for loss, images in zip(losses, counts):
            if math.isfinite(loss):
                progress.loss_sum += loss * images
                progress.loss_images += images
        self._settle_scalars(counts)
        for finite in paddle.stack([result.finite for result in self._results]).numpy().tolist():
            progress.bad_steps += not finite
            progress.bad_in_a_row = 0 if finite else progress.bad_in_a_row + 1
        self._results = []

    def _settle_scalars(self, counts: List[int]) -> None:
        scalars = [one for result in self._results for one in result.scalars]
        sums = self._progress.scalar_sums
        names = sorted(sums) or sorted(scalars[0])
        for one in scalars:
            if sorted(one) != names:
                raise PasslError(
                    "an architecture returns the same scalars for every batch, not "
                    f"{listing(names) or 'none'} and then {listing(one) or 'none'}"
                )
        for name in names:
            pair = sums.setdefault(name, [0.0, 0.0])
            for value, images in zip(_numbers([one[name] for one in scalars]), counts):
                if math.isfinite(value):
                    pair[0] += value * images
                    pair[1] += images

    def share(self, processes: Processes) -> None:
        """Gives each process the same part of the sums, as it will have after a resume."""
        self.settle()
        progress = self._progress
        parts = [part / processes.size for part in processes.sum(self._sums())]
        progress.loss_sum, progress.loss_images = parts[:2]
        for i, name in enumerate(sorted(progress.scalar_sums), start=1):
            progress.scalar_sums[name] = parts[2 * i : 2 * i + 2]

    def _sums(self) -> List[float]:
        progress = self._progress
        pairs = [progress.scalar_sums[name] for name in sorted(progress.scalar_sums)]
        return [progress.loss_sum, progress.loss_images, *itertools.chain(*pairs)]

    def means(self, processes: Processes) -> Dict[str, float]:
        """Returns the means over the images of all processes since the last call.

        Returns:
            ``loss`` and the architecture's scalars by name; nothing where no loss was finite.
        """
        self.settle()
        progress = self._progress
        sums = processes.sum(self._sums())
        names = ["loss", *sorted(progress.scalar_sums)]
        progress.loss_sum = progress.loss_images = 0.0
        progress.scalar_sums = {name: [0.0, 0.0] for name in progress.scalar_sums}
        if not sums[1]:
            return {}
        pairs = zip(names, sums[::2], sums[1::2])
        return {name: total / images for name, total, images in pairs if images}

    def report_skipped(self, most: int) -> None:
        """Says how many steps were skipped since it was last said.

        Raises:
            PasslError: the last ``most`` of them and perhaps more were skipped.
        """
        progress = self._progress
        total, in_a_row = progress.bad_steps, progress.bad_in_a_row
        if in_a_row >= most:
            raise PasslError(
                f"no gradient has been finite since step {progress.step - in_a_row + 1} "
                f"({in_a_row} steps, max_bad_steps: {most}), and nothing has been saved since; "
                "lower learning_rate, lengthen the warm-up or set optimizer.grad_clip"
            )
        if total > self._told:
            logger.warning(
                "step %d: %d steps were skipped because the loss or a gradient was not finite",
                progress.step,
                total - self._told,
            )
        self._told = total


def _numbers(scalars: List[paddle.Tensor]) -> List[float]:
    stacked = paddle.stack([scalar.reshape([]) for scalar in scalars])
    return stacked.astype("float64").numpy().tolist()
