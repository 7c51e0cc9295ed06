"""Attention, once for all networks.

Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, equation 1 and section 3.2.2.

Legend for shapes: N images, H heads, S tokens that ask (queries), T tokens that answer (keys and
values), d the width of a head, C = H·d channels of a token.
"""

from __future__ import annotations

import contextlib
from typing import Callable, Iterator, List, Optional

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl.modeling.layers import functional
from passl.modeling.layers.checks import check_drop_rate
from passl.modeling.layers.dense import Linear
from passl.utils.errors import PasslError
from passl.utils.widened import widened

_watch: Optional[Callable[[paddle.Tensor, paddle.Tensor], None]] = None


@contextlib.contextmanager
def watched_attention(watch: Callable[[paddle.Tensor, paddle.Tensor], None]) -> Iterator[None]:
    """Calls ``watch(queries, attention weights)`` at each attention of whatever runs inside."""
    global _watch
    before, _watch = _watch, watch
    try:
        yield
    finally:
        _watch = before


def attend(
    q: paddle.Tensor,
    k: paddle.Tensor,
    v: paddle.Tensor,
    scale: float,
    bias: Optional[paddle.Tensor] = None,
    dropout: float = 0.0,
) -> paddle.Tensor:
    """Returns ``softmax(scale · q · kᵀ + bias) · v``.

    Args:
        q: ``[N, H, S, d]``; more axes before H are taken as N is.
        k, v: ``[N, H, T, d]``.
        scale: usually ``d ** -0.5``.
        bias: added before the softmax, of a shape that is broadcast to ``[N, H, S, T]``: relative
            positions, masks. Where its dtype is wider, the sum has it; the softmax is of float32 at
            least.
        dropout: probability of zeroing an attention weight; 0 outside of training.

    Returns:
        ``[N, H, S, d]``, of the dtype of ``v``.
    """
    if bias is None and dropout == 0.0 and _watch is None and _has_fused_kernel(q):
        return _fused(q, k, v, scale)
    return _by_formula(q, k, v, scale, bias, dropout)


def _by_formula(
    q: paddle.Tensor,
    k: paddle.Tensor,
    v: paddle.Tensor,
    scale: float,
    bias: Optional[paddle.Tensor],
    dropout: float = 0.0,
) -> paddle.Tensor:
    scores = paddle.matmul(q * scale, k, transpose_y=True)
    if bias is not None:
        scores = scores.astype(bias.dtype) + bias
    weights = F.softmax(widened(scores), axis=-1)
    if _watch is not None:
        _watch(q, weights)
    if dropout:
        weights = F.dropout(weights, dropout)
    return paddle.matmul(weights.astype(v.dtype), v)


def _fused(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, scale: float) -> paddle.Tensor:
    """The same by Paddle's operation, whose tensors are ``[N, S, H, d]``.

    Its scale is always ``d ** -0.5``; PaddlePaddle 2.6 has no argument for another one.
    """
    q = q * (scale * q.shape[-1] ** 0.5)
    q, k, v = (tensor.transpose([0, 2, 1, 3]) for tensor in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose([0, 2, 1, 3])


def _has_fused_kernel(q: paddle.Tensor) -> bool:
    """Tells whether Paddle's flash attention takes such queries: A100 and later, 16 bits."""
    if "16" not in str(q.dtype) or q.shape[-1] % 8 or q.shape[-1] > 256:
        return False
    if not paddle.in_dynamic_mode() or not q.place.is_gpu_place():
        return False
    return paddle.device.cuda.get_device_capability() >= (8, 0)


def split_heads(x: paddle.Tensor, heads: int, parts: int = 1) -> List[paddle.Tensor]:
    """Returns parts of the channels, each with its heads apart.

    Args:
        x: ``[N, S, parts · C]``: queries, keys and values of one linear map, say.
        heads: H.
        parts: how many lie side by side.

    Returns:
        ``parts`` tensors ``[N, H, S, d]``.
    """
    if functional.runs_kernels(x):
        return list(functional.heads_apart(x, heads, parts))
    tokens, width = x.shape[1], x.shape[2] // (parts * heads)
    x = x.reshape([-1, tokens, parts, heads, width]).transpose([2, 0, 3, 1, 4])
    return list(x.unbind(0))


def join_heads(x: paddle.Tensor) -> paddle.Tensor:
    """Returns ``[N, H, S, d]`` as ``[N, S, C]``."""
    _, heads, tokens, width = x.shape
    return functional.swap_axes(x, 1, 2).reshape([-1, tokens, heads * width])


class Attention(nn.Layer):
    """Multi-head self-attention with one linear map for queries, keys and values, in this order.

    Args:
        channels: C; a multiple of ``heads``.
        heads: H.
        qkv_bias: whether that map has a bias.
        dropout: probability of zeroing an element after the projection.
        attention_dropout: probability of zeroing an attention weight.

    Shape:
        input and output: ``[N, S, C]``; ``bias``, where one is given: as of ``attend``.

    Raises:
        PasslError: heads that do not divide the channels.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ):
        super().__init__()
        check_heads(channels, heads)
        check_drop_rate(attention_dropout)
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.qkv = Linear(channels, 3 * channels, bias_attr=None if qkv_bias else False)
        self.proj = Linear(channels, channels)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.attention_dropout = attention_dropout

    def forward(self, x, bias=None):
        q, k, v = split_heads(self.qkv(x), self.heads, 3)
        dropout = self.attention_dropout if self.training else 0.0
        return self.drop(self.proj(join_heads(attend(q, k, v, self.scale, bias, dropout))))


def check_heads(channels: int, heads: int) -> None:
    """Raises a PasslError where channels are not shared out evenly to heads."""
    if heads < 1 or channels % heads:
        raise PasslError(f"{heads} attention heads do not divide {channels} channels")
