"""Functions of tensors with gradients of their own, where a processor computes eagerly.

There most of a training step's time that is not in matrix products goes into what PaddlePaddle
does around them: the gradients of biases, scales, GELU and normalisations, slices, and axes that
change places. ``kernels`` do that in one pass each. In static programs, so in exported files too,
and on a GPU these functions are Paddle's own operations.

They are also where a graph is recorded outside of ``single_backward``: going backward twice through
a gradient of one's own (``retain_graph=True``) ends the process, because Paddle lets go of it after
the first time, whatever it was told (``GradNodePyLayer`` in ``paddle/fluid/eager/pylayer``).
"""

from __future__ import annotations

import contextlib
import ctypes
import operator
import threading
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from passl.modeling.layers import kernels

_DTYPES = {paddle.float32: np.dtype(np.float32), paddle.float64: np.dtype(np.float64)}

# Numbers of a tensor from which on a kernel saves more than calling it from Python costs, 0.1 ms.
_WORTH_IT = 2**16
# Of a convolution, which is as many calls as there are images: multiplications of one image for
# each of these numbers. Below, Paddle's own is up to 25 times faster.
_OF_AN_IMAGE = 2**10

_inside = threading.local()


@contextlib.contextmanager
def single_backward() -> Iterator[None]:
    """Says that what is computed inside goes backward at most once, and without second derivatives.

    The engine makes its steps inside; so may a training loop of one's own, forward and backward.

    Two things that Paddle does elsewhere it does not do for gradients of one's own: an error where
    an operation's input was changed in place before the way back, and taking what a hook on an
    output (``Tensor.register_hook``) returns in place of the gradient.
    """
    before = getattr(_inside, "single", False)
    _inside.single = True
    try:
        yield
    finally:
        _inside.single = before


def runs_kernels(*tensors: Optional[paddle.Tensor]) -> bool:
    """Tells whether ``kernels`` compute on such tensors: of float32 or 64, eagerly, on a processor.

    All of them must have one dtype and lie in its memory, the first one must be large enough to be
    worth it, and no graph may be recorded outside of ``single_backward``. Where a GPU is Paddle's
    device they do not: there new tensors are made on it.
    """
    if not paddle.in_dynamic_mode():
        return False
    first = tensors[0]
    return (
        first.place.is_cpu_place()  # asked first: a GPU is not to wait for the other questions
        and (getattr(_inside, "single", False) or not paddle.is_grad_enabled())
        and first.size >= _WORTH_IT
        and first.dtype in _DTYPES
        and paddle.get_device() == "cpu"
        and all(t is None or (t.dtype == first.dtype and t.place.is_cpu_place()) for t in tensors)
    )


def linear(
    x: paddle.Tensor, weight: paddle.Tensor, bias: Optional[paddle.Tensor] = None
) -> paddle.Tensor:
    """Returns ``x @ weight + bias``.

    Args:
        x: ``[..., C]``.
        weight: ``[C, C']``.
        bias: ``[C']``, or None for none.
    """
    if runs_kernels(x, weight, bias) and _have_shape(weight.shape[-1:], bias):
        return _Linear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def gelu(x: paddle.Tensor, approximate: bool = False) -> paddle.Tensor:
    """Returns GELU of each element, x Φ(x) (Hendrycks and Gimpel, arXiv 1606.08415).

    Args:
        x: of any shape.
        approximate: by tanh instead of Φ.
    """
    # Paddle has names for the forms too.
    if runs_kernels(x) and x.dtype == paddle.float32 and isinstance(approximate, bool):
        return _Gelu.apply(x, approximate)
    return F.gelu(x, approximate)


def layer_norm(
    x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, epsilon: float
) -> paddle.Tensor:
    """Returns the layer normalisation over the last axis (Ba et al., arXiv 1607.06450).

    Args:
        x: ``[..., C]``.
        weight, bias: ``[C]``.
        epsilon: added to the variance.
    """
    if runs_kernels(x, weight, bias):
        return _LayerNorm.apply(x, weight, bias, epsilon)
    return F.layer_norm(x, x.shape[-1:], weight, bias, epsilon)


def scale(
    x: paddle.Tensor, weight: paddle.Tensor, bias: Optional[paddle.Tensor] = None
) -> paddle.Tensor:
    """Returns ``x * weight + bias``, a scale and a shift for each channel.

    Args:
        x: ``[..., C]``.
        weight: ``[C]``.
        bias: ``[C]``, or None for none.
    """
    if runs_kernels(x, weight, bias) and _have_shape(x.shape[-1:], weight, bias):
        return _Scale.apply(x, weight, bias)
    return x * weight if bias is None else x * weight + bias


def weighted_sum(branches: Sequence[paddle.Tensor], weights: paddle.Tensor) -> paddle.Tensor:
    """Returns the sum of branches, each times a weight for every image and channel.

    Args:
        branches: B tensors ``[N, H, W, C]``.
        weights: ``[N, C, B]``.
    """
    first = branches[0].shape
    of_weights = [first[0], first[-1], len(branches)]
    if (
        runs_kernels(*branches, weights)
        and _have_shape(first, *branches)
        and _have_shape(of_weights, weights)
    ):
        return _WeightedSum.apply(weights, *branches)
    weights = weights.unsqueeze([1, 2])
    output = branches[0] * weights[..., 0]
    for i in range(1, len(branches)):
        output = output + branches[i] * weights[..., i]
    return output


def mean_over_positions(x: paddle.Tensor) -> paddle.Tensor:
    """Returns the mean over all axes but the first and the last: ``[N, ..., C]`` to ``[N, C]``."""
    if runs_kernels(x):
        return _MeanOverPositions.apply(x)
    return x.mean(axis=list(range(1, x.ndim - 1)))


def swap_axes(x: paddle.Tensor, one: int, other: int) -> paddle.Tensor:
    """Returns a tensor two axes of which have changed places.

    Args:
        x: of any shape.
        one, other: the axes, from 0; ``one`` comes first.
    """
    if runs_kernels(x):
        return _SwapAxes.apply(x, one, other)
    order = list(range(x.ndim))
    order[one], order[other] = other, one
    return x.transpose(order)


def heads_apart(x: paddle.Tensor, heads: int, parts: int) -> Tuple[paddle.Tensor, ...]:
    """Returns parts of the channels, each with its heads apart; only where ``runs_kernels(x)``.

    Args:
        x: ``[N, S, parts · heads · d]``.
        heads: H.
        parts: how many lie side by side.

    Returns:
        ``parts`` tensors ``[N, H, S, d]``.
    """
    return _HeadsApart.apply(x, heads, parts)


def channels_last(x: paddle.Tensor) -> paddle.Tensor:
    """Returns ``[N, C, H, W]`` as ``[N, H, W, C]``."""
    if runs_kernels(x):
        count, channels, height, width = x.shape
        return swap_axes(x.flatten(2), 1, 2).reshape([count, height, width, channels])
    return x.transpose([0, 2, 3, 1])


def channels_first(x: paddle.Tensor) -> paddle.Tensor:
    """Returns ``[N, H, W, C]`` as ``[N, C, H, W]``."""
    if runs_kernels(x):
        count, height, width, channels = x.shape
        return swap_axes(x.flatten(1, 2), 1, 2).reshape([count, channels, height, width])
    return x.transpose([0, 3, 1, 2])


def shift_channels(x: paddle.Tensor, offsets: Sequence[int], axis: int) -> paddle.Tensor:
    """Returns a tensor whose channels are taken from further along an axis, zeros beyond its edge.

    Where ``runs_kernels(x)`` alone.

    Args:
        x: ``[N, H, W, C]``.
        offsets: of each channel, whole positions.
        axis: 1 or 2.
    """
    return _ShiftChannels.apply(x, tuple(offsets), axis)


def halves(x: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """Returns the first and the second half of the channels of ``[..., C]``; C is even."""
    if runs_kernels(x):
        return _Halves.apply(x)
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def patches(images: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
    """Returns non-overlapping patches in raster order; only where ``runs_kernels(images)``.

    Args:
        images: ``[N, C, H, W]``; the patches' height and width must divide H and W.
        height, width: of a patch.

    Returns:
        ``[N, S, C · height · width]``, the axes of a patch in the order of the image's.
    """
    return _Patches.apply(images, height, width)


def conv2d(
    x: paddle.Tensor,
    weight: paddle.Tensor,
    bias: Optional[paddle.Tensor],
    stride: Sequence[int],
    padding: Sequence[int],
) -> paddle.Tensor:
    """Returns a convolution of images.

    Args:
        x: ``[N, C, H, W]``.
        weight: ``[C', C, h, w]``.
        bias: ``[C']``, or None for none.
        stride, padding: pairs, along height and width.
    """
    if runs_kernels(x, weight, bias) and _has_large_images(x, weight, stride):
        return _Conv2D.apply(x, weight, bias, tuple(stride), tuple(padding))
    return F.conv2d(x, weight, bias, stride, padding)


def _has_large_images(x: paddle.Tensor, weight: paddle.Tensor, stride: Sequence[int]) -> bool:
    places = x.shape[2] * x.shape[3] // (stride[0] * stride[1])
    return weight.size * places >= _OF_AN_IMAGE * _WORTH_IT


def depthwise_conv2d(x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """Returns a convolution of each channel by itself, of the size of the input.

    Args:
        x: ``[N, H, W, C]``.
        weight: ``[C, 1, h, w]``, h and w odd.
    """
    if runs_kernels(x, weight) and weight.shape[:2] == [x.shape[-1], 1]:
        return _DepthwiseConv2D.apply(x, weight)
    padding = [size // 2 for size in weight.shape[2:]]
    images = channels_first(x)
    return channels_last(F.conv2d(images, weight, None, 1, padding, groups=weight.shape[0]))


# ------------------------------------------------ with gradients of their own

# What is kept for the way back is contiguous: Paddle's recomputation gives a tensor back without
# its strides.


class _Linear(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> paddle.Tensor:
        ctx.wanted, x, weight = _wanted(x, weight, bias), _contiguous(x), _contiguous(weight)
        ctx.save_for_backward(x, weight)
        return _with_bias(paddle.matmul(x, weight), bias)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        x, weight = ctx.saved_tensor()
        found: List[Optional[paddle.Tensor]] = [None] * len(ctx.wanted)
        if ctx.wanted[0]:
            found[0] = paddle.matmul(gradient, weight, transpose_y=True)
        flat = _contiguous(gradient.reshape([-1, gradient.shape[-1]]))
        if ctx.wanted[1]:
            found[1] = paddle.matmul(x.reshape([-1, x.shape[-1]]), flat, transpose_x=True)
        if ctx.wanted[2:] == [True]:
            found[2] = _column_sums(flat)
        return tuple(found)


class _Gelu(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Any, approximate: bool) -> paddle.Tensor:
        x, out = _contiguous(x), _empty(x.shape, x)
        ctx.save_for_backward(x)
        ctx.gradient = kernels.gelu_tanh_gradient if approximate else kernels.gelu_gradient
        (kernels.gelu_tanh if approximate else kernels.gelu)(_flat(x), _flat(out))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        (x,) = ctx.saved_tensor()
        gradient, out = _contiguous(gradient), _empty(x.shape, x)
        ctx.gradient(_flat(x), _flat(gradient), _flat(out))
        return out


class _LayerNorm(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, epsilon: float) -> paddle.Tensor:
        ctx.wanted, ctx.epsilon, x = _wanted(x, weight, bias), epsilon, _contiguous(x)
        ctx.save_for_backward(x, _contiguous(weight))
        return F.layer_norm(x, x.shape[-1:], weight, bias, epsilon)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        x, weight = ctx.saved_tensor()
        gradient = _contiguous(gradient)
        found = [_empty(shape, x) for shape in (x.shape, weight.shape, weight.shape)]
        to_x, to_weight, to_bias = found
        kernels.layer_norm_gradient(
            _rows(x), _rows(gradient), _array(weight), ctx.epsilon,
            _rows(to_x), _array(to_weight), _array(to_bias),
        )  # fmt: skip
        return _those_wanted(ctx, found)


class _Scale(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> paddle.Tensor:
        ctx.wanted, x, weight = _wanted(x, weight, bias), _contiguous(x), _contiguous(weight)
        ctx.save_for_backward(x, weight)
        out = _empty(x.shape, x)
        kernels.scale(_rows(x)[None], _array(weight)[None], _rows(out)[None])
        return _with_bias(out, bias)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        x, weight = ctx.saved_tensor()
        gradient = _contiguous(gradient)
        found = [_empty(x.shape, x), _empty(weight.shape, x)]
        kernels.scale_gradient(
            _rows(x)[None], _rows(gradient)[None], _array(weight)[None],
            _rows(found[0])[None], _array(found[1])[None],
        )  # fmt: skip
        if len(ctx.wanted) == 3:
            found.append(_column_sums(gradient))
        return _those_wanted(ctx, found)


class _WeightedSum(PyLayer):
    @staticmethod
    def forward(ctx: Any, weights: Any, *branches: Any) -> paddle.Tensor:
        ctx.wanted = _wanted(weights, *branches)
        weights, branches = _contiguous(weights), [_contiguous(branch) for branch in branches]
        ctx.save_for_backward(weights, *branches)
        out = _empty(branches[0].shape, weights)
        add: Callable[..., None] = kernels.scale
        for branch, weight in zip(branches, _of_branches(weights)):
            add(_positions(branch), weight, _positions(out))
            add = kernels.add_scaled
        return out

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        weights, *branches = ctx.saved_tensor()
        gradient = _contiguous(gradient)
        to_branches = [_empty(branch.shape, branch) for branch in branches]
        to_weights = np.empty((len(branches), *weights.shape[:2]), _DTYPES[weights.dtype])
        pairs = zip(branches, to_branches, _of_branches(weights), to_weights)
        for branch, to_branch, weight, to_weight in pairs:
            kernels.scale_gradient(
                _positions(branch), _positions(gradient), weight, _positions(to_branch), to_weight
            )
        found = [paddle.to_tensor(to_weights.transpose(1, 2, 0)), *to_branches]
        return _those_wanted(ctx, found)


class _MeanOverPositions(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Any) -> paddle.Tensor:
        ctx.shape, x = x.shape, _contiguous(x)
        out = _empty([x.shape[0], x.shape[-1]], x)
        positions = int(np.prod(x.shape[1:-1]))
        images = _array(x).reshape(x.shape[0], positions, x.shape[-1])
        for image, sums in zip(images, _array(out)):
            kernels.column_sums(image, sums)
        return out.scale_(1 / positions)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        count, *places, channels = ctx.shape
        share = gradient.scale(1 / np.prod(places))
        return share.reshape([count, *(1 for _ in places), channels]).expand(ctx.shape)


class _SwapAxes(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Any, one: int, other: int) -> paddle.Tensor:
        ctx.axes = one, other
        return _swapped(x, one, other)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        return _swapped(gradient, *ctx.axes)


class _HeadsApart(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Any, heads: int, parts: int) -> Any:
        x, (count, tokens, channels) = _contiguous(x), x.shape
        ctx.shape = count, tokens, parts, heads, channels // (parts * heads)
        found = [_empty([count, heads, tokens, ctx.shape[-1]], x) for _ in range(parts)]
        for i, part in enumerate(found):
            kernels.heads_apart(_array(x).reshape(ctx.shape), i, _array(part))
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *gradients: paddle.Tensor) -> Any:
        count, tokens, *rest = ctx.shape
        out = _empty([count, tokens, int(np.prod(rest))], gradients[0])
        for i, part in enumerate(map(_contiguous, gradients)):
            kernels.heads_together(_array(part), i, _array(out).reshape(ctx.shape))
        return out


class _ShiftChannels(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Any, offsets: Tuple[int, ...], axis: int) -> paddle.Tensor:
        ctx.offsets, ctx.axis = offsets, axis
        return _shifted(x, np.array(offsets), axis)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        return _shifted(gradient, -np.array(ctx.offsets), ctx.axis)


class _Halves(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        x, half = _contiguous(x), x.shape[-1] // 2
        halves = [_empty([*x.shape[:-1], half], x) for _ in range(2)]
        for i, part in enumerate(halves):
            _rows(part)[:] = _rows(x)[:, i * half : (i + 1) * half]
        return tuple(halves)

    @staticmethod
    def backward(ctx: Any, *gradients: paddle.Tensor) -> Any:
        half = gradients[0].shape[-1]
        out = _empty([*gradients[0].shape[:-1], 2 * half], gradients[0])
        for i, part in enumerate(map(_contiguous, gradients)):
            _rows(out)[:, i * half : (i + 1) * half] = _rows(part)
        return out


class _Patches(PyLayer):
    @staticmethod
    def forward(ctx: Any, images: Any, height: int, width: int) -> paddle.Tensor:
        count, channels, *size = images.shape
        ctx.sizes = count, channels, size[0] // height, height, size[1] // width, width
        tokens = ctx.sizes[2] * ctx.sizes[4]
        out = _empty([count, tokens, channels * height * width], images)
        images = _contiguous(images)
        kernels.cut_patches(_array(images), height, width, _rows(out))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        count, channels, down, height, across, width = ctx.sizes
        apart = gradient.reshape([count, down, across, channels, height, width])
        together = apart.transpose([0, 3, 1, 4, 2, 5])
        return together.reshape([count, channels, down * height, across * width])


class _Windows:
    """What the windows of a convolution see of each image, in memory that all images share.

    Args:
        x: ``[N, C, H, W]``.
        size, stride, padding: pairs, along height and width.
        ones: whether a row of ones is added, by which a product adds a bias.
    """

    def __init__(self, x: paddle.Tensor, size: Any, stride: Any, padding: Any, ones: bool):
        self._images, self._geometry = _array(x), (size, stride, padding)
        self.places = tuple(
            (x.shape[2 + i] + 2 * padding[i] - size[i]) // stride[i] + 1 for i in range(2)
        )
        self._rows = x.shape[1] * size[0] * size[1]
        self._columns = _empty([self._rows + ones, self.places[0] * self.places[1]], x)
        _array(self._columns)[self._rows :] = 1

    def of(self, n: int) -> paddle.Tensor:
        """Returns those of image ``n``, ``[C · h · w, H' · W']``, until the next call."""
        kernels.windows(
            self._images[n], *self._geometry, self.places, _array(self._columns)[: self._rows]
        )
        return self._columns

    def add_back(self, columns: paddle.Tensor, image: np.ndarray) -> None:
        """Adds ``[C · h · w, H' · W']`` to where it comes from, in an array ``[C, H, W]``."""
        kernels.add_windows(_array(columns), *self._geometry, self.places, image)


class _Conv2D(PyLayer):
    """As one product for each image."""

    @staticmethod
    def forward(
        ctx: Any, x: Any, weight: Any, bias: Any, stride: Tuple[int, int], padding: Tuple[int, int]
    ) -> paddle.Tensor:
        ctx.wanted, x, weight = _wanted(x, weight, bias), _contiguous(x), _contiguous(weight)
        ctx.save_for_backward(x, weight)
        ctx.geometry = tuple(weight.shape[2:]), stride, padding
        windows = _Windows(x, *ctx.geometry, ones=bias is not None)
        matrix = weight.flatten(1)
        if bias is not None:
            matrix = paddle.concat([matrix, bias.unsqueeze(1)], 1)
        out = _empty([x.shape[0], weight.shape[0], *windows.places], x)
        for n, image in enumerate(_array(out)):
            product = paddle.matmul(matrix, windows.of(n))
            image[:] = _array(product).reshape(image.shape)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        x, weight = ctx.saved_tensor()
        gradient = _contiguous(gradient).flatten(2)
        has_bias = len(ctx.wanted) == 3
        windows = _Windows(x, *ctx.geometry, ones=has_bias)
        matrix = weight.flatten(1)
        to_x = paddle.zeros_like(x) if ctx.wanted[0] else None
        to_matrix = paddle.zeros([matrix.shape[0], matrix.shape[1] + has_bias], x.dtype)
        for n in range(x.shape[0]):
            if any(ctx.wanted[1:]):
                to_matrix.add_(paddle.matmul(gradient[n], windows.of(n), transpose_y=True))
            if to_x is not None:
                columns = paddle.matmul(matrix, gradient[n], transpose_x=True)
                windows.add_back(columns, _array(to_x)[n])
        # The optimizer's operations on all gradients together take none with strides.
        found = [to_x, to_matrix[:, : matrix.shape[1]].contiguous().reshape(weight.shape)]
        if has_bias:
            found.append(to_matrix[:, -1].contiguous())
        return _those_wanted(ctx, found)


class _DepthwiseConv2D(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any) -> paddle.Tensor:
        ctx.wanted, x, weight = _wanted(x, weight), _contiguous(x), _contiguous(weight)
        ctx.save_for_backward(x, weight)
        out = _empty(x.shape, x)
        kernels.depthwise(_array(x), _taps(weight), _array(out))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        x, weight = ctx.saved_tensor()
        gradient, taps = _contiguous(gradient), _taps(weight)
        to_x, to_taps = _empty(x.shape, x), np.empty_like(taps)
        # A window that looks down from the one place is one that looks up from the other.
        kernels.depthwise(_array(gradient), np.ascontiguousarray(taps[::-1, ::-1]), _array(to_x))
        kernels.depthwise_weight_gradient(_array(x), _array(gradient), to_taps)
        to_weight = paddle.to_tensor(to_taps.transpose(2, 0, 1)).unsqueeze(1)
        return _those_wanted(ctx, [to_x, to_weight])


def _taps(weight: paddle.Tensor) -> np.ndarray:
    """Returns ``[C, 1, h, w]`` as contiguous ``[h, w, C]``."""
    return np.ascontiguousarray(_array(weight)[:, 0].transpose(1, 2, 0))


def _have_shape(shape: Sequence[int], *tensors: Optional[paddle.Tensor]) -> bool:
    """Tells whether all of the tensors have a shape: kernels read what is there, checking nothing.

    What has not is left to Paddle, which broadcasts it or says what is wrong; None is no tensor.
    """
    return all(tensor is None or list(tensor.shape) == list(shape) for tensor in tensors)


def _wanted(*tensors: Optional[paddle.Tensor]) -> List[bool]:
    """Tells which of the tensors get a gradient; None is no tensor."""
    return [not tensor.stop_gradient for tensor in tensors if tensor is not None]


def _those_wanted(ctx: Any, gradients: Sequence[Any]) -> Tuple[Optional[paddle.Tensor], ...]:
    """Returns the gradients, None for those of tensors that get none: Paddle refuses others."""
    return tuple(found if wanted else None for found, wanted in zip(gradients, ctx.wanted))


def _with_bias(out: paddle.Tensor, bias: Optional[paddle.Tensor]) -> paddle.Tensor:
    """Adds ``[C]``, or nothing for None, to ``[..., C]``, in place."""
    if bias is not None:
        bias = _contiguous(bias)
        kernels.add_row(_rows(out), _array(bias))
    return out


def _column_sums(tensor: paddle.Tensor) -> paddle.Tensor:
    """Returns the sums over all axes but the last."""
    sums = _empty(tensor.shape[-1:], tensor)
    kernels.column_sums(_rows(tensor), _array(sums))
    return sums


def _swapped(x: paddle.Tensor, one: int, other: int) -> paddle.Tensor:
    x, shape = _contiguous(x), x.shape
    new = list(shape)
    new[one], new[other] = shape[other], shape[one]
    out = _empty(new, x)
    parts = [shape[:one], [shape[one]], shape[one + 1 : other], [shape[other]], shape[other + 1 :]]
    a, b, m, c, i = (int(np.prod(part)) for part in parts)
    if m == i == 1:
        kernels.transpose(_array(x).reshape(a, b, c), _array(out).reshape(a, c, b))
    else:
        kernels.swap_axes(_array(x).reshape(a, b, m, c, i), _array(out).reshape(a, c, m, b, i))
    return out


def _shifted(x: paddle.Tensor, offsets: np.ndarray, axis: int) -> paddle.Tensor:
    x = _contiguous(x)
    out = _empty(x.shape, x)
    count, height, width, channels = x.shape
    shape = (count, height, width) if axis == 1 else (count * height, width, 1)
    source, target = (_array(tensor).reshape(*shape, channels) for tensor in (x, out))
    kernels.shift_channels(source, offsets, target)
    return out


# ------------------------------------------------ a tensor's memory as an array


def _empty(shape: Sequence[int], like: paddle.Tensor) -> paddle.Tensor:
    return paddle.empty(shape, like.dtype)


# Not as methods: Paddle's translation of bytecode (full_graph=False) may fail at one that it does
# not know, and leaves a function that it does not know to Python.
_is_contiguous, _address = map(operator.methodcaller, ("is_contiguous", "data_ptr"))


def _contiguous(tensor: paddle.Tensor) -> paddle.Tensor:
    """Returns a tensor whose numbers lie in the order of its axes: itself, or a copy.

    ``Tensor.contiguous()`` moves the tensor that it is called on: a view of the caller's would be
    none any more.
    """
    return tensor if _is_contiguous(tensor) else tensor.clone()


def _array(tensor: paddle.Tensor) -> np.ndarray:
    """Returns an array over the memory of a contiguous tensor, which must outlive it."""
    assert _is_contiguous(tensor)
    dtype = _DTYPES[tensor.dtype]
    address = _address(tensor) or 0  # PaddlePaddle 2 has None for that of no numbers
    memory = (ctypes.c_char * (tensor.size * dtype.itemsize)).from_address(address)
    return np.ndarray(tuple(tensor.shape), dtype, memory)


def _flat(tensor: paddle.Tensor) -> np.ndarray:
    return _array(tensor).reshape(-1)


def _rows(tensor: paddle.Tensor) -> np.ndarray:
    return _array(tensor).reshape(-1, tensor.shape[-1])


def _positions(tensor: paddle.Tensor) -> np.ndarray:
    return _array(tensor).reshape(tensor.shape[0], -1, tensor.shape[-1])


def _of_branches(weights: paddle.Tensor) -> np.ndarray:
    """Returns ``[N, C, B]`` as contiguous ``[B, N, C]``."""
    return np.ascontiguousarray(_array(weights).transpose(2, 0, 1))
