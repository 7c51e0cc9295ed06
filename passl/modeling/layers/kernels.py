"""What a processor computes between the matrix products of a step, as compiled loops over arrays.

PaddlePaddle's own kernels for a processor do the same in several passes over memory. These go once
over it, in one thread and in one order: the same input gives the same bits, however many threads
there are. Values that are not finite come out as such.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from passl.utils.compiled import compiled

# Products and sums may be one instruction; nothing else may change the order of the arithmetic.
_EXACT = {"error_model": "numpy", "fastmath": {"contract"}}
# Sums may be made in vectors of partial sums.
_SUMS = {"error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}
_ROWS = 64  # that are added up by themselves, so that a long sum in float32 stays exact

_TILE = 16  # rows and columns, so that a tile's cache lines are all used while they are there

_f = np.float32
# Indices without a sign: numba asks of others whether they count from the end, in every turn of a
# loop, which then is not made in vectors.
_u = np.uint64
_ZERO, _HALF, _ONE, _TWO = _f(0), _f(0.5), _f(1), _f(2)

# exp(r) for |r| <= ln(2) / 2 as a polynomial, by its powers from 0; relative error 2e-9. Fitted, as
# the one below, by iterated weighted least squares for the least largest relative error.
_E0, _E1, _E2, _E3, _E4, _E5, _E6 = (
    _f(value)
    for value in (
        1.000000000555051,
        1.0000000363723287,
        0.49999992070994037,
        0.16666419936203605,
        0.04166822635298133,
        0.008374836170914609,
        0.0013836873791732542,
    )  # fmt: skip
)
_LOG2_E = _f(math.log2(math.e))
# ln(2) in two parts: a whole number times the first one is exact.
_LN2_HIGH = _f(0.693359375)
_LN2_LOW = _f(math.log(2) - 0.693359375)
_ROUNDS = _f(1.5 * 2**23)  # added and taken away again, it leaves a whole number
_LOWEST = _f(-87)  # below, exp is taken to be 0

# The upper tail of the normal distribution over exp(-x² / 2), in powers of t = 1 / (1 + P x) from
# 1, for x >= 0: the form of Abramowitz and Stegun, 26.2.17, of higher degree; relative error 6e-9.
_P = _f(0.245)
_T1, _T2, _T3, _T4, _T5, _T6, _T7, _T8, _T9, _T10 = (
    _f(value)
    for value in (
        0.09774626383805968,
        0.09765072820632306,
        0.09242746269006429,
        0.0790310864065237,
        0.05978354237399434,
        0.07337776386298293,
        -0.05465726895525862,
        0.12793554977448496,
        -0.09476550661683827,
        0.021470381289011006,
    )  # fmt: skip
)
_DENSITY = _f(1 / math.sqrt(2 * math.pi))

# GELU's approximation by tanh: x · sigmoid(2 · sqrt(2 / pi) · (x + 0.044715 x³)).
_TANH_1 = _f(2 * math.sqrt(2 / math.pi))
_TANH_3 = _f(2 * math.sqrt(2 / math.pi) * 0.044715)
_TANH_3_SLOPE = _f(3 * 2 * math.sqrt(2 / math.pi) * 0.044715)


@numba.njit(inline="always")
def _exp(x):
    """exp of a float32 that is not above 0."""
    clipped = x if x > _LOWEST else _LOWEST
    power = (clipped * _LOG2_E + _ROUNDS) - _ROUNDS
    r = (clipped - power * _LN2_HIGH) - power * _LN2_LOW
    value = _E6
    value = value * r + _E5
    value = value * r + _E4
    value = value * r + _E3
    value = value * r + _E2
    value = value * r + _E1
    value = value * r + _E0
    # Two to that power, by writing it into the exponent of a float32.
    scale = np.int32((np.int32(power) + np.int32(127)) << np.int32(23)).view(np.float32)
    return value * scale if x > _LOWEST else _ZERO


@numba.njit(inline="always")
def _normal_cdf(x, bell):
    """The normal distribution function at a float32, given exp(-x² / 2)."""
    t = _ONE / (_ONE + _P * abs(x))
    tail = _T10
    tail = tail * t + _T9
    tail = tail * t + _T8
    tail = tail * t + _T7
    tail = tail * t + _T6
    tail = tail * t + _T5
    tail = tail * t + _T4
    tail = tail * t + _T3
    tail = tail * t + _T2
    tail = tail * t + _T1
    tail = tail * t * bell
    return tail if x < _ZERO else _ONE - tail


@compiled(**_EXACT)
def gelu(x, out):
    """GELU, x Φ(x) (Hendrycks and Gimpel, arXiv 1606.08415), of float32 ``[n]``, into ``out``."""
    for i in range(x.shape[0]):
        value = x[i]
        out[i] = value * _normal_cdf(value, _exp(-_HALF * value * value))


@compiled(**_EXACT)
def gelu_gradient(x, gradient, out):
    """The gradient of ``gelu`` at ``x``, given that of its output; all float32 ``[n]``."""
    for i in range(x.shape[0]):
        value = x[i]
        bell = _exp(-_HALF * value * value)
        out[i] = gradient[i] * (_normal_cdf(value, bell) + value * bell * _DENSITY)


@numba.njit(inline="always")
def _sigmoid(x):
    """The logistic function σ and its derivative, σ (1 - σ) without the loss of digits near 1."""
    small = _exp(-abs(x))
    inverse = _ONE / (_ONE + small)
    return (_ONE if x > _ZERO else small) * inverse, small * inverse * inverse


@compiled(**_EXACT)
def gelu_tanh(x, out):
    """GELU's approximation by tanh (section 2 there), of float32 ``[n]``, into ``out``."""
    for i in range(x.shape[0]):
        value = x[i]
        share, _ = _sigmoid(value * (_TANH_1 + _TANH_3 * value * value))
        out[i] = value * share


@compiled(**_EXACT)
def gelu_tanh_gradient(x, gradient, out):
    """The gradient of ``gelu_tanh`` at ``x``, given that of its output; all float32 ``[n]``."""
    for i in range(x.shape[0]):
        value = x[i]
        share, steepness = _sigmoid(value * (_TANH_1 + _TANH_3 * value * value))
        slope = _TANH_1 + _TANH_3_SLOPE * value * value
        out[i] = gradient[i] * (share + value * slope * steepness)


@compiled(**_EXACT)
def add_row(matrix, row):
    """Adds ``[C]`` to each row of ``[R, C]``, in place."""
    for i in range(matrix.shape[0]):
        for j in range(matrix.shape[1]):
            matrix[i, j] += row[j]


@compiled(**_EXACT)
def column_sums(matrix, out):
    """The sums of the columns of ``[R, C]``, into ``out``, ``[C]``."""
    out[:] = 0
    block = np.empty_like(out)
    for begin in range(0, matrix.shape[0], _ROWS):
        block[:] = 0
        for i in range(begin, min(begin + _ROWS, matrix.shape[0])):
            for j in range(matrix.shape[1]):
                block[j] += matrix[i, j]
        for j in range(matrix.shape[1]):
            out[j] += block[j]


@compiled(**_SUMS)
def layer_norm_gradient(x, gradient, weight, epsilon, to_x, to_weight, to_bias):
    """The gradients of a layer normalisation of the rows of ``x``, given that of its output.

    Ba, Kiros and Hinton, arXiv 1607.06450, equation 4 differentiated. With x̂ the normalised row and
    v = gradient · weight: ``to_x`` = (v - mean(v) - x̂ mean(v x̂)) / σ.

    Args:
        x, gradient, to_x: ``[R, C]``.
        weight, to_weight, to_bias: ``[C]``.
        epsilon: added to the variance.
    """
    rows, columns = x.shape
    to_weight[:] = 0
    to_bias[:] = 0
    weight_block, bias_block = np.empty_like(weight), np.empty_like(weight)
    share = weight.dtype.type(1 / columns)
    for begin in range(0, rows, _ROWS):
        weight_block[:] = 0
        bias_block[:] = 0
        for i in range(begin, min(begin + _ROWS, rows)):
            row, slope, out = x[i], gradient[i], to_x[i]
            mean = weight.dtype.type(0)
            for j in range(columns):
                mean += row[j]
            mean *= share
            variance = weight.dtype.type(0)
            for j in range(columns):
                variance += (row[j] - mean) * (row[j] - mean)
            inverse = weight.dtype.type(1 / math.sqrt(variance * share + epsilon))
            total, product = weight.dtype.type(0), weight.dtype.type(0)
            for j in range(columns):
                scaled = slope[j] * weight[j]
                total += scaled
                product += scaled * (row[j] - mean)
            total *= share
            product *= share * inverse * inverse
            for j in range(columns):
                centred = row[j] - mean
                out[j] = (slope[j] * weight[j] - total - centred * product) * inverse
                weight_block[j] += slope[j] * centred * inverse
                bias_block[j] += slope[j]
        for j in range(columns):
            to_weight[j] += weight_block[j]
            to_bias[j] += bias_block[j]


@compiled(**_EXACT)
def scale(x, weight, out):
    """The channels of ``[N, P, C]`` times ``[N, C]``, into ``out``, ``[N, P, C]``."""
    for n in range(x.shape[0]):
        for p in range(x.shape[1]):
            for c in range(x.shape[2]):
                out[n, p, c] = x[n, p, c] * weight[n, c]


@compiled(**_EXACT)
def add_scaled(x, weight, out):
    """As ``scale``, added to what is in ``out``."""
    for n in range(x.shape[0]):
        for p in range(x.shape[1]):
            for c in range(x.shape[2]):
                out[n, p, c] += x[n, p, c] * weight[n, c]


@compiled(**_EXACT)
def scale_gradient(x, gradient, weight, to_x, to_weight):
    """The gradients of ``scale`` by ``x`` and ``weight``, given that of its output."""
    to_weight[:] = 0
    block = np.empty_like(weight[0])
    for n in range(x.shape[0]):
        for begin in range(0, x.shape[1], _ROWS):
            block[:] = 0
            for p in range(begin, min(begin + _ROWS, x.shape[1])):
                for c in range(x.shape[2]):
                    to_x[n, p, c] = gradient[n, p, c] * weight[n, c]
                    block[c] += gradient[n, p, c] * x[n, p, c]
            for c in range(x.shape[2]):
                to_weight[n, c] += block[c]


@compiled(**_EXACT)
def transpose(x, out):
    """``[N, R, C]`` into ``out``, ``[N, C, R]``, tile by tile."""
    for n in range(x.shape[0]):
        for begin in range(0, x.shape[1], _TILE):
            for left in range(0, x.shape[2], _TILE):
                for c in range(left, min(left + _TILE, x.shape[2])):
                    for r in range(begin, min(begin + _TILE, x.shape[1])):
                        out[n, c, r] = x[n, r, c]


@compiled(**_EXACT)
def swap_axes(x, out):
    """``[A, B, M, C, I]`` into ``out``, ``[A, C, M, B, I]``."""
    for a in range(x.shape[0]):
        for c in range(x.shape[3]):
            for m in range(x.shape[2]):
                for b in range(x.shape[1]):
                    for i in range(x.shape[4]):
                        out[a, c, m, b, i] = x[a, b, m, c, i]


@compiled(**_EXACT)
def heads_apart(x, part, out):
    """One part of ``[N, S, P, H, D]`` into ``out``, ``[N, H, S, D]``."""
    for n in range(out.shape[0]):
        for h in range(out.shape[1]):
            for s in range(out.shape[2]):
                for i in range(out.shape[3]):
                    out[n, h, s, i] = x[n, s, part, h, i]


@compiled(**_EXACT)
def heads_together(x, part, out):
    """``[N, H, S, D]`` into one part of ``out``, ``[N, S, P, H, D]``."""
    for n in range(x.shape[0]):
        for s in range(x.shape[2]):
            for h in range(x.shape[1]):
                for i in range(x.shape[3]):
                    out[n, s, part, h, i] = x[n, h, s, i]


@compiled(**_EXACT)
def shift_channels(x, offsets, out):
    """Channel c of ``out`` at place p is that of ``x`` at p + offsets[c], or 0 beyond the edge.

    Args:
        x, out: ``[A, P, M, C]``, shifted along P.
        offsets: int64 ``[C]``.
    """
    places = x.shape[1]
    for a in range(x.shape[0]):
        for p in range(places):
            for m in range(x.shape[2]):
                for c in range(x.shape[3]):
                    source = p + offsets[c]
                    inside = 0 <= source < places
                    out[a, p, m, c] = x[a, source, m, c] if inside else 0


@compiled(**_EXACT)
def windows(image, size, stride, padding, places, out):
    """What the windows of a convolution see of an image, zeros beyond its edges: "im2col".

    Args:
        image: ``[C, H, W]``.
        size, stride, padding: pairs, along height and width.
        places: how many windows there are along height and width, H' and W'.
        out: ``[C · h · w, H' · W']``.
    """
    channels, height, width = image.shape
    down, across = places
    pixels, columns, to = image.reshape(-1), out.reshape(-1), 0
    for c in range(channels):
        for i in range(size[0]):
            for j in range(size[1]):
                begin, end = _inside(j - padding[1], stride[1], across, width)
                first = j - padding[1] + begin * stride[1]
                for y in range(down):
                    source = y * stride[0] + i - padding[0]
                    if 0 <= source < height:
                        for x in range(begin):
                            columns[_u(to + x)] = 0
                        at, start = _u(to + begin), _u((c * height + source) * width + first)
                        if stride[1] == 1:
                            for x in range(_u(end - begin)):
                                columns[at + x] = pixels[start + x]
                        else:
                            for x in range(_u(end - begin)):
                                columns[at + x] = pixels[start + x * _u(stride[1])]
                        for x in range(end, across):
                            columns[_u(to + x)] = 0
                    else:
                        for x in range(_u(across)):
                            columns[_u(to) + x] = 0
                    to += across


@compiled(**_EXACT)
def add_windows(columns, size, stride, padding, places, out):
    """Adds what is in ``windows``' rows to where it comes from: the transpose of that map.

    Args:
        columns: ``[C · h · w, H' · W']``, as ``windows`` fills it.
        size, stride, padding, places: see there.
        out: ``[C, H, W]``, added to.
    """
    channels, height, width = out.shape
    down, across = places
    pixels, values, at = out.reshape(-1), columns.reshape(-1), 0
    for c in range(channels):
        for i in range(size[0]):
            for j in range(size[1]):
                begin, end = _inside(j - padding[1], stride[1], across, width)
                first = j - padding[1] + begin * stride[1]
                for y in range(down):
                    target = y * stride[0] + i - padding[0]
                    if 0 <= target < height:
                        source, to = _u(at + begin), _u((c * height + target) * width + first)
                        if stride[1] == 1:
                            for x in range(_u(end - begin)):
                                pixels[to + x] += values[source + x]
                        else:
                            for x in range(_u(end - begin)):
                                pixels[to + x * _u(stride[1])] += values[source + x]
                    at += across


@numba.njit(inline="always")
def _inside(first, stride, across, width):
    """From where to where the places lie at which ``first + place * stride`` is in the image."""
    begin = min(across, max(0, -(first // stride)))
    return begin, max(begin, min(across, (width - 1 - first) // stride + 1))


@compiled(**_EXACT)
def depthwise(x, weight, out):
    """A convolution of each channel by itself, zeros beyond the edges.

    Args:
        x, out: ``[N, H, W, C]``.
        weight: ``[h, w, C]``, h and w odd.
    """
    height, width = x.shape[1:3]
    up, left = weight.shape[0] // 2, weight.shape[1] // 2
    for n in range(x.shape[0]):
        for y in range(height):
            for z in range(width):
                to = out[n, y, z]
                to[:] = 0
                for i in range(max(0, up - y), min(weight.shape[0], height + up - y)):
                    for j in range(max(0, left - z), min(weight.shape[1], width + left - z)):
                        source, factor = x[n, y + i - up, z + j - left], weight[i, j]
                        for c in range(to.shape[0]):
                            to[c] += source[c] * factor[c]


@compiled(**_EXACT)
def depthwise_weight_gradient(x, gradient, to_weight):
    """The gradient of ``depthwise`` by its weight, given that of its output.

    Args:
        x, gradient: ``[N, H, W, C]``.
        to_weight: ``[h, w, C]``.
    """
    height, width = x.shape[1:3]
    up, left = to_weight.shape[0] // 2, to_weight.shape[1] // 2
    block = np.empty_like(to_weight)
    to_weight[:] = 0
    for n in range(x.shape[0]):
        for y in range(height):
            block[:] = 0
            for z in range(width):
                slope = gradient[n, y, z]
                for i in range(max(0, up - y), min(block.shape[0], height + up - y)):
                    for j in range(max(0, left - z), min(block.shape[1], width + left - z)):
                        source, sums = x[n, y + i - up, z + j - left], block[i, j]
                        for c in range(slope.shape[0]):
                            sums[c] += source[c] * slope[c]
            for i in range(block.shape[0]):
                for j in range(block.shape[1]):
                    for c in range(block.shape[2]):
                        to_weight[i, j, c] += block[i, j, c]


@compiled(**_EXACT)
def cut_patches(images, height, width, out):
    """Non-overlapping patches of ``[N, C, H, W]`` in raster order, into ``[N · S, C · h · w]``."""
    count, channels = images.shape[:2]
    down, across = images.shape[2] // height, images.shape[3] // width
    row = 0
    for n in range(count):
        for y in range(down):
            for x in range(across):
                at = 0
                for c in range(channels):
                    for i in range(height):
                        line = images[n, c, y * height + i]
                        for j in range(width):
                            out[row, at + j] = line[x * width + j]
                        at += width
                row += 1
