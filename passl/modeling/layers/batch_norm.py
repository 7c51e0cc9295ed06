"""Batch normalisation whose running statistics are no parameters, alone or over all processes.

Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift", arXiv 1502.03167, algorithm 1 and the gradients of section 3.
"""

from __future__ import annotations

import dataclasses
from typing import Any, List, Optional

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from passl.distributed.collectives import all_gather, all_reduce, process_count
from passl.utils.errors import PasslError
from passl.utils.widened import widened


class _BatchNorm:
    """What the two layers below add to Paddle's, which is the base class after this one.

    Paddle keeps the running mean and variance among the parameters, where they would be counted as
    what a network learns. Here they are buffers; in the state they have Paddle's names, ``_mean``
    and ``_variance``. The running variance takes the biased variance of a batch, as Paddle's does
    on a processor and its SyncBatchNorm on a GPU (torch: times n/(n - 1)).

    With ``sync``, several processes that train normalise by the mean and variance of all values
    that they hold together, each weighted by how many it has; the gradient is that of this function
    of all of them. All have the same running statistics then, and train the network that one
    process would train on the joined batch. A process alone does what it does without. The layer
    must not be in a block that is recomputed: its running statistics would move twice.

    With ``splits`` above 1, a process normalises each of so many equal parts of its batch, one
    behind the other, by statistics of that part alone, as that many processes would; the running
    statistics follow the mean over the parts.
    """

    splits = 1

    def __init__(
        self,
        channels: int,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        sync: bool = False,
        affine: bool = True,
    ):
        learned = None if affine else False
        super().__init__(
            channels, momentum=momentum, epsilon=epsilon, weight_attr=learned, bias_attr=learned
        )
        self.sync = sync
        for name, value in (("_mean", 0.0), ("_variance", 1.0)):
            del self._parameters[name]
            self.register_buffer(name, paddle.full([channels], value, dtype="float32"))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        self._check_input_dim(x)
        if self.training and self.splits > 1:
            return self._by_parts(x)
        if not (self.sync and self.training and process_count() > 1):
            return self._normalised(x, self._mean, self._variance)
        with paddle.amp.auto_cast(enable=False):
            batch = _statistics(x)
            self._follow(batch)
            return _Normalise.apply(x, self.weight, self.bias, batch, self._epsilon)

    def _normalised(
        self, x: paddle.Tensor, mean: paddle.Tensor, variance: paddle.Tensor
    ) -> paddle.Tensor:
        """Returns what Paddle's operation makes of x; in training it moves the statistics."""
        # Not Paddle's layer, which warns of just that at every call.
        return F.batch_norm(
            x,
            mean,
            variance,
            self.weight,
            self.bias,
            training=self.training,
            momentum=self._momentum,
            epsilon=self._epsilon,
        )

    def _by_parts(self, x: paddle.Tensor) -> paddle.Tensor:
        if x.shape[0] % self.splits:
            raise PasslError(
                f"a batch of {x.shape[0]} images has no {self.splits} equal parts, each "
                "with a batch normalisation of its own"
            )
        running = [(self._mean.clone(), self._variance.clone()) for _ in range(self.splits)]
        parts = paddle.split(x, self.splits)
        outputs = [self._normalised(part, *own) for part, own in zip(parts, running)]
        with paddle.no_grad():
            for statistic, all_parts in zip((self._mean, self._variance), zip(*running)):
                paddle.assign(paddle.stack(all_parts).mean(0), statistic)
        return paddle.concat(outputs)

    @paddle.no_grad()
    def _follow(self, batch: _Statistics) -> None:
        for running, now in ((self._mean, batch.mean), (self._variance, batch.variance)):
            share = 1 - self._momentum
            paddle.assign(self._momentum * running + share * now.astype(running.dtype), running)


class BatchNorm2D(_BatchNorm, nn.BatchNorm2D):
    """Batch normalisation of feature maps.

    Args:
        channels: C.
        momentum: share of the old statistics that stays; Paddle's 0.9 is torch's 0.1.
        epsilon: added to the variance.
        sync: whether the statistics are those of the batches of all processes together, also on a
            processor, for which Paddle's own SyncBatchNorm has no kernel.
        affine: whether ``weight`` and ``bias`` are learned, ``[C]`` each; without, there are none.

    Shape:
        input and output: ``[N, C, H, W]``, of the same dtype. With ``sync``, N may differ between
        processes, and it is computed in float32 at least.
    """


class BatchNorm1D(_BatchNorm, nn.BatchNorm1D):
    """Batch normalisation of features, as in projectors.

    Args:
        channels, momentum, epsilon, sync, affine: as of BatchNorm2D.

    Shape:
        input and output: ``[N, C]``, of the same dtype.
    """


def sync_batch_norms(network: nn.Layer) -> None:
    """Gives all batch norms of a network ``sync=True``.

    Raises:
        PasslError: there are none, or one of them cannot do it.
    """
    synchronous = [layer for layer in network.sublayers() if isinstance(layer, _BatchNorm)]
    for name, layer in network.named_sublayers():
        paddles = (nn.BatchNorm, nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D)
        if isinstance(layer, paddles) and not isinstance(layer, _BatchNorm):
            raise PasslError(
                f"{name} is Paddle's own {type(layer).__name__}, which knows no other processes; "
                "take that of passl.modeling.layers, or set parallel.sync_batch_norm=false"
            )
    if not synchronous:
        raise PasslError("the network has no batch norms; set parallel.sync_batch_norm=false")
    for layer in synchronous:
        layer.sync = True


def split_batch_norms(network: nn.Layer, splits: int) -> None:
    """Gives all batch norms of a network so many parts, see ``BatchNorm2D``."""
    for layer in network.sublayers():
        if isinstance(layer, _BatchNorm):
            layer.splits = splits


def has_batch_norms(network: nn.Layer) -> bool:
    """Tells whether a network has batch norms."""
    return any(isinstance(layer, _BatchNorm) for layer in network.sublayers())


def has_sync_batch_norms(network: nn.Layer) -> bool:
    """Tells whether a network has batch norms that normalise over all processes."""
    return any(isinstance(layer, _BatchNorm) and layer.sync for layer in network.sublayers())


@dataclasses.dataclass(frozen=True)
class _Statistics:
    """Of the values of all processes: float64, ``[C]`` each, and how many there are, ``[]``."""

    mean: paddle.Tensor
    variance: paddle.Tensor
    count: paddle.Tensor


class _Normalise(PyLayer):
    """``(x - mean) / sqrt(variance + epsilon) · weight + bias``, the first two functions of x.

    For the way back it keeps x as it is and nothing else of its size.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: paddle.Tensor,
        weight: Optional[paddle.Tensor],
        bias: Optional[paddle.Tensor],
        batch: _Statistics,
        epsilon: float,
    ) -> paddle.Tensor:
        ctx.save_for_backward(x)
        learned = [] if weight is None else [weight, bias]
        ctx.wanted = [None if tensor.stop_gradient else tensor.dtype for tensor in (x, *learned)]
        ctx.weight, ctx.batch, ctx.inverse = weight, batch, (batch.variance + epsilon).rsqrt()
        out = _standardised(x, ctx)
        if weight is not None:
            out = out * _along(weight, out) + _along(bias, out)
        return out.astype(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        (x,) = ctx.saved_tensor()
        standard, gradient = _standardised(x, ctx), widened(gradient)
        to_bias, to_weight = gradient.sum(_axes(x)), (gradient * standard).sum(_axes(x))
        sums = all_reduce(paddle.stack([to_bias, to_weight]))
        mean, slope = (sums / ctx.batch.count.astype(sums.dtype)).unbind()
        scale = ctx.inverse if ctx.weight is None else ctx.inverse * ctx.weight.astype("float64")
        to_x = gradient - _along(mean, gradient) - standard * _along(slope, gradient)
        found = (to_x * _along(scale, gradient), to_weight, to_bias)
        wanted = zip(ctx.wanted, found)
        return tuple(None if dtype is None else value.astype(dtype) for dtype, value in wanted)


def _standardised(x: paddle.Tensor, ctx: Any) -> paddle.Tensor:
    x = widened(x)
    return (x - _along(ctx.batch.mean, x)) * _along(ctx.inverse, x)


def _axes(x: paddle.Tensor) -> List[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def _along(values: paddle.Tensor, x: paddle.Tensor) -> paddle.Tensor:
    """Returns ``[C]`` as ``[1, C, 1, …]``, in the dtype of ``x``."""
    return values.astype(x.dtype).reshape([1, -1] + [1] * (x.ndim - 2))


@paddle.no_grad()
def _statistics(x: paddle.Tensor) -> _Statistics:
    """Joins the means and squared deviations of all processes.

    Each process subtracts its own mean before it squares: a sum of squares alone would lose a small
    variance beside a large mean (Chan, Golub and LeVeque, "Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances", 1979).
    """
    x = widened(x.detach())
    own = x.mean(_axes(x))
    deviations = (x - _along(own, x)).square().sum(_axes(x))
    count = (paddle.numel(x) // x.shape[1]).reshape([1])
    told = paddle.concat([part.astype("float64") for part in (count, own, deviations)])
    counts, means, deviations = all_gather(told.unsqueeze(0)).split([1, *own.shape * 2], axis=1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    variance = (deviations + counts * (means - mean).square()).sum(0) / total
    return _Statistics(mean, variance, total)
