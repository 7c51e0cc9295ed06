"""Weight initialisers that the papers use and Paddle lacks."""

from __future__ import annotations

import math

import paddle
from paddle import nn

# The standard deviation of a unit normal truncated at ±2, and the mass within ±2.
_TRUNCATED_STD = 0.87962566103423978
_TRUNCATED_MASS = math.erf(math.sqrt(2.0))


def lecun_normal_(parameter, fan_in: int) -> None:
    """Fills with a normal of variance 1 / fan_in, truncated at two standard deviations.

    The truncated distribution is rescaled so that its variance, not that of the normal it was
    cut from, is 1 / fan_in: the default of Flax's Dense and Conv layers, which MLP-Mixer was
    trained with (LeCun et al., "Efficient BackProp", section 4.6).
    """
    truncated_normal_(parameter, std=math.sqrt(1.0 / fan_in) / _TRUNCATED_STD)


def truncated_normal_(parameter, std: float) -> None:
    """Fills with a normal of mean 0 that is cut at two of its standard deviations.

    What is left has a standard deviation of 0.88 times ``std``: Haiku's ``TruncatedNormal``.
    """
    # By the inverse distribution function: Paddle's own TruncatedNormal cuts at two standard
    # deviations in 2.6 and at fixed values in 3.x.
    uniform = paddle.uniform(
        parameter.shape, dtype="float32", min=-_TRUNCATED_MASS, max=_TRUNCATED_MASS
    )
    parameter.set_value((paddle.erfinv(uniform) * (math.sqrt(2.0) * std)).astype(parameter.dtype))


def normal_(parameter, std: float) -> None:
    """Fills with a normal of mean 0.

    Also what timm's and torch's ``trunc_normal_(std=0.02)`` draw: they cut at ±2, a hundred
    standard deviations away.
    """
    nn.initializer.Normal(0.0, std)(parameter)


def torch_default_(layer: nn.Layer) -> None:
    """Fills a convolution or a linear map as torch does where nothing is said.

    Weight and bias are uniform within ±1 / √fan_in (He et al.'s uniform initialisation with a
    leak of √5, which cancels its factor).
    """
    shape = layer.weight.shape  # of a linear map, the inputs come first here
    bound = 1.0 / math.sqrt(shape[0] if len(shape) == 2 else math.prod(shape[1:]))
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            nn.initializer.Uniform(-bound, bound)(parameter)


def zeros_(parameter) -> None:
    """Fills with zeros."""
    nn.initializer.Constant(0.0)(parameter)


def ones_(parameter) -> None:
    """Fills with ones."""
    nn.initializer.Constant(1.0)(parameter)


def uniform_(parameter, bound: float) -> None:
    """Fills evenly between ``-bound`` and ``bound``."""
    nn.initializer.Uniform(-bound, bound)(parameter)
