"""The running statistics of batch norms, which each process gathers from its own images."""

from __future__ import annotations

from typing import List, Sequence

import paddle
from paddle import nn

from passl.distributed.processes import Processes


def running_statistics(network: nn.Layer) -> List[paddle.Tensor]:
    """Returns the running means and variances of a network's batch norms, themselves."""
    return [
        getattr(layer, name)
        for layer in network.sublayers()
        for name in ("_mean", "_variance")
        if isinstance(getattr(layer, name, None), paddle.Tensor)
    ]


def take_back(
    statistics: Sequence[paddle.Tensor], before: Sequence[paddle.Tensor], finite: paddle.Tensor
) -> None:
    """Gives running statistics their values of before a step that was skipped.

    Without this one batch whose activations are not finite would stay in them for good, and with it
    every evaluation and every checkpoint. Does not wait for the device.

    Args:
        statistics: see ``running_statistics``.
        before: copies of them.
        finite: whether the gradients of the step were, bool of one element.
    """
    with paddle.no_grad():
        for tensor, old in zip(statistics, before):
            paddle.assign(paddle.where(finite.reshape([1]), tensor, old), tensor)


def share_running_statistics(network: nn.Layer, processes: Processes) -> None:
    """Gives the batch norms of all processes the mean of their running statistics.

    Each process normalises by the statistics of its own part of a batch, and keeps a running mean
    and variance of those. Without this each would evaluate a network of its own, and only the first
    one's would be saved: Paddle's data parallelism leaves them alone. All processes must call it.

    Args:
        network: with any batch norms of Paddle's, or none.
        processes: among which the mean is taken.
    """
    if processes.size == 1:
        return
    found = running_statistics(network)
    if not found:
        return
    with paddle.no_grad():
        means = processes.mean(paddle.concat([tensor.flatten() for tensor in found]))
        begin = 0
        for tensor in found:
            part = means[begin : begin + tensor.size].reshape(tensor.shape)
            paddle.assign(part.astype(tensor.dtype), tensor)
            begin += tensor.size
