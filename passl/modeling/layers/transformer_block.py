"""The block of a plain transformer."""

from __future__ import annotations

from typing import Optional

from paddle import nn

from passl.modeling.layers.attention import Attention
from passl.modeling.layers.dense import LayerNorm
from passl.modeling.layers.drop_path import DropPath
from passl.modeling.layers.mlp import Mlp


class TransformerBlock(nn.Layer):
    """Attention, then an MLP, each after a norm and with a residual ("pre-norm").

    Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929, equations 2 and 3.

    Args:
        channels: C.
        heads: of the attention.
        hidden: width of the MLP.
        drop_path: of both residual branches.
        qkv_bias: whether the map to queries, keys and values has a bias.
        epsilon: of the norms.
        gelu_approximate: the tanh form of GELU.
        dropout: probability after the attention's projection and after each map of the MLP.
        attention_dropout: probability of zeroing an attention weight.
        act: a layer that stands in the MLP in GELU's place.

    Shape:
        input and output: ``[N, S, C]``; ``bias``, where one is given: as of ``attend``.
    """

    recompute = True  # as one piece, where activations are to be computed twice

    def __init__(
        self,
        channels: int,
        heads: int,
        hidden: int,
        drop_path: DropPath,
        qkv_bias: bool = True,
        epsilon: float = 1e-6,
        gelu_approximate: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        act: Optional[nn.Layer] = None,
    ):
        super().__init__()
        self.norm1 = LayerNorm(channels, epsilon)
        self.attn = Attention(channels, heads, qkv_bias, dropout, attention_dropout)
        self.norm2 = LayerNorm(channels, epsilon)
        self.mlp = Mlp(channels, hidden, gelu_approximate, dropout, act=act)
        self.drop_path = drop_path

    def forward(self, x, bias=None):
        x = x + self.drop_path(self.attn(self.norm1(x), bias))
        return x + self.drop_path(self.mlp(self.norm2(x)))
