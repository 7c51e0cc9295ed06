"""Linear maps, GELU and layer normalisation, with gradients of their own where a processor trains.

In eager execution on a processor most of a training step's time that is not in matrix products goes
into what PaddlePaddle does around them: the gradient of a bias, of GELU, of a normalisation. There
these layers compute with ``kernels``; in static programs, so in exported files too, and on a GPU
they are Paddle's own layers. The parameters and their names are Paddle's.
"""

from __future__ import annotations

import ctypes
from typing import Any, List, Optional, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from passl.modeling.layers import kernels

_DTYPES = {paddle.float32: np.dtype(np.float32), paddle.float64: np.dtype(np.float64)}


class Linear(nn.Linear):
    """A linear map of the last axis.

    Args:
        in_features, out_features, weight_attr, bias_attr: as of ``paddle.nn.Linear``.

    Shape:
        input: ``[..., in_features]``; output: ``[..., out_features]``.
    """

    def forward(self, x):
        return linear(x, self.weight, self.bias)


class GELU(nn.GELU):
    """GELU, element by element; by its exact form unless ``approximate``."""

    def forward(self, x):
        if runs_kernels(x) and x.dtype == paddle.float32:
            return _Gelu.apply(x, self._approximate)
        return F.gelu(x, self._approximate)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis.

    Args:
        channels: its size, C.
        epsilon: added to the variance.

    Shape:
        input and output: ``[..., C]``.
    """

    def __init__(self, channels: int, epsilon: float = 1e-5):
        super().__init__(channels, epsilon=epsilon)

    def forward(self, x):
        if runs_kernels(x, self.weight, self.bias):
            return _LayerNorm.apply(x, self.weight, self.bias, self._epsilon)
        return F.layer_norm(x, self._normalized_shape, self.weight, self.bias, self._epsilon)


def linear(
    x: paddle.Tensor, weight: paddle.Tensor, bias: Optional[paddle.Tensor] = None
) -> paddle.Tensor:
    """Returns ``x @ weight + bias``.

    Args:
        x: ``[..., C]``.
        weight: ``[C, C']``.
        bias: ``[C']``, or None for none.
    """
    if bias is not None and runs_kernels(x, weight, bias):
        return _Linear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def patches(images: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
    """Returns non-overlapping patches in raster order; their gradient is passed on.

    Args:
        images: ``[N, C, H, W]``; the patches' height and width must divide H and W.
        height, width: of a patch.

    Returns:
        ``[N, S, C · height · width]``, the axes of a patch in the order of the image's.
    """
    return _Patches.apply(images, height, width)


def runs_kernels(*tensors: paddle.Tensor) -> bool:
    """Tells whether ``kernels`` compute on such tensors: of float32 or 64, eagerly, on a processor.

    All of them must have one dtype.
    """
    first = tensors[0]
    return (
        paddle.in_dynamic_mode()
        and first.dtype in _DTYPES
        and first.place.is_cpu_place()
        and all(tensor.dtype == first.dtype for tensor in tensors[1:])
    )


# ------------------------------------------------ with gradients of their own


# What is kept for the way back is contiguous: Paddle's recomputation gives a tensor back without its
# strides.


class _Linear(PyLayer):
    """The gradient of the bias comes from one pass: Paddle's takes as long as half a product."""

    @staticmethod
    def forward(
        ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor
    ) -> paddle.Tensor:
        ctx.wanted, x = _wanted(x, weight, bias), x.contiguous()
        ctx.save_for_backward(x, weight)
        out = paddle.matmul(x, weight).contiguous()
        kernels.add_row(_rows(out), _array(bias))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        x, weight = ctx.saved_tensor()
        to_x = to_weight = to_bias = None
        if ctx.wanted[0]:
            to_x = paddle.matmul(gradient, weight, transpose_y=True)
        flat = gradient.reshape([-1, gradient.shape[-1]]).contiguous()
        if ctx.wanted[1]:
            to_weight = paddle.matmul(x.reshape([-1, x.shape[-1]]), flat, transpose_x=True)
        if ctx.wanted[2]:
            to_bias = paddle.empty(flat.shape[-1:], flat.dtype)
            kernels.column_sums(_array(flat), _array(to_bias))
        return to_x, to_weight, to_bias


class _Gelu(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, approximate: bool) -> paddle.Tensor:
        x, out = x.contiguous(), paddle.empty(x.shape, x.dtype)
        ctx.save_for_backward(x)
        ctx.gradient = kernels.gelu_tanh_gradient if approximate else kernels.gelu_gradient
        (kernels.gelu_tanh if approximate else kernels.gelu)(_flat(x), _flat(out))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        (x,) = ctx.saved_tensor()
        gradient, out = gradient.contiguous(), paddle.empty(x.shape, x.dtype)
        ctx.gradient(_flat(x), _flat(gradient), _flat(out))
        return out


class _LayerNorm(PyLayer):
    @staticmethod
    def forward(
        ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, epsilon: float
    ) -> paddle.Tensor:
        ctx.wanted, ctx.epsilon, x = _wanted(x, weight, bias), epsilon, x.contiguous()
        ctx.save_for_backward(x, weight)
        return F.layer_norm(x, x.shape[-1:], weight, bias, epsilon)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        x, weight = ctx.saved_tensor()
        gradient = gradient.contiguous()
        found = [paddle.empty(shape, x.dtype) for shape in (x.shape, weight.shape, weight.shape)]
        to_x, to_weight, to_bias = found
        kernels.layer_norm_gradient(
            _rows(x), _rows(gradient), _array(weight), ctx.epsilon,
            _rows(to_x), _array(to_weight), _array(to_bias),
        )  # fmt: skip
        return tuple(tensor if wanted else None for tensor, wanted in zip(found, ctx.wanted))


class _Patches(PyLayer):
    @staticmethod
    def forward(ctx: Any, images: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
        count, channels, *size = images.shape
        ctx.sizes = count, channels, size[0] // height, height, size[1] // width, width
        tokens = ctx.sizes[2] * ctx.sizes[4]
        out = paddle.empty([count, tokens, channels * height * width], images.dtype)
        kernels.cut_patches(_array(images.contiguous()), height, width, _rows(out))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        count, channels, down, height, across, width = ctx.sizes
        apart = gradient.reshape([count, down, across, channels, height, width])
        together = apart.transpose([0, 3, 1, 4, 2, 5])
        return together.reshape([count, channels, down * height, across * width])


def _wanted(*tensors: paddle.Tensor) -> List[bool]:
    return [not tensor.stop_gradient for tensor in tensors]


# ------------------------------------------------ a tensor's memory as an array


def _array(tensor: paddle.Tensor) -> np.ndarray:
    """Returns an array over the memory of a contiguous tensor, which must outlive it."""
    shape: Tuple[int, ...] = tuple(tensor.shape)
    dtype = _DTYPES[tensor.dtype]
    memory = (ctypes.c_char * (tensor.size * dtype.itemsize)).from_address(tensor.data_ptr())
    return np.ndarray(shape, dtype, memory)


def _flat(tensor: paddle.Tensor) -> np.ndarray:
    return _array(tensor).reshape(-1)


def _rows(tensor: paddle.Tensor) -> np.ndarray:
    return _array(tensor).reshape(-1, tensor.shape[-1])
