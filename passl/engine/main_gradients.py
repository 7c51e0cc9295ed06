"""Gradients of 16-bit weights in float32: added up over micro-batches and over processes.

A weight of 16 bits has a gradient of 16 bits, to which the next micro-batch's is added: in bfloat16
the thirty-second of them changes the sum by its first one or two digits. What one backward pass
gives is taken to float32 here, and everything after it (sums, exchange, clipping, the step) is done
there (Micikevicius et al., "Mixed Precision Training", arXiv 1710.03740, section 3.1).
"""

from __future__ import annotations

from typing import Dict, Iterator, List

import paddle

from passl.distributed.collectives import all_reduce
from passl.utils.widened import widened


class MainGradients:
    """Holds the sums of gradients of a step.

    Args:
        parameters: which learn, of any float type.
        processes: how many train together.
        bucket: bytes of gradients that are exchanged at a time.
    """

    def __init__(self, parameters: List[paddle.Tensor], processes: int, bucket: int):
        self._parameters, self._processes, self._bucket = parameters, processes, bucket
        self._sums: Dict[int, paddle.Tensor] = {}

    @paddle.no_grad()
    def take(self) -> None:
        """Adds the parameters' gradients to the sums, and clears them."""
        for i, parameter in enumerate(self._parameters):
            if parameter.grad is None:
                continue
            gradient = widened(parameter.grad)
            if i in self._sums:
                self._sums[i].add_(gradient)
            else:
                self._sums[i] = gradient.clone()
            parameter.clear_gradient(False)

    @paddle.no_grad()
    def give(self) -> None:
        """Makes the sums, averaged over the processes, the parameters' gradients."""
        for places in self._buckets():
            sums = [self._sums.pop(i) for i in places]
            if self._processes > 1:
                sums = self._averaged(sums)
            for i, total in zip(places, sums):
                self._parameters[i].grad = total

    def _averaged(self, sums: List[paddle.Tensor]) -> List[paddle.Tensor]:
        flat = all_reduce(paddle.concat([total.flatten() for total in sums])) / self._processes
        parts = flat.split([total.size for total in sums])
        return [part.reshape(total.shape) for part, total in zip(parts, sums)]

    def _buckets(self) -> Iterator[List[int]]:
        """Yields the places of parameters in lists of one dtype, as large as a bucket or one."""
        places: List[int] = []
        size = 0
        for i in sorted(self._sums):
            total = self._sums[i]
            room = size + total.size * 4 <= self._bucket
            if places and not (room and total.dtype == self._sums[places[0]].dtype):
                yield places
                places, size = [], 0
            places.append(i)
            size += total.size * 4
        if places:
            yield places
